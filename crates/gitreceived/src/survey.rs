//! Looking through the tree of a commit before anything is made of it.

use std::path::Path;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

use crate::{
    domain::tree::{self, Survey},
    git::{self, Git, GitError, Group, STDERR_LEN_MAX, drain},
    pack::{PackError, Quarantine, TREE_LEN_MAX},
};

/// Most files and folders a tree may have: a few objects can name billions.
const ENTRIES_MAX: u64 = 500_000;
/// Longest line of git's listing: a path may have 4096 bytes.
const LINE_LEN_MAX: u64 = 16 << 10;

/// What the tree of a commit holds, if it is within what is taken.
pub(crate) async fn survey(
    git: &Git,
    repo: &Path,
    quarantine: &Quarantine,
    commit: &str,
) -> Result<Survey, PackError> {
    let what = "ls-tree";
    let io = |source| PackError::Io { what, source };
    let mut command = git.command(repo, &[what, "-r", "-t", "-l", "-z", "--full-tree", commit]);
    command.envs(quarantine);
    let mut child = git::spawn(&mut command).map_err(io)?;
    let _group = Group::of(&child);
    let stdout = child.stdout.take().ok_or_else(|| io(std::io::ErrorKind::BrokenPipe.into()))?;
    let complaints = drain(child.stderr.take(), STDERR_LEN_MAX);
    let counted = async {
        let (mut survey, mut lines) = (Survey::default(), BufReader::new(stdout));
        loop {
            let mut line = Vec::new();
            (&mut lines).take(LINE_LEN_MAX).read_until(0, &mut line).await.map_err(io)?;
            let Some(line) = line.strip_suffix(&[0]) else { return Ok(survey) };
            survey.add(line);
            if survey.entries > ENTRIES_MAX {
                return Err(PackError::TooMany { limit: ENTRIES_MAX });
            }
            if survey.tar_len > TREE_LEN_MAX {
                return Err(PackError::TooLarge { what: "archive", limit: TREE_LEN_MAX });
            }
        }
    };
    let (survey, stderr) = tokio::try_join!(counted, async { Ok(complaints.await) })?;
    let status = child.wait().await.map_err(io)?;
    if status.success() { Ok(survey) } else { Err(GitError::failed(what, status, &stderr).into()) }
}

/// What the pusher is to be told of a tree.
pub(crate) async fn remarks(
    git: &Git,
    repo: &Path,
    quarantine: &Quarantine,
    survey: &Survey,
) -> Result<Vec<String>, GitError> {
    let mut pointers = Vec::new();
    if !survey.candidates.is_empty() {
        let ids = survey.candidates.iter().map(|candidate| format!("{}\n", candidate.id));
        let mut command = git.command(repo, &["cat-file", "--batch"]);
        command.envs(quarantine);
        let ids: String = ids.collect();
        let batch = git::output("cat-file", &mut command, Some(ids.as_bytes())).await?;
        pointers = tree::pointers(&survey.candidates, &batch);
    }
    Ok(tree::remarks(&survey.submodules, &pointers))
}
