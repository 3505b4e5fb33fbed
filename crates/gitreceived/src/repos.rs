//! Copies of repositories. The truth is the head at the controller and the packs in shelf; what is here may be lost, and
//! is brought up to date before every push.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use api::{controller::Repository, id::AppId};
use futures_util::TryStreamExt;
use sha2::{Digest, Sha256};
use shelf_client::Shelf;
use tokio::{fs, io::AsyncWriteExt};
use tracing::warn;

use crate::{
    disk,
    domain::update::{DeployBranches, is_object_id},
    git::{Git, GitError},
};

/// File in a copy that lists the packs of shelf it has.
const IMPORTED: &str = "flynn-packs";
/// Ending of a copy that is being removed.
pub(crate) const GONE: &str = "gone";

/// All copies of one directory.
#[derive(Debug, Clone)]
pub(crate) struct Repos {
    dir: PathBuf,
    git: Git,
    shelf: Shelf,
    uses: Uses,
}

/// The copies that pushes use at the moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Uses(Arc<Mutex<HashMap<PathBuf, Arc<tokio::sync::Mutex<()>>>>>);

impl Uses {
    /// Keeps a copy from being taken away.
    pub(crate) fn begin(&self, path: &Path) -> Copy {
        let mut uses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let changing = uses.entry(path.into()).or_default().clone();
        Copy { path: path.into(), changing, uses: self.clone() }
    }

    /// Moves a copy that no push uses out of the way; where to.
    pub(crate) fn evict(&self, path: &Path) -> Option<PathBuf> {
        // No push can begin to use it meanwhile.
        let uses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = path.with_extension(GONE);
        let evicted = !uses.contains_key(path) && std::fs::rename(path, &gone).is_ok();
        evicted.then_some(gone)
    }
}

/// A copy that stays while this lives.
#[derive(Debug)]
pub(crate) struct Copy {
    pub(crate) path: PathBuf,
    /// Held by whoever brings it up to date.
    changing: Arc<tokio::sync::Mutex<()>>,
    uses: Uses,
}

impl Copy {
    /// Whether no other push uses it.
    fn is_ours_alone(&self) -> bool {
        let _uses = self.uses.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The map's and ours.
        Arc::strong_count(&self.changing) == 2
    }

    /// Removes what pushes that were broken off left in it, unless one goes on.
    pub(crate) async fn tidy(&self) {
        let _changing = self.changing.lock().await;
        if self.is_ours_alone() {
            disk::remove_leftovers(&self.path).await;
        }
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let mut uses = self.uses.0.lock().unwrap_or_else(PoisonError::into_inner);
        if Arc::strong_count(&self.changing) == 2 {
            uses.remove(&self.path);
        }
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
    pub(crate) fn new(dir: PathBuf, git: Git, shelf: Shelf, uses: Uses) -> Self {
        Self { dir, git, shelf, uses }
    }

    /// The copy of an app's repository, made to be what the controller says.
    pub(crate) async fn prepare(
        &self,
        app: AppId,
        repository: &Repository,
        branches: &DeployBranches,
    ) -> Result<Copy, RepoError> {
        if repository.head.as_ref().is_some_and(|head| !is_object_id(head)) {
            return Err(RepoError::BadHead);
        }
        let copy = self.uses.begin(&self.dir.join(format!("{app}.git")));
        let changing = copy.changing.lock().await;
        let wanted = wanted(repository, branches);
        if !self.is_current(&copy.path, &wanted).await {
            let updated = self.update(&copy.path, repository, &wanted).await;
            if let Err(err) = updated {
                if !copy.is_ours_alone() {
                    return Err(err);
                }
                // Whatever is wrong with what was here: once more from nothing.
                start_over(&copy.path).await?;
                self.update(&copy.path, repository, &wanted).await?;
            }
        }
        disk::mark_used(&copy.path).await;
        drop(changing);
        Ok(copy)
    }

    /// Whether the local refs are those that are wanted, and no other.
    async fn is_current(&self, path: &Path, wanted: &BTreeMap<String, String>) -> bool {
        self.refs(path).await.is_ok_and(|refs| refs == *wanted)
    }

    async fn refs(&self, path: &Path) -> Result<BTreeMap<String, String>, GitError> {
        refs(&self.git, path).await
    }

    async fn update(
        &self,
        path: &Path,
        repository: &Repository,
        wanted: &BTreeMap<String, String>,
    ) -> Result<(), RepoError> {
        if !path.join("HEAD").exists() {
            start_over(path).await?;
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
        // Everything reachable must be there before an object is offered as what need not be sent.
        if let Some(head) = &repository.head {
            let connected = self.is_connected(path, head).await;
            connected.map_err(|_| RepoError::Incomplete(head.clone()))?;
        }
        let mut orders = String::new();
        let here = self.refs(path).await?;
        for gone in here.keys().filter(|name| !wanted.contains_key(*name)) {
            orders.push_str(&format!("delete {gone}\n"));
        }
        for (name, id) in wanted.iter().filter(|(name, id)| here.get(*name) != Some(id)) {
            let is_head = repository.head.as_ref() == Some(id);
            if !is_head && self.is_connected(path, id).await.is_err() {
                warn!(app.repository = %path.display(), "the objects of {name} are not there; it is left out");
                continue;
            }
            orders.push_str(&format!("update {name} {id}\n"));
        }
        let args = ["update-ref", "--stdin"];
        self.git.run_with(path, &args, Some(orders.as_bytes())).await?;
        Ok(())
    }

    async fn is_connected(&self, path: &Path, id: &str) -> Result<Vec<u8>, GitError> {
        self.git.run(path, &["rev-list", "--objects", "--quiet", id, "--"]).await
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
}

/// The refs a copy shall have: all that are kept, and the deployed commit under each name it is deployed by.
fn wanted(repository: &Repository, branches: &DeployBranches) -> BTreeMap<String, String> {
    let kept = repository.refs.iter().filter(|(_, id)| is_object_id(id));
    let mut wanted: BTreeMap<String, String> =
        kept.map(|(name, id)| (name.clone(), id.clone())).collect();
    for name in branches.names() {
        wanted.remove(name);
        if let Some(head) = &repository.head {
            wanted.insert(name.clone(), head.clone());
        }
    }
    wanted
}

/// All refs of a repository.
pub(crate) async fn refs(git: &Git, repo: &Path) -> Result<BTreeMap<String, String>, GitError> {
    let refs = git.run(repo, &["for-each-ref", "--format=%(objectname) %(refname)"]).await?;
    let refs = String::from_utf8_lossy(&refs);
    let refs = refs.lines().filter_map(|line| line.split_once(' '));
    Ok(refs.map(|(id, name)| (name.to_owned(), id.to_owned())).collect())
}

async fn start_over(path: &Path) -> Result<(), RepoError> {
    match fs::remove_dir_all(path).await {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(RepoError::Cache { dir: path.into(), source })
        }
        _ => Ok(()),
    }
}
