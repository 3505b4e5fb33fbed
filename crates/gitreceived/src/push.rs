//! One push, from the command to the exit status.

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    process::Stdio,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf, server::Msg};
use rustix::process::Signal;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::UnixListener,
    process::Child,
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    conversation::Conversation,
    disk::{Disk, FREE_MIN},
    domain::{command::RepoName, reach::Reach},
    git::{self, Git, Group},
    hook::{ANSWERS_VARIABLE, SOCKET_VARIABLE, STAYS},
    hosting::{Held, Hosting, Target},
    repos::Copy,
    run_dir::RunDir,
};

/// Most bytes one push may send.
const INPUT_LEN_MAX: u64 = 2 << 30;
/// Messages of the client that wait for git.
const QUEUE: usize = 32;
/// git reads what it is sent at once; for longer than this it only stops when something is wrong.
const STALL_TIMEOUT: Duration = Duration::from_secs(120);
/// A client that reads has room for a line by then; one that does not is told no more.
const SAY_TIMEOUT: Duration = Duration::from_secs(2);
/// git has this long to move the refs of a push that was taken and whose client has gone.
const MOVE_TIMEOUT: Duration = Duration::from_secs(60);
/// What a pusher is told while the server stops.
pub(crate) const RESTARTING: &str = "This server is restarting. Push again in a moment.";
/// What a pusher is told whose git or ours ended before the push was there, and has said why in its own words.
const UNASKED: &str = "git ended before this push could be judged, for the reason above. Nothing was changed. If the reason is none that \
     you can mend, push again; if it ends the same way, tell the person who runs this server.";
/// Exit status of a push that did not get as far as git.
const FAILED: u32 = 1;

/// Everything pushes need.
#[derive(Debug)]
pub(crate) struct Pushes {
    pub(crate) hosting: Hosting,
    pub(crate) git: Git,
    /// The disk of the copies, where they are only that.
    pub(crate) disk: Option<Disk>,
    /// Directory with our hooks, and of sockets.
    pub(crate) run_dir: RunDir,
    /// The program the hooks are.
    pub(crate) hook: PathBuf,
    pub(crate) receiver: Vec<String>,
    pub(crate) receiver_env: BTreeMap<String, String>,
    pub(crate) timeout: Duration,
    /// Longest time a client may send nothing before all of its push has arrived, or read nothing. After it the push is given
    /// up.
    pub(crate) idle_timeout: Duration,
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
    /// The apps its key opens.
    pub(crate) reach: Reach,
}

/// The client's end.
struct Client(ChannelWriteHalf<Msg>);

impl Client {
    /// Shows a line on the pusher's terminal.
    async fn say(&self, line: &str) {
        let said = self.0.extended_data_bytes(1, Bytes::from(format!("{line}\n")));
        let _ = timeout(SAY_TIMEOUT, said).await;
    }
}

