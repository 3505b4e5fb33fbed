//! The daemon's side of the hook: judges the push, keeps its objects, has it deployed.

use std::{
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use api::controller::{PacksChange, Repository};
use tokio::{
    io::AsyncReadExt,
    net::UnixListener,
    process::Command,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    disk,
    domain::{
        told::shown,
        update::{Plan, judge},
    },
    failure::{StepError, nothing_changed},
    frames::{Frames, question},
    git::GitError,
    guard,
    hook::{QUARANTINE, QUARANTINE_PATH, Question},
    hosting::{Held, Target},
    pack::{self, PACKS_MAX, Quarantine},
    push::{Pushes, Request},
    receiver::{self, Ended},
    repos::{Copy, Refs},
    survey,
};

/// A hook hears at once that the push is decided, unless git waits for a client that reads nothing.
const HEARING_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause after a hook that could not be answered.
const ACCEPT_DELAY: Duration = Duration::from_millis(50);

/// One push, as its hook's questions need it.
pub(crate) struct Conversation<'a> {
    pub(crate) pushes: &'a Pushes,
    pub(crate) request: &'a Request,
    pub(crate) target: &'a Target,
    pub(crate) copy: &'a Copy,
    /// Is cancelled when the hook has asked: all that the client sends has arrived.
    pub(crate) asked: &'a CancellationToken,
    /// Is cancelled when the hook's question is decided, whichever way.
    pub(crate) decided: &'a CancellationToken,
    /// Whether git may move the refs.
    pub(crate) taken: &'a AtomicBool,
    /// Ends the push.
    pub(crate) abort: &'a CancellationToken,
    /// Whether it comes from a shallow clone.
    pub(crate) shallow: &'a AtomicBool,
    /// Where git keeps its objects until it is taken.
    pub(crate) incoming: &'a OnceLock<PathBuf>,
    /// Where its refs were when it was judged, if somebody else may move them.
    pub(crate) seen: OnceLock<Refs>,
    /// What it has deployed.
    pub(crate) deployed: OnceLock<String>,
    /// The pack that all it brought was put into, in shelf.
    pub(crate) pack: OnceLock<String>,
    /// Whether git came as far as asking for leave to move the refs.
    pub(crate) is_moving: &'a AtomicBool,
}

