//! The daemon's side of the hook: judges the push, keeps its objects, has it deployed.

use std::{io, path::Path, time::Duration};

use api::{controller::Repository, id::AppId};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream, unix::OwnedWriteHalf},
    process::Command,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    domain::update::{UPDATES_LEN_MAX, Update, judge},
    hook::{END, QUARANTINE, Question},
    pack::{self, PACKS_MAX, PackError, Quarantine},
    push::{Pushes, Request},
    receiver::{self, Ended},
    survey,
};

/// The hook asks at once.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(30);
/// A question is the list of refs in JSON.
const QUESTION_LEN_MAX: u32 = 2 * UPDATES_LEN_MAX as u32;

/// One push, as its hook's questions need it.
pub(crate) struct Conversation<'a> {
    pub(crate) pushes: &'a Pushes,
    pub(crate) request: &'a Request,
    pub(crate) app: AppId,
    pub(crate) repo: &'a Path,
    pub(crate) repository: &'a Repository,
}

/// Why the objects of a push could not be kept.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error(transparent)]
    Pack(#[from] PackError),
    #[error(transparent)]
    Git(#[from] crate::git::GitError),
    #[error("the pack could not be stored: {0}")]
    Shelf(#[from] shelf_client::Error),
    #[error("shelf stored something else than was sent")]
    Damaged,
}

impl Conversation<'_> {
    /// Waits for the hook and answers it; `over` says that there will be none. Returns when the receiver it started, if
    /// any, has ended.
    pub(crate) async fn hold(
        &self,
        listener: UnixListener,
        over: &CancellationToken,
        abort: &CancellationToken,
    ) {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = over.cancelled() => return,
        };
        let Ok((stream, _)) = accepted else { return };
        let (stream, question) = match question(stream).await {
            Ok(asked) => asked,
            Err(err) => {
                warn!(error = %err, "a hook could not be understood");
                return;
            }
        };
        let (mut from_hook, to_hook) = stream.into_split();
        let mut out = Frames(to_hook);
        let status = {
            let answer = self.answer(question, &mut out, abort);
            tokio::pin!(answer);
            tokio::select! {
                status = &mut answer => status,
                // The hook says nothing more: it has ended, and git with it.
                _ = from_hook.read_u8() => {
                    abort.cancel();
                    answer.await
                }
            }
        };
        let _ = out.end(status).await;
    }

    async fn answer(&self, question: Question, out: &mut Frames, abort: &CancellationToken) -> u8 {
        let deploying = self.deploy(question, out, abort);
        match deploying.await {
            Ok(()) => 0,
            Err(why) => {
                if !why.is_empty() {
                    let _ = out.write_all(format!("{why}\n").as_bytes()).await;
                }
                1
            }
        }
    }

    /// Takes the push through all its steps, or says why not. An empty reason: it has been said.
    async fn deploy(
        &self,
        question: Question,
        out: &mut Frames,
        abort: &CancellationToken,
    ) -> Result<(), String> {
        let update = judge(&question.updates).map_err(|refusal| refusal.to_string())?;
        let quarantine: Quarantine = question
            .quarantine
            .into_iter()
            .filter(|(name, path)| {
                QUARANTINE.contains(&name.as_str()) && Path::new(path).starts_with(self.repo)
            })
            .collect();
        let nothing_changed = |why: String| format!("{why} Nothing was changed; push again.");
        let prepared = async {
            let git = &self.pushes.git;
            let survey = survey::survey(git, self.repo, &quarantine, &update.new).await?;
            let remarks = survey::remarks(git, self.repo, &quarantine, &survey).await?;
            let packs = self.keep(&quarantine, &update).await?;
            let tree = pack::tree(git, self.repo, &quarantine, &update.new).await?;
            Ok::<_, KeepError>((packs, tree, remarks))
        };
        let (packs, tree, remarks) = tokio::select! {
            prepared = prepared => prepared.map_err(|err| {
                warn!(error = &err as &dyn std::error::Error, "a push to {} could not be kept", self.request.repo);
                nothing_changed(format!("The push could not be stored: {err}."))
            })?,
            () = abort.cancelled() => return Err(String::new()),
        };
        for remark in remarks {
            let _ = out.write_all(format!(" !     {remark}\n").as_bytes()).await;
        }
        let command = self.receiver(&update.new, update.old.as_deref(), &packs);
        let file = tree.reopen().map_err(|err| nothing_changed(format!("{err}.")))?;
        let program = &self.pushes.receiver[0];
        match receiver::run(command, file, out, abort).await {
            Ok(Ended::Exited(status)) if status.success() => {
                info!(app.name = %self.request.repo, "{} was pushed to {}", update.new, self.request.repo);
                Ok(())
            }
            Ok(Ended::Exited(status)) if status.code().is_some() => Err(String::new()),
            Ok(Ended::Exited(status)) => Err(format!(
                "{program} ended with {status}. Push again; `flynn ps` shows what runs."
            )),
            Ok(Ended::Stopped) => Err(String::new()),
            Err(err) => Err(nothing_changed(format!("{program} could not be run: {err}."))),
        }
    }

    /// Brings the push's objects to shelf; the paths of all packs the repository then has.
    async fn keep(
        &self,
        quarantine: &Quarantine,
        update: &Update,
    ) -> Result<Vec<String>, KeepError> {
        let mut packs = self.repository.packs.clone();
        let whole = packs.len() >= PACKS_MAX;
        let git = &self.pushes.git;
        if let Some(pack) = pack::pack(git, self.repo, quarantine, update, whole).await? {
            let path = format!("/repos/{}/{}.pack", self.app, pack.sha256);
            if self.pushes.shelf.put_file(&path, pack.file.path()).await? != pack.sha256 {
                return Err(KeepError::Damaged);
            }
            if whole {
                packs.clear();
            }
            if !packs.contains(&path) {
                packs.push(path);
            }
        }
        Ok(packs)
    }

    /// The receiver with the environment it is promised, and nothing else.
    fn receiver(&self, commit: &str, old: Option<&str>, packs: &[String]) -> Command {
        let [program, args @ ..] = &self.pushes.receiver[..] else {
            unreachable!("the configuration has at least one word")
        };
        let Request { repo, pusher } = self.request;
        let mut command = Command::new(program);
        command
            .args(args)
            .args([repo.as_str(), commit])
            .env_clear()
            .envs(&self.pushes.receiver_env)
            .env("RECEIVE_USER", &pusher.user)
            .env("RECEIVE_REPO", repo.as_str())
            .env("RECEIVE_FINGERPRINT", &pusher.fingerprint)
            .env("FLYNN_HEAD_OLD", old.unwrap_or_default())
            .env("FLYNN_PACKS", packs.join(","));
        command
    }
}

async fn question(mut stream: UnixStream) -> io::Result<(UnixStream, Question)> {
    let reading = async {
        let len = stream.read_u32().await?;
        if len > QUESTION_LEN_MAX {
            return Err(io::Error::other("the question is too long"));
        }
        let mut bytes = vec![0; len as usize];
        stream.read_exact(&mut bytes).await?;
        serde_json::from_slice(&bytes).map_err(io::Error::other)
    };
    let question = timeout(QUESTION_TIMEOUT, reading).await.map_err(io::Error::other)??;
    Ok((stream, question))
}

/// Output for the hook: every write is a frame.
pub(crate) struct Frames(OwnedWriteHalf);

impl Frames {
    async fn end(mut self, status: u8) -> io::Result<()> {
        self.0.write_all(&[&END.to_be_bytes()[..], &[status]].concat()).await
    }

    pub(crate) async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let len = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        self.0.write_all(&[&len.to_be_bytes(), bytes].concat()).await
    }
}