impl Pushes {
    /// Serves a push over a channel until it has ended, whichever way; once it is `over`, it has to.
    pub(crate) async fn serve(
        &self,
        request: Request,
        channel: Channel<Msg>,
        over: &CancellationToken,
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
            () = over.cancelled() => {
                client.say(RESTARTING).await;
                abort.cancel();
                push.await
            }
        };
        let parting = async {
            let _ = client.0.exit_status(status).await;
            let _ = client.0.eof().await;
            let _ = client.0.close().await;
        };
        let _ = timeout(SAY_TIMEOUT, parting).await;
    }

    async fn push(
        &self,
        request: &Request,
        input: mpsc::Receiver<Bytes>,
        client: &Client,
        abort: &CancellationToken,
    ) -> u32 {
        let prepared = tokio::select! {
            prepared = self.prepare(request) => prepared,
            () = abort.cancelled() => return FAILED,
        };
        let (target, copy) = match prepared {
            Ok(prepared) => prepared,
            Err(why) => {
                client.say(&why).await;
                return FAILED;
            }
        };
        let received = self.receive(request, &target, &copy, input, client, abort).await;
        // Whatever was broken off has left something, and its git has ended.
        copy.tidy().await;
        let (status, held) = match received {
            Ok(received) => received,
            Err(err) => {
                client
                    .say(&format!("git could not be run: {err}. Nothing was changed; push again."))
                    .await;
                (FAILED, None)
            }
        };
        if let Some(held) = held {
            held.end().await;
        }
        copy.take_back().await;
        status
    }

    /// Finds what is pushed to and brings it up to date; or the sentence that says why not.
    async fn prepare(&self, request: &Request) -> Result<(Target, Copy), String> {
        let target = self.hosting.find(&request.repo, &request.reach).await?;
        if let Some(disk) = &self.disk {
            let room = disk.make_room(INPUT_LEN_MAX, FREE_MIN).await;
            room.map_err(|err| format!("Not now: {err}. Push again in a minute."))?;
        }
        let copy = self.hosting.prepare(&target).await?;
        copy.tidy().await;
        Ok((target, copy))
    }

    /// Runs git between the client and the hook; its exit status, and the right to push if it was taken.
    async fn receive(
        &self,
        request: &Request,
        target: &Target,
        copy: &Copy,
        input: mpsc::Receiver<Bytes>,
        client: &Client,
        abort: &CancellationToken,
    ) -> io::Result<(u32, Option<Held>)> {
        self.run_dir.check(&self.hook)?;
        let (listener, socket) = tempfile::Builder::new()
            .make_in(self.run_dir.path(), |path| UnixListener::bind(path))?
            .into_parts();
        let mut command = self.git.receive_pack(&copy.path, self.run_dir.path(), INPUT_LEN_MAX);
        command.env(SOCKET_VARIABLE, &socket).env(ANSWERS_VARIABLE, STAYS).stdin(Stdio::piped());
        let mut child = git::spawn(&mut command)?;
        let group = Group::of(&child);
        let (over, asked) = (CancellationToken::new(), CancellationToken::new());
        let (decided, taken) = (CancellationToken::new(), AtomicBool::new(false));
        let (shallow, incoming) = (AtomicBool::new(false), OnceLock::new());
        let is_moving = AtomicBool::new(false);
        let conversation = Conversation {
            pushes: self,
            request,
            target,
            copy,
            asked: &asked,
            decided: &decided,
            taken: &taken,
            abort,
            shallow: &shallow,
            incoming: &incoming,
            seen: OnceLock::new(),
            deployed: OnceLock::new(),
            pack: OnceLock::new(),
            is_moving: &is_moving,
        };
        let answering = conversation.hold(listener, &over);
        let idle_timeout = self.idle_timeout;
        let feed = Feed { asked: &asked, abort, idle_timeout, client, shallow: &shallow };
        let running = talk(&mut child, input, client, feed, &over);
        let work = async { tokio::join!(running, answering) };
        let ending = async {
            tokio::select! {
                () = abort.cancelled() => {}
                () = sleep(self.timeout) => {
                    client.say(&format!("The push took longer than {:?} and was given up.", self.timeout)).await;
                    abort.cancel();
                }
            }
            if asked.is_cancelled() {
                // A push that was accepted is finished even if its client has gone: the commit is deployed already, and
                // the refs must point to it.
                decided.cancelled().await;
                // One that was refused is told why.
                let is_taken = taken.load(Ordering::SeqCst);
                sleep(if is_taken { MOVE_TIMEOUT } else { SAY_TIMEOUT }).await;
            }
            group.signal(Signal::KILL);
            std::future::pending().await
        };
        let (status, held) = tokio::select! {
            ended = work => ended,
            never = ending => never,
        };
        let is_unasked = !asked.is_cancelled() && !abort.is_cancelled();
        let is_taken = taken.load(Ordering::SeqCst);
        let unmoved = self.note_end(&conversation, &status, is_unasked, is_taken).await;
        say_end(client, &status, is_unasked, unmoved).await;
        Ok((status?, held))
    }

    /// Notes what became of a push for the next one. What has come about of one that was taken and whose refs did not move.
    async fn note_end(
        &self,
        conversation: &Conversation<'_>,
        status: &io::Result<u32>,
        is_unasked: bool,
        is_taken: bool,
    ) -> Option<String> {
        if let Some(incoming) = conversation.incoming.get() {
            // git that was killed has left it.
            let _ = tokio::fs::remove_dir_all(incoming).await;
        }
        // git may end before it asks for leave, for what it was to move is gone; its status may be 0 then.
        let is_moved = conversation.is_moving.load(Ordering::SeqCst) && matches!(status, Ok(0));
        if let (true, Some(pack)) = (is_moved, conversation.pack.get()) {
            conversation.copy.note_imported(pack).await;
        }
        if is_unasked && matches!(status, Ok(1..)) && self.disk.is_some() {
            conversation.copy.doubt().await;
        }
        (is_taken && !is_moved).then(|| conversation.unmoved())
    }
}

