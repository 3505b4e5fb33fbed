//! Copies of repositories. The truth is the head at the controller and the packs in shelf; what is here may be lost, and
//! is brought up to date before every push.

use std::{
    collections::HashSet,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use api::{controller::Repository, id::AppId};
use futures_util::TryStreamExt;
use sha2::{Digest, Sha256};
use shelf_client::Shelf;
use tokio::{fs, io::AsyncWriteExt};

use crate::{
    domain::update::{MASTER, is_object_id},
    git::{Git, GitError},
};

/// Copies kept; the one used longest ago goes first.
const COPIES_MAX: usize = 64;
/// File in a copy that lists the packs of shelf it has.
const IMPORTED: &str = "flynn-packs";

/// All copies of one cache directory.
#[derive(Debug, Clone)]
pub(crate) struct Repos {
    dir: PathBuf,
    git: Git,
    shelf: Shelf,
    in_use: Arc<Mutex<HashSet<PathBuf>>>,
}

/// A copy that is up to date, and stays while this lives.
#[derive(Debug)]
pub(crate) struct Copy {
    pub(crate) path: PathBuf,
    in_use: Arc<Mutex<HashSet<PathBuf>>>,
}

impl Drop for Copy {
    fn drop(&mut self) {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.path);
    }
}

/// Why a repository cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RepoError {
    #[error("the cache of repositories at {} cannot be used", dir.display())]
    Cache {
        dir: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Git(#[from] GitError),
    #[error("a pack of it could not be fetched from shelf")]
    Shelf(#[source] shelf_client::Error),
    #[error("the pack {0} in shelf is not what its name says")]
    WrongDigest(String),
    #[error("its packs do not hold the deployed commit {0}")]
    Incomplete(String),
    #[error("the controller names a head that is no commit")]
    BadHead,
}

impl Repos {
    pub(crate) fn new(dir: PathBuf, git: Git, shelf: Shelf) -> Self {
        Self { dir, git, shelf, in_use: Arc::default() }
    }

    /// The copy of an app's repository, made to be what the controller says. The caller holds the app's lease.
    pub(crate) async fn prepare(
        &self,
        app: AppId,
        repository: &Repository,
    ) -> Result<Copy, RepoError> {
        if repository.head.as_ref().is_some_and(|head| !is_object_id(head)) {
            return Err(RepoError::BadHead);
        }
        let path = self.dir.join(format!("{app}.git"));
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner).insert(path.clone());
        let copy = Copy { path, in_use: self.in_use.clone() };
        if !self.is_current(&copy.path, repository).await {
            let updated = self.update(&copy.path, repository).await;
            if updated.is_err() {
                // Whatever is wrong with what was here: once more from nothing.
                self.start_over(&copy.path).await?;
                self.update(&copy.path, repository).await?;
            }
        }
        self.forget_oldest().await;
        Ok(copy)
    }

    /// Whether the local master is the deployed commit and there is no other ref.
    async fn is_current(&self, path: &Path, repository: &Repository) -> bool {
        let format = "--format=%(refname) %(objectname)";
        let Ok(refs) = self.git.run(path, &["for-each-ref", format]).await else { return false };
        let refs = String::from_utf8_lossy(&refs);
        match &repository.head {
            Some(head) => refs.trim() == format!("{MASTER} {head}"),
            None => refs.trim().is_empty(),
        }
    }

    async fn start_over(&self, path: &Path) -> Result<(), RepoError> {
        match fs::remove_dir_all(path).await {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(RepoError::Cache { dir: path.into(), source })
            }
            _ => Ok(()),
        }
    }

    async fn update(&self, path: &Path, repository: &Repository) -> Result<(), RepoError> {
        let Some(head) = &repository.head else {
            self.start_over(path).await?;
            return Ok(self.git.init(path).await?);
        };
        if !path.join("HEAD").exists() {
            self.git.init(path).await?;
        }
        let listed = path.join(IMPORTED);
        let mut imported = fs::read_to_string(&listed).await.unwrap_or_default();
        for pack in &repository.packs {
            if !imported.lines().any(|line| line == pack) {
                self.import(path, pack).await?;
                imported.push_str(pack);
                imported.push('\n');
                fs::write(&listed, &imported)
                    .await
                    .map_err(|source| RepoError::Cache { dir: path.into(), source })?;
            }
        }
        // Everything reachable must be there before the commit is offered as what need not be sent.
        let connected = self.git.run(path, &["rev-list", "--objects", "--quiet", head, "--"]).await;
        connected.map_err(|_| RepoError::Incomplete(head.clone()))?;
        self.git.run(path, &["update-ref", MASTER, head]).await?;
        Ok(())
    }

    /// Fetches one pack and has git index it.
    async fn import(&self, path: &Path, pack: &str) -> Result<(), RepoError> {
        let cache = |source| RepoError::Cache { dir: path.into(), source };
        let (file, temp) = tempfile::Builder::new()
            .prefix("incoming-")
            .tempfile_in(path)
            .map_err(cache)?
            .into_parts();
        let mut file = fs::File::from_std(file);
        let mut digest = Sha256::new();
        let reading = self.shelf.get(pack).await.map_err(RepoError::Shelf)?;
        let mut chunks = Box::pin(reading.into_stream());
        while let Some(chunk) = chunks.try_next().await.map_err(RepoError::Shelf)? {
            digest.update(&chunk);
            file.write_all(&chunk).await.map_err(cache)?;
        }
        file.flush().await.map_err(cache)?;
        if !pack.ends_with(&format!("/{}.pack", hex::encode(digest.finalize()))) {
            return Err(RepoError::WrongDigest(pack.into()));
        }
        // `index-pack` takes the pack's place itself when it reads from stdin.
        let mut command = self.git.command(path, &["index-pack", "--stdin", "--threads=1"]);
        let file = file.into_std().await;
        crate::pack::rewound(&file).map_err(cache)?;
        command.stdin(file);
        crate::git::output("index-pack", &mut command, None).await?;
        drop(temp);
        Ok(())
    }

    /// Keeps the number of copies within its bound.
    async fn forget_oldest(&self) {
        let Ok(mut entries) = fs::read_dir(&self.dir).await else { return };
        let mut copies = Vec::new();
        while let Ok(Some(entry)) = entries.next_entry().await {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "git") {
                let used = entry.metadata().await.and_then(|meta| meta.modified()).ok();
                copies.push((used, path));
            }
        }
        copies.sort();
        let excess = copies.len().saturating_sub(COPIES_MAX);
        for (_, path) in copies.into_iter().take(excess) {
            let used = self.in_use.lock().unwrap_or_else(PoisonError::into_inner).contains(&path);
            if !used {
                let _ = fs::remove_dir_all(&path).await;
            }
        }
    }
}
