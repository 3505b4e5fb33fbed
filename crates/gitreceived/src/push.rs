//! One push, from the command to the exit status.

use std::{collections::BTreeMap, io, process::Stdio, time::Duration};

use api::controller::{App, META_SYSTEM_APP, Repository};
use bytes::Bytes;
use controller_client::Controller;
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf, server::Msg};
use rustix::process::Signal;
use shelf_client::Shelf;
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::UnixListener,
    process::Child,
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    conversation::Conversation,
    domain::command::RepoName,
    git::{self, Git, Group},
    hook::SOCKET_VARIABLE,
    lease::Lease,
    repos::{Copy, Repos},
};

/// Most bytes one push may send.
const INPUT_LEN_MAX: u64 = 2 << 30;
/// Messages of the client that wait for git.
const QUEUE: usize = 32;
/// git reads what it is sent at once; for longer than this it only stops when something is wrong.
const STALL_TIMEOUT: Duration = Duration::from_secs(120);
/// Pushes under way when the server stops have this long to end by themselves.
const STOP_GRACE: Duration = Duration::from_secs(8);
/// Exit status of a push that did not get as far as git.
const FAILED: u32 = 1;

/// Everything pushes need.
#[derive(Debug)]
pub(crate) struct Pushes {
    pub(crate) controller: Controller,
    pub(crate) shelf: Shelf,
    pub(crate) git: Git,
    pub(crate) repos: Repos,
    /// Directory with our one hook, and of sockets.
    pub(crate) run_dir: TempDir,
    pub(crate) receiver: Vec<String>,
    pub(crate) receiver_env: BTreeMap<String, String>,
    pub(crate) timeout: Duration,
}

/// Who pushes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pusher {
    pub(crate) user: String,
    pub(crate) fingerprint: String,
}

/// A push that is wanted.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) repo: RepoName,
    pub(crate) pusher: Pusher,
}

/// The client's end.
struct Client(ChannelWriteHalf<Msg>);

impl Client {
    /// Shows a line on the pusher's terminal.
    async fn say(&self, line: &str) {
        let _ = self.0.extended_data_bytes(1, Bytes::from(format!("{line}\n"))).await;
    }
}

impl Pushes {
    /// Serves a push over a channel until it has ended, whichever way.
    pub(crate) async fn serve(
        &self,
        request: Request,
        channel: Channel<Msg>,
        stop: &CancellationToken,
    ) {
        let (reader, writer) = channel.split();
        let client = Client(writer);
        let abort = CancellationToken::new();
        let (input, queue) = mpsc::channel(QUEUE);
        let gone = pump(reader, input);
        let push = self.push(&request, queue, &client, &abort);
        tokio::pin!(push);
        let status = tokio::select! {
            status = &mut push => status,
            () = gone => {
                info!(app.name = %request.repo, "the client of a push to {} went away", request.repo);
                abort.cancel();
                push.await
            }
            () = async { stop.cancelled().await; sleep(STOP_GRACE).await } => {
                client.say("This server is restarting. Push again in a moment.").await;
                abort.cancel();
                push.await
            }
        };
        let _ = client.0.exit_status(status).await;
        let _ = client.0.eof().await;
        let _ = client.0.close().await;
    }

    async fn push(
        &self,
        request: &Request,
        input: mpsc::Receiver<Bytes>,
        client: &Client,
        abort: &CancellationToken,
    ) -> u32 {
        let name = &request.repo;
        let prepared = tokio::select! {
            prepared = self.prepare(name, client) => prepared,
            () = abort.cancelled() => return FAILED,
        };
        let (app, lease) = match prepared {
            Ok(prepared) => prepared,
            Err(why) => {
                client.say(&why).await;
                return FAILED;
            }
        };
        let received = async {
            let (repository, copy) = tokio::select! {
                restored = self.restore(&app) => restored?,
                () = abort.cancelled() => return Ok(FAILED),
            };
            self.receive(request, &app, &repository, &copy, input, client, abort)
                .await
                .map_err(|err| format!("git could not be run: {err}. Nothing was changed."))
        };
        tokio::pin!(received);
        let status = tokio::select! {
            status = &mut received => status,
            () = lease.keep() => {
                abort.cancel();
                let _ = received.await;
                Err(format!("Another push to {name} took over. Push again."))
            }
        };
        lease.end().await;
        match status {
            Ok(status) => status,
            Err(why) => {
                client.say(&why).await;
                FAILED
            }
        }
    }

    /// Finds the app and takes its lease; or the sentence that says why not.
    async fn prepare(&self, name: &RepoName, client: &Client) -> Result<(App, Lease), String> {
        let app = self.controller.app(name.as_str()).await.map_err(|err| {
            if err.is_not_found() {
                format!("There is no app {name}. To create it: flynn create {name}")
            } else {
                warn!(error = &err as &dyn std::error::Error, "app {name} could not be looked up");
                format!("The controller could not be asked about {name}. Push again in a minute.")
            }
        })?;
        if app.meta.get(META_SYSTEM_APP).is_some_and(|system| system == "true") {
            return Err(format!(
                "{name} is a part of Flynn itself and is not deployed by git push."
            ));
        }
        let busy = async || {
            client
                .say(&format!(
                    "Another push to {name} is under way; waiting for it (a minute at most)..."
                ))
                .await;
        };
        let lease = Lease::take(&self.controller, name.as_str(), busy).await;
        let lease = lease.map_err(|err| err.to_string())?;
        Ok((app, lease))
    }