/// Says what nobody has said of how git ended.
async fn say_end(
    client: &Client,
    status: &io::Result<u32>,
    is_unasked: bool,
    unmoved: Option<String>,
) {
    if is_unasked && matches!(status, Ok(1..)) {
        client.say(UNASKED).await;
    }
    if let Some(unmoved) = unmoved {
        client.say("The push was taken, but git ended before it had moved the branches.").await;
        client.say(if unmoved.is_empty() { "Push again." } else { &unmoved }).await;
    }
}

/// Carries everything between git and the client until git has ended, which is then `over`; its exit status.
async fn talk(
    child: &mut Child,
    input: mpsc::Receiver<Bytes>,
    client: &Client,
    feed: Feed<'_>,
    over: &CancellationToken,
) -> io::Result<u32> {
    let _over = over.clone().drop_guard();
    let piped = || io::Error::from(io::ErrorKind::BrokenPipe);
    let stdin = child.stdin.take().ok_or_else(piped)?;
    let stdout = child.stdout.take().ok_or_else(piped)?;
    let stderr = child.stderr.take().ok_or_else(piped)?;
    let (abort, patience) = (feed.abort, feed.idle_timeout);
    let said = async {
        let ended = async {
            let status = child.wait().await;
            over.cancel();
            status
        };
        let (status, (), ()) = tokio::join!(
            ended,
            carry(stdout, client.0.make_writer(), abort, patience),
            carry(stderr, client.0.make_writer_ext(Some(1)), abort, patience),
        );
        status
    };
    let fed = async {
        feed.run(stdin, input).await;
        std::future::pending().await
    };
    let status = tokio::select! {
        status = said => status?,
        never = fed => never,
    };
    Ok(status.code().and_then(|code| u32::try_from(code).ok()).unwrap_or(FAILED))
}

/// What a client sends, on its way to git.
struct Feed<'a> {
    asked: &'a CancellationToken,
    abort: &'a CancellationToken,
    idle_timeout: Duration,
    client: &'a Client,
    /// Whether it comes from a shallow clone.
    shallow: &'a AtomicBool,
}

impl Feed<'_> {
    async fn run(&self, mut stdin: tokio::process::ChildStdin, mut input: mpsc::Receiver<Bytes>) {
        let mut is_first = true;
        while let Some(chunk) = self.next(&mut input).await {
            // A shallow clone says so before anything else: in a pkt-line, after its four digits of length.
            if std::mem::take(&mut is_first) && chunk.get(4..12) == Some(b"shallow ") {
                self.shallow.store(true, Ordering::Relaxed);
            }
            match timeout(STALL_TIMEOUT, stdin.write_all(&chunk)).await {
                Ok(Ok(())) => {}
                // git has read all it wants; what comes still is dropped, so that the client's end is seen.
                Ok(Err(_)) => while input.recv().await.is_some() {},
                Err(_) => self.abort.cancel(),
            }
        }
    }

    /// The next that the client sends. When the hook has asked, it has sent all and may be silent.
    async fn next(&self, input: &mut mpsc::Receiver<Bytes>) -> Option<Bytes> {
        tokio::select! {
            chunk = input.recv() => return chunk,
            () = sleep(self.idle_timeout) => {}
        }
        if !self.asked.is_cancelled() {
            let line =
                format!("Nothing was sent for {:?}; the push was given up.", self.idle_timeout);
            self.client.say(&line).await;
            self.abort.cancel();
        }
        input.recv().await
    }
}

/// Copies until the source ends. If the client reads nothing for the time of `patience`, or after the push was given up, the
/// rest is dropped: otherwise git would wait for the client, and every other push for git.
async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl tokio::io::AsyncWrite + Unpin,
    abort: &CancellationToken,
    patience: Duration,
) {
    let mut buffer = vec![0; 32 << 10];
    let mut heard = true;
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if !heard {
            continue;
        }
        let deaf = async {
            if timeout(patience, abort.cancelled()).await.is_err() {
                abort.cancel();
            }
            sleep(SAY_TIMEOUT).await;
        };
        let said =
            async { to.write_all(&buffer[..read]).await.is_ok() && to.flush().await.is_ok() };
        heard = tokio::select! {
            heard = said => heard,
            () = deaf => false,
        };
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
