//! Without a cluster: the repositories are the folder's, and nothing is kept anywhere else.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use api::controller::Repository;
use tokio::sync::OwnedMutexGuard;

use crate::{
    domain::command::RepoName,
    git::{Git, GitError},
    repos::{self, Copy, Uses},
};

/// Repositories of a folder.
#[derive(Debug)]
pub(crate) struct Alone {
    dir: PathBuf,
    git: Git,
    uses: Uses,
    turns: Mutex<HashMap<RepoName, Arc<tokio::sync::Mutex<()>>>>,
}

impl Alone {
    pub(crate) fn new(dir: PathBuf, git: Git, uses: Uses) -> Self {
        Self { dir, git, uses, turns: Mutex::default() }
    }

    /// The repository of a name, which its first push makes.
    pub(crate) async fn prepare(&self, name: &RepoName) -> Result<Copy, GitError> {
        let copy = self.uses.begin(&self.dir.join(format!("{name}.git")));
        copy.begin(&self.git).await?;
        Ok(copy)
    }

    /// The right to push to a repository, or who waits for it.
    pub(crate) fn turn(&self, name: &RepoName) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that are with nobody are forgotten.
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        turns.entry(name.clone()).or_default().clone()
    }

    /// What a repository is now; its head is where the branch that is pushed is.
    pub(crate) async fn current(
        &self,
        copy: &Copy,
        branch: Option<&str>,
    ) -> Result<Repository, GitError> {
        let refs = repos::refs(&self.git, &copy.path).await?;
        let head = branch.and_then(|branch| refs.get(branch).cloned());
        Ok(Repository { head, packs: Vec::new(), refs })
    }
}

/// The right to push, held.
pub(crate) type Turn = OwnedMutexGuard<()>;