    /// Brings the local copy to where the controller says the repository is.
    async fn restore(&self, app: &App) -> Result<(Repository, Copy), String> {
        let failed = |err: &(dyn std::error::Error + 'static)| {
            warn!(
                error = err,
                app.name = app.name,
                "the repository of {} could not be restored",
                app.name
            );
            format!(
                "The repository of {} could not be fetched: {err}. Nothing was changed; push again in a minute.",
                app.name
            )
        };
        let repository = self.controller.repository(&app.name).await.map_err(|err| failed(&err))?;
        let copy = self.repos.prepare(app.id, &repository).await.map_err(|err| failed(&err))?;
        Ok((repository, copy))
    }

    /// Runs git between the client and the hook.
    #[expect(clippy::too_many_arguments, reason = "what a push consists of")]
    async fn receive(
        &self,
        request: &Request,
        app: &App,
        repository: &Repository,
        copy: &Copy,
        input: mpsc::Receiver<Bytes>,
        client: &Client,
        abort: &CancellationToken,
    ) -> io::Result<u32> {
        let (listener, socket) = tempfile::Builder::new()
            .make_in(self.run_dir.path(), |path| UnixListener::bind(path))?
            .into_parts();
        let mut command = self.git.receive_pack(&copy.path, self.run_dir.path(), INPUT_LEN_MAX);
        command.env(SOCKET_VARIABLE, &socket).stdin(Stdio::piped());
        let mut child = git::spawn(&mut command)?;
        let group = Group::of(&child);
        let over = CancellationToken::new();
        let conversation =
            Conversation { pushes: self, request, app: app.id, repo: &copy.path, repository };
        let answering = conversation.hold(listener, &over, abort);
        let running = async {
            let status = talk(&mut child, input, client, abort).await;
            over.cancel();
            status
        };
        let work = async { tokio::join!(running, answering).0 };
        let limits = async {
            tokio::select! {
                () = abort.cancelled() => {}
                () = sleep(self.timeout) => {
                    client.say(&format!("The push took longer than {:?} and was given up.", self.timeout)).await;
                    abort.cancel();
                }
            }
            group.signal(Signal::KILL);
            std::future::pending().await
        };
        tokio::select! {
            status = work => status,
            never = limits => never,
        }
    }
}

/// Carries everything between git and the client until git has ended; its exit status.
async fn talk(
    child: &mut Child,
    input: mpsc::Receiver<Bytes>,
    client: &Client,
    abort: &CancellationToken,
) -> io::Result<u32> {
    let piped = || io::Error::from(io::ErrorKind::BrokenPipe);
    let stdin = child.stdin.take().ok_or_else(piped)?;
    let stdout = child.stdout.take().ok_or_else(piped)?;
    let stderr = child.stderr.take().ok_or_else(piped)?;
    let said = async {
        tokio::join!(
            carry(stdout, client.0.make_writer()),
            carry(stderr, client.0.make_writer_ext(Some(1))),
        );
        child.wait().await
    };
    let fed = async {
        feed(stdin, input, abort).await;
        std::future::pending().await
    };
    let status = tokio::select! {
        status = said => status?,
        never = fed => never,
    };
    Ok(status.code().and_then(|code| u32::try_from(code).ok()).unwrap_or(FAILED))
}

async fn feed(
    mut stdin: tokio::process::ChildStdin,
    mut input: mpsc::Receiver<Bytes>,
    abort: &CancellationToken,
) {
    while let Some(chunk) = input.recv().await {
        match timeout(STALL_TIMEOUT, stdin.write_all(&chunk)).await {
            Ok(Ok(())) => {}
            // git has read all it wants; what comes still is dropped, so that the client's end is seen.
            Ok(Err(_)) => while input.recv().await.is_some() {},
            Err(_) => abort.cancel(),
        }
    }
}

/// Copies until the source ends. A client that takes nothing more does not keep git from writing.
async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl tokio::io::AsyncWrite + Unpin) {
    let mut buffer = vec![0; 32 << 10];
    let mut heard = true;
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        heard = heard && to.write_all(&buffer[..read]).await.is_ok() && to.flush().await.is_ok();
    }
}

/// Takes in what the client sends; returns when the client is gone.
async fn pump(mut reader: ChannelReadHalf, input: mpsc::Sender<Bytes>) {
    let mut input = Some(input);
    while let Some(message) = reader.wait().await {
        match message {
            ChannelMsg::Data { data } => {
                if let Some(input) = &input {
                    let _ = input.send(data).await;
                }
            }
            ChannelMsg::Eof => input = None,
            ChannelMsg::Close => return,
            _ => {}
        }
    }
}
