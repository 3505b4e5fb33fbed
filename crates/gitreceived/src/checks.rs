//! Whether git can set the refs of a push: asked before anything of it is stored or deployed.

use std::{fs, path::Path, sync::atomic::Ordering};

use api::controller::Repository;

use crate::{
    aliases::damaged,
    conversation::{Conversation, meanwhile},
    domain::{
        rules::{Forbidden, InUse, Rules},
        told::shown,
        update::{Change, Plan},
    },
    git::{self, Complaint, GitError},
    hook::QUARANTINE_PATH,
    pack::Quarantine,
};

/// What the pusher of a clone is told whose history does not reach to what is here.
const SHALLOW: &str = "Your clone is shallow: it lacks history that was never pushed here. Get it with `git fetch --unshallow` and push \
     again (in a CI checkout: fetch-depth 0).";

impl Conversation<'_> {
    /// A push with the commits its branches will be at: what is pushed to one may be a tag. Or why it cannot be.
    pub(crate) async fn peeled(
        &self,
        mut plan: Plan,
        quarantine: &Quarantine,
    ) -> Result<Plan, String> {
        let Plan { deploy, deploy_too, kept, no_commits } = &mut plan;
        let is_tag = |change: &&Change| change.name.starts_with("refs/tags/");
        let tags: Vec<Change> = kept.iter().filter(is_tag).cloned().collect();
        let tags = tags.iter().filter_map(|change| Some((&change.name, change.new.as_ref()?)));
        let changes = deploy.iter_mut().chain(deploy_too).chain(kept);
        let branches = changes.filter(|change| change.name.starts_with("refs/heads/"));
        let mut pushed: Vec<(&str, &mut String)> = branches
            .filter_map(|Change { name, new, .. }| Some((&**name, new.as_mut()?)))
            .collect();
        // The object itself, for the other answer is the same if it is not there.
        let mut asked: String =
            pushed.iter().map(|(_, id)| format!("{id}\n{id}^{{commit}}\n")).collect();
        asked.extend(tags.clone().map(|(_, id)| format!("{id}^{{commit}}\n")));
        if asked.is_empty() {
            return Ok(plan);
        }
        let args = ["cat-file", "--batch-check=%(objectname) %(objecttype)"];
        let mut command = self.pushes.git.command(&self.copy.path, &args);
        command.envs(quarantine);
        let said = git::output("cat-file", &mut command, Some(asked.as_bytes())).await;
        let said = said.map_err(|err| {
            format!(
                "What was pushed could not be looked at: {err}. Nothing was changed; push again."
            )
        })?;
        let said = String::from_utf8_lossy(&said);
        let mut lines = said.lines();
        for (name, id) in &mut pushed {
            let (object, commit) = (lines.next(), lines.next());
            match commit.and_then(|line| line.strip_suffix(" commit")) {
                Some(commit) => **id = commit.to_owned(),
                None if object.is_none_or(|line| line.ends_with(" missing")) => {
                    return Err(format!(
                        "Cannot update '{}': git does not find {id} here, though it was pushed. Nothing was changed; push again, and \
                         if that does not help, tell the person who runs this server.",
                        shown(name)
                    ));
                }
                None => {
                    return Err(format!(
                        "Cannot update '{}': {id} is no commit, and a branch is at nothing else. Nothing was changed.",
                        shown(name)
                    ));
                }
            }
        }
        let is_none = |line: Option<&str>| !line.is_some_and(|line| line.ends_with(" commit"));
        no_commits.extend(tags.filter(|_| is_none(lines.next())).map(|(name, _)| name.clone()));
        Ok(plan)
    }

    /// Whether the refs of a push can be set in the repository as it is now; or why not.
    pub(crate) fn check(&self, plan: &Plan, repository: &Repository) -> Result<(), String> {
        let left_out = &self.copy.left_out;
        // What no copy can have stands in nobody's way.
        let is_there = |name: &str| left_out.get(name) != repository.refs.get(name);
        let at = |name: &str| repository.refs.get(name).filter(|_| is_there(name));
        let moved = |change: &&Change| change.old.as_ref() != at(&change.name);
        if let Some(change) = plan.kept.iter().find(moved) {
            return Err(meanwhile(&change.name));
        }
        let there = repository.refs.keys().filter(|name| is_there(name));
        let there = there.chain(self.target.branches.names()).cloned().collect();
        plan.fits(there).map_err(|refusal| refusal.to_string())
    }

    /// Whether the settings of an operator's own repository let a push happen; or why not.
    pub(crate) async fn check_settings(
        &self,
        plan: &Plan,
        repository: &Repository,
        quarantine: &Quarantine,
    ) -> Result<Result<(), String>, GitError> {
        // A copy has none but ours.
        if self.pushes.hosting.keeps_packs() {
            return Ok(Ok(()));
        }
        let run = async |args: &[&str]| match self.git(args, quarantine).await {
            Ok(said) => Ok(String::from_utf8_lossy(&said).into_owned()),
            // Nothing is set, or HEAD is at no branch.
            Err(err) if err.is_no() => Ok(String::new()),
            Err(err) => Err(err),
        };
        let settings = [
            "config",
            "-z",
            "--get-regexp",
            "^(receive\\.deny|core\\.bare$|(receive|transfer)\\.hiderefs$)",
        ];
        let rules = Rules::read(&run(&settings).await?);
        let worktrees = run(&["worktree", "list", "--porcelain"]).await?;
        let head = match run(&["symbolic-ref", "--quiet", "HEAD"]).await {
            Err(GitError::Failed { .. }) => return Ok(Err(damaged("HEAD"))),
            head => head?,
        };
        let mut in_use = InUse::read(&worktrees, &head, &rules);
        in_use.checked_out.extend(rewritten(&self.copy.path));
        for change in plan.changes() {
            let checked = match rules.check(change, &in_use) {
                Ok(()) if rules.deny_non_fast_forwards => {
                    self.check_fast_forward(change, repository, quarantine).await?
                }
                checked => checked,
            };
            if let Err(forbidden) = checked {
                return Ok(Err(forbidden.to_string()));
            }
        }
        Ok(Ok(()))
    }

    /// Whether a branch would come after what it is at now.
    async fn check_fast_forward(
        &self,
        change: &Change,
        repository: &Repository,
        quarantine: &Quarantine,
    ) -> Result<Result<(), Forbidden>, GitError> {
        let at = repository.refs.get(&change.name);
        let at = at.filter(|_| change.name.starts_with("refs/heads/"));
        let (Some(at), Some(new)) = (at, &change.new) else { return Ok(Ok(())) };
        match self.git(&["merge-base", "--is-ancestor", at, new], quarantine).await {
            Ok(_) => Ok(Ok(())),
            Err(err) if err.is_no() => Ok(Err(Forbidden::NonFastForward(shown(&change.name)))),
            Err(err) => Err(err),
        }
    }

    /// Whether git can move all refs of a push: it takes the locks that it will need then, and lets go of them. Or why not.
    pub(crate) async fn check_move(
        &self,
        plan: &Plan,
        quarantine: &Quarantine,
    ) -> Result<(), String> {
        // With no hook but ours, as it will be.
        let args = ["-c", "core.hooksPath=/dev/null", "update-ref", "--stdin"];
        let mut command = self.pushes.git.command(&self.copy.path, &args);
        // git locks nothing where it knows that objects are not accepted yet.
        command.envs(quarantine.iter().filter(|(name, _)| *name != QUARANTINE_PATH));
        let orders = plan.rehearsal();
        let rehearsed = self.copy.rehearse(&mut command, orders.as_bytes()).await;
        let why = match rehearsed {
            Ok(_) => return Ok(()),
            Err(GitError::Failed { complaint, .. }) if complaint.lines().next().is_some() => {
                complaint.reason()
            }
            Err(err) => err.to_string(),
        };
        Err(format!(
            "git cannot move what this push names: {why}. Nothing was changed. Push again, other names if these are at fault; \
             if that does not help, tell the person who runs this server."
        ))
    }

    /// Whether a commit comes after what a branch that is deployed is at now: the pusher saw that, or it is among what is
    /// pushed.
    pub(crate) async fn follows(
        &self,
        commit: &str,
        change: &Change,
        repository: &Repository,
        quarantine: &Quarantine,
    ) -> bool {
        let at = match self.pushes.hosting.keeps_packs() {
            true => repository.head.as_ref(),
            // Each of the branches is what it is.
            false => repository.refs.get(&change.name),
        };
        let Some(at) = at.filter(|_| change.old.as_ref() != at) else { return true };
        self.git(&["merge-base", "--is-ancestor", at, commit], quarantine).await.is_ok()
    }

    /// Whether all the history of a push is here, asked as git does, which moves no ref without it; or why not.
    pub(crate) async fn check_history(
        &self,
        plan: &Plan,
        quarantine: &Quarantine,
    ) -> Result<(), String> {
        let new = plan.changes().filter_map(|change| change.new.as_deref());
        let asked: String = new.map(|id| format!("{id}\n")).collect();
        if asked.is_empty() {
            return Ok(());
        }
        let args = ["rev-list", "--objects", "--stdin", "--not", "--all", "--quiet"];
        let mut command = self.pushes.git.command(&self.copy.path, &args);
        command.envs(quarantine);
        let why = match git::output("rev-list", &mut command, Some(asked.as_bytes())).await {
            Ok(_) => return Ok(()),
            Err(GitError::Failed { complaint, .. }) => complaint,
            Err(err) => {
                return Err(format!(
                    "Whether all of this push is here could not be found out: {err}. Nothing was changed; push again."
                ));
            }
        };
        Err(match broken_ref(&why) {
            Some(name) => format!(
                "The repository here is damaged: {name} points to nothing that is there, so git would move no branch. Nothing was \
                 changed; whoever runs this server must mend or delete {name} first."
            ),
            None if self.shallow.load(Ordering::Relaxed) => SHALLOW.into(),
            None => format!("git misses objects of this push ({why}). Nothing was changed."),
        })
    }
}

/// The branches that somebody rebases or bisects, in a work tree that is then at no branch.
fn rewritten(repo: &Path) -> impl Iterator<Item = String> {
    let linked = fs::read_dir(repo.join("worktrees")).into_iter().flatten().flatten();
    let work_trees = linked.map(|entry| entry.path()).chain([repo.to_owned()]);
    work_trees.flat_map(|dir| {
        let read = |file| fs::read_to_string(dir.join(file)).map(|text| text.trim().to_owned());
        let bisected = read("BISECT_START").map(|name| format!("refs/heads/{name}"));
        [read("rebase-merge/head-name"), read("rebase-apply/head-name"), bisected]
            .into_iter()
            .flatten()
    })
}

/// The ref that git complains of.
fn broken_ref(complaint: &Complaint) -> Option<&str> {
    let name = complaint.lines().find_map(|line| line.split("bad object ").nth(1))?;
    let name = name.split(' ').next()?;
    name.starts_with("refs/").then_some(name)
}