impl Conversation<'_> {
    /// Waits for the hooks and answers them until `over` says that there will be no more. The right to push is then still
    /// held, if it was taken.
    pub(crate) async fn hold(
        &self,
        listener: UnixListener,
        over: &CancellationToken,
    ) -> Option<Held> {
        let held = self.hold_undecided(&listener, over).await;
        self.decided.cancel();
        while let Some(answered) = over.run_until_cancelled(self.let_move(&listener)).await {
            if let Err(err) = answered {
                warn!(error = %err, "the hook that moves refs could not be answered");
                sleep(ACCEPT_DELAY).await;
            }
        }
        held
    }

    async fn hold_undecided(
        &self,
        listener: &UnixListener,
        over: &CancellationToken,
    ) -> Option<Held> {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = over.cancelled() => return None,
        };
        let (stream, question) = match question(accepted.ok()?.0).await {
            Ok(asked) => asked,
            Err(err) => {
                warn!(error = %err, "a hook could not be understood");
                return None;
            }
        };
        self.asked.cancel();
        let (mut from_hook, to_hook) = stream.into_split();
        let mut out = Frames(to_hook);
        let mut held = None;
        let status = if question.is_moving {
            warn!("git did not find the hook that asks about a push");
            1
        } else {
            let answer = self.answer(question, &mut out, &mut held);
            tokio::pin!(answer);
            tokio::select! {
                status = &mut answer => status,
                // The hook says nothing more: it has ended, and git with it.
                _ = from_hook.read_u8() => {
                    self.abort.cancel();
                    answer.await
                }
                // git was killed, and its hook lives on: no ref can be moved.
                () = over.cancelled() => {
                    self.abort.cancel();
                    answer.await
                }
            }
        };
        self.taken.store(status == 0, Ordering::SeqCst);
        // Before the hook hears of it: it may wait for git, and git for a client that reads nothing.
        self.decided.cancel();
        let end = out.end(status);
        tokio::pin!(end);
        if timeout(HEARING_TIMEOUT, &mut end).await.is_err() {
            // What it still has to say is dropped then.
            self.abort.cancel();
            let _ = timeout(HEARING_TIMEOUT, end).await;
        }
        held
    }

    async fn answer(&self, question: Question, out: &mut Frames, held: &mut Option<Held>) -> u8 {
        match self.decide(question, out, held).await {
            Ok(()) => 0,
            Err(why) => {
                if !why.is_empty() {
                    out.say(&why).await;
                }
                1
            }
        }
    }

    /// Judges the push, and takes it through its steps with the right to it; or says why not. An empty reason: it has
    /// been said.
    async fn decide(
        &self,
        question: Question,
        out: &mut Frames,
        held: &mut Option<Held>,
    ) -> Result<(), String> {
        let plan = self.judge(&question.updates).await?;
        let quarantine = question.quarantine.into_iter();
        let quarantine: Quarantine =
            quarantine.filter(|(name, _)| QUARANTINE.contains(&name.as_str())).collect();
        let is_inside = |path: &&String| Path::new(path).starts_with(&self.copy.path);
        if let Some(outside) = quarantine.values().find(|path| !is_inside(path)) {
            return Err(format!(
                "git keeps what was pushed in {outside}, outside of this repository, where it is not looked for. Nothing was changed; \
                 tell the person who runs this server."
            ));
        }
        if let Some(dir) = quarantine.get(QUARANTINE_PATH) {
            let _ = self.incoming.set(dir.into());
        }
        let plan = self.peeled(plan, &quarantine).await?;
        let name = &self.target.name;
        let busy = async || {
            out.say(&format!(
                "Another push to {name} is under way; waiting for it (a minute at most)..."
            ))
            .await;
        };
        let taken = tokio::select! {
            taken = self.pushes.hosting.take(self.target, self.copy, busy) => taken?,
            () = self.abort.cancelled() => return Err(String::new()),
        };
        let right = held.insert(taken);
        let steps = async {
            self.unlock().await?;
            self.steps(&plan, &quarantine, out).await
        };
        tokio::pin!(steps);
        tokio::select! {
            done = &mut steps => done,
            () = right.keep() => {
                self.abort.cancel();
                let _ = steps.await;
                Err(format!("Another push to {name} took over. Push again."))
            }
        }
    }

    /// What a push wants, in the repository as it is; or why it cannot be.
    async fn judge(&self, updates: &str) -> Result<Plan, String> {
        let aliases = self.aliases(updates).await?;
        let branches = self.target.branches.with(&aliases);
        let plan = judge(updates, &branches).map_err(|refusal| refusal.to_string())?;
        let checked = plan.check_aliases(&aliases, &branches);
        checked.map(|()| plan).map_err(|refusal| refusal.to_string())
    }

    /// Removes locks of a git that was killed. With the right to push, for then none of ours moves refs of this copy.
    async fn unlock(&self) -> Result<(), String> {
        let left = tokio::select! {
            left = self.copy.unlock() => left,
            () = self.abort.cancelled() => return Err(String::new()),
        };
        match left.first() {
            None => Ok(()),
            Some(lock) => Err(format!(
                "{} is in the way of this push and cannot be removed. Nothing was changed.",
                lock.display()
            )),
        }
    }

    async fn steps(
        &self,
        plan: &Plan,
        quarantine: &Quarantine,
        out: &mut Frames,
    ) -> Result<(), String> {
        let preparing = self.prepare(plan, quarantine);
        let prepared = tokio::select! {
            prepared = preparing => prepared.map_err(|err| {
                let name = &self.request.repo;
                warn!(error = &err as &dyn std::error::Error, "a push to {name} could not be kept");
                err.told()
            })??,
            () = self.abort.cancelled() => return Err(String::new()),
        };
        match prepared {
            Prepared::Kept => {}
            Prepared::Deployed(commit) => {
                out.say(&format!("{commit} is what is deployed already.")).await;
            }
            Prepared::Deploy(deploy) => {
                for remark in &deploy.remarks {
                    out.say(&format!(" !     {remark}")).await;
                }
                self.deploy(&deploy, out).await?;
                let _ = self.deployed.set(deploy.commit);
                self.keep_refs(plan, out).await;
            }
        }
        // Not before: where the receiver fails, none of it has come about.
        for remark in plan.remarks(&self.target.branches) {
            out.say(&remark).await;
        }
        Ok(())
    }

    /// Everything up to the receiver; the inner error is a refusal.
    async fn prepare(
        &self,
        plan: &Plan,
        quarantine: &Quarantine,
    ) -> Result<Result<Prepared, String>, StepError> {
        let Pushes { git, hosting, .. } = self.pushes;
        let branch = plan.deploy.as_ref().map(|change| change.name.as_str());
        let repository = hosting.current(self.target, self.copy, branch).await?;
        if let Err(refusal) = self.check(plan, &repository) {
            return Ok(Err(refusal));
        }
        self.note_seen(plan, &repository);
        // First, for the others read it.
        if let Err(refusal) = self.check_history(plan, quarantine).await {
            return Ok(Err(refusal));
        }
        if let Err(refusal) = self.check_settings(plan, &repository, quarantine).await? {
            return Ok(Err(refusal));
        }
        if let Err(refusal) = self.check_move(plan, quarantine).await {
            return Ok(Err(refusal));
        }
        let Some(change) = &plan.deploy else {
            let packs = self.keep(plan, None, quarantine, &repository).await?;
            let packs = PacksChange { old: repository.packs.clone(), new: packs };
            hosting.keep_refs(self.target, &plan.kept, Some(packs)).await?;
            return Ok(Ok(Prepared::Kept));
        };
        // A plan to deploy has a commit.
        let commit = change.new.clone().unwrap_or_default();
        for other in &plan.deploy_too {
            if !self.follows(&commit, other, &repository, quarantine).await {
                return Ok(Err(meanwhile(&other.name)));
            }
        }
        if repository.head.as_deref() == Some(&commit) {
            let packs = self.keep(plan, None, quarantine, &repository).await?;
            let packs = PacksChange { old: repository.packs.clone(), new: packs };
            hosting.keep_refs(self.target, &plan.kept, Some(packs)).await?;
            return Ok(Ok(Prepared::Deployed(commit)));
        }
        if !self.follows(&commit, change, &repository, quarantine).await {
            return Ok(Err(meanwhile(&change.name)));
        }
        let survey = survey::survey(git, &self.copy.path, quarantine, &commit).await?;
        let remarks = survey::remarks(git, &self.copy.path, quarantine, &survey).await?;
        if let Some(disk) = &self.pushes.disk {
            // The tree, and the pack once more.
            let pack = match quarantine.get(QUARANTINE_PATH) {
                Some(dir) => disk::size(Path::new(dir)).await,
                None => 0,
            };
            let len = survey.tar_len + pack;
            disk.make_room(len, len).await?;
        }
        let packs = self.keep(plan, Some(&commit), quarantine, &repository).await?;
        let tree = pack::tree(git, &self.copy.path, quarantine, &commit).await?;
        Ok(Ok(Prepared::Deploy(Deploy { commit, old: repository, packs, tree, remarks })))
    }

    pub(crate) async fn git(
        &self,
        args: &[&str],
        quarantine: &Quarantine,
    ) -> Result<Vec<u8>, GitError> {
        let mut command = self.pushes.git.command(&self.copy.path, args);
        command.envs(quarantine);
        crate::git::output(args[0], &mut command, None).await
    }

    /// Keeps the push's objects where all find them; the paths of all packs the repository then has.
    async fn keep(
        &self,
        plan: &Plan,
        commit: Option<&str>,
        quarantine: &Quarantine,
        repository: &Repository,
    ) -> Result<Vec<String>, StepError> {
        let Pushes { git, hosting, .. } = self.pushes;
        let mut packs = repository.packs.clone();
        if !hosting.keeps_packs() {
            return Ok(packs);
        }
        let kept = plan.kept.iter().filter_map(|change| change.new.clone());
        let mut wanted: Vec<String> = kept.chain(commit.map(str::to_owned)).collect();
        if wanted.is_empty() {
            return Ok(packs);
        }
        // What other packs hold, as far as it is here.
        let known = repository.head.iter().chain(repository.refs.values());
        let mut known = self.present(known.map(String::as_str).collect()).await?;
        // All of it goes into one when there are many, unless another push brought here what this copy has not seen.
        let unseen =
            |id: &String| !known.contains(id) && !self.copy.left_out.values().any(|it| it == id);
        let whole = packs.len() >= PACKS_MAX
            && !repository.head.iter().chain(repository.refs.values()).any(unseen);
        if whole && commit.is_some() {
            known.retain(|id| repository.refs.values().any(|kept| kept == id));
        }
        if whole {
            wanted.append(&mut known);
        }
        let repo = &self.copy.path;
        if let Some(pack) = pack::pack(git, repo, quarantine, &wanted, &known).await?
            && let Some(path) = hosting.keep_pack(self.target, &pack).await?
        {
            if whole {
                packs.clear();
            }
            let _ = self.pack.set(path.clone());
            if !packs.contains(&path) {
                packs.push(path);
            }
        }
        Ok(packs)
    }

    /// Those of some objects that the local copy has.
    async fn present(&self, ids: Vec<&str>) -> Result<Vec<String>, GitError> {
        let asked: String = ids.iter().map(|id| format!("{id}\n")).collect();
        let args = ["cat-file", "--batch-check=%(objectname)"];
        let said = self.pushes.git.run_with(&self.copy.path, &args, Some(asked.as_bytes())).await?;
        let said = String::from_utf8_lossy(&said);
        Ok(said.lines().filter(|line| ids.contains(line)).map(str::to_owned).collect())
    }

    /// Runs the receiver to its end.
    async fn deploy(&self, deploy: &Deploy, out: &mut Frames) -> Result<(), String> {
        let command = self.receiver(deploy);
        let file = deploy.tree.reopen().map_err(|err| nothing_changed(&format!("{err}.")))?;
        let program = &self.pushes.receiver[0];
        match receiver::run(command, file, out, self.abort).await {
            Ok(Ended::Exited { status, .. }) if status.success() => {
                let (commit, name) = (&deploy.commit, &self.request.repo);
                info!(app.name = %name, "{commit} was pushed to {name}");
                Ok(())
            }
            // It has said why, presumably.
            Ok(Ended::Exited { status, has_spoken: true }) if status.code().is_some() => {
                Err(String::new())
            }
            Ok(Ended::Exited { status, .. }) => {
                let advice = match self.pushes.hosting.keeps_packs() {
                    true => "; `flynn ps` shows what runs",
                    false => "",
                };
                Err(format!("{program} ended with {status}. Push again{advice}."))
            }
            Ok(Ended::Stopped) => Err(String::new()),
            Err(err) => Err(nothing_changed(&format!("{program} could not be run: {err}."))),
        }
    }

    /// Keeps what was pushed along; that it cannot be is no failure of a deployment.
    async fn keep_refs(&self, plan: &Plan, out: &mut Frames) {
        let kept = self.pushes.hosting.keep_refs(self.target, &plan.kept, None).await;
        if let Err(err) = kept {
            warn!(
                error = &err as &dyn std::error::Error,
                "refs pushed to {} are not kept", self.request.repo
            );
            out.say(&format!("The other branches and tags were not kept: {err}. Push them again."))
                .await;
        }
    }

    /// The receiver with the environment it is promised, and nothing else.
    fn receiver(&self, deploy: &Deploy) -> Command {
        let [program, args @ ..] = &self.pushes.receiver[..] else {
            unreachable!("the configuration has at least one word")
        };
        let Request { repo, pusher, .. } = self.request;
        let mut command = guard::command(&self.pushes.hook, &self.copy.path, program);
        command
            .args(args)
            .args([repo.as_str(), &deploy.commit])
            .env_clear()
            .envs(&self.pushes.receiver_env)
            .env("RECEIVE_USER", &pusher.user)
            .env("RECEIVE_REPO", repo.as_str())
            .env("RECEIVE_FINGERPRINT", &pusher.fingerprint)
            .env("FLYNN_HEAD_OLD", deploy.old.head.as_deref().unwrap_or_default())
            .env("FLYNN_PACKS_OLD", deploy.old.packs.join(","))
            .env("FLYNN_PACKS", deploy.packs.join(","));
        command
    }
}

/// What a push comes to, before the receiver.
enum Prepared {
    /// There is nothing to deploy, and what there was is kept.
    Kept,
    /// It is deployed already.
    Deployed(String),
    Deploy(Deploy),
}

/// A commit that is to be deployed.
struct Deploy {
    commit: String,
    /// What the repository is now.
    old: Repository,
    packs: Vec<String>,
    tree: tempfile::NamedTempFile,
    remarks: Vec<String>,
}

pub(crate) fn meanwhile(name: &str) -> String {
    format!(
        "Another push moved {} meanwhile, and what it brought is not in yours. Nothing was changed; take it in, or push \
         again with --force.",
        shown(name)
    )
}
