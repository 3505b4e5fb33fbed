//! Copies of repositories. The truth is the head at the controller and the packs in shelf; what is here may be lost, and
//! is brought up to date before every push.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use api::{controller::Repository, id::AppId};
use futures_util::TryStreamExt;
use sha2::{Digest, Sha256};
use shelf_client::Shelf;
use tokio::{fs, io::AsyncWriteExt, process::Command};
use tracing::warn;

use crate::{
    disk,
    domain::{
        names::{can_be_kept, clash},
        update::{DeployBranches, is_object_id},
    },
    git::{self, Git, GitError},
    place::{self, Place},
    right::{self, Use},
};

/// File in a copy that lists the packs of shelf it has.
const IMPORTED: &str = "flynn-packs";
/// File in a copy that lists the packs its repository had when it was used.
const LISTED: &str = "flynn-listed";
/// File in a copy that git could not add to: something of it may be missing.
const DOUBTED: &str = "flynn-doubted";
/// A git that lives, an operator's, has a lock no longer than this.
const LOCK_GRACE: Duration = Duration::from_secs(2);
/// Ending of a copy that is being removed.
pub(crate) const GONE: &str = "gone";

/// Refs by their full names, and the objects they are at.
pub(crate) type Refs = BTreeMap<String, String>;

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
        Copy {
            path: path.into(),
            left_out: Refs::new(),
            is_made: false,
            used: None,
            changing,
            uses: self.clone(),
        }
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
    /// Refs the repository should have and cannot: nobody is shown them.
    pub(crate) left_out: Refs,
    /// Whether the push that has it has made it.
    is_made: bool,
    /// Says to other processes that it is in use, if they may have it too.
    used: Option<Use>,
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

    /// Removes what pushes that were broken off left in it, unless one goes on; locks excepted.
    pub(crate) async fn tidy(&self) {
        let _changing = self.changing.lock().await;
        if !self.is_ours_alone() {
            return;
        }
        match &self.used {
            None => disk::remove_leftovers(&self.path).await,
            Some(used) => {
                if used.take_alone() {
                    disk::remove_leftovers(&self.path).await;
                }
                used.share().await;
            }
        }
    }

    /// Has the next push look whether all of it is there: git could not add what was sent to what is here.
    pub(crate) async fn doubt(&self) {
        let _ = fs::write(self.path.join(DOUBTED), "").await;
    }

    /// Notes that what a pack in shelf holds is here: it was pushed here.
    pub(crate) async fn note_imported(&self, pack: &str) {
        let _changing = self.changing.lock().await;
        let noted = async {
            let mut options = fs::OpenOptions::new();
            let mut listed =
                options.append(true).create(true).open(self.path.join(IMPORTED)).await?;
            listed.write_all(format!("{pack}\n").as_bytes()).await?;
            listed.flush().await
        };
        if let Err(err) = noted.await {
            // It is fetched once more.
            warn!(error = %err, "a pack of {} is not noted", self.path.display());
        }
    }

    /// Removes what a git that was killed has locked, for the one push that may move refs now. What stays locked.
    pub(crate) async fn unlock(&self) -> Vec<PathBuf> {
        let _changing = self.changing.lock().await;
        disk::remove_locks(&self.path, LOCK_GRACE).await
    }

    /// Has git lock refs of it and let go of them, while nobody brings them up to date.
    pub(crate) async fn rehearse(
        &self,
        update_ref: &mut Command,
        orders: &[u8],
    ) -> Result<(), GitError> {
        let _changing = self.changing.lock().await;
        git::output("update-ref", update_ref, Some(orders)).await.map(drop)
    }

    /// Makes sure that it is a repository: one may have been begun and not finished. The inner error is a sentence that says what
    /// it is instead, and then it stays as it is.
    pub(crate) async fn begin(&mut self, git: &Git) -> Result<Result<(), String>, GitError> {
        let _changing = self.changing.lock().await;
        match place::look(&self.path) {
            Err(why) => return Ok(Err(why)),
            Ok(Place::Repository) => {}
            Ok(Place::Unmade) => {
                // No push gets further than this before it is one.
                disk::remove_locks(&self.path, Duration::ZERO).await;
                self.is_made = !self.path.exists();
                git.init(&self.path).await?;
            }
        }
        self.used = Use::begin(&self.path).await;
        Ok(Ok(()))
    }

    /// Removes it again if the push made it and nothing came of that: no push that was refused decides what its ids are of.
    pub(crate) async fn take_back(&self) {
        if !self.is_made {
            return;
        }
        let _changing = self.changing.lock().await;
        // No push here can begin to use it meanwhile, and none elsewhere has the right to.
        let _uses = self.uses.0.lock().unwrap_or_else(PoisonError::into_inner);
        if Arc::strong_count(&self.changing) == 2
            && self.used.as_ref().is_none_or(Use::take_alone)
            && let Ok(_lock) = right::try_lock(&self.path)
            && place::is_unmade(&self.path).unwrap_or(false)
            && let Err(err) = std::fs::remove_dir_all(&self.path)
        {
            warn!(error = %err, "{} could not be removed", self.path.display());
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
        let mut copy = self.uses.begin(&self.dir.join(format!("{app}.git")));
        let changing = copy.changing.lock().await;
        let stale = has_more(&copy.path, &repository.packs).await;
        if copy.is_ours_alone() && (stale || self.is_broken(&copy.path).await) {
            start_over(&copy.path).await?;
        }
        if copy.is_ours_alone() {
            disk::remove_locks(&copy.path, Duration::ZERO).await;
        }
        let (wanted, mut left_out) = wanted(repository, branches);
        if !self.is_current(&copy.path, &wanted).await {
            left_out.extend(match self.update(&copy.path, repository, &wanted).await {
                Ok(unfit) => unfit,
                Err(err) if !copy.is_ours_alone() => return Err(err),
                // What is here has no part in it, and may be all there is.
                Err(err @ (RepoError::Shelf(_) | RepoError::WrongDigest(_))) => return Err(err),
                Err(_) => {
                    // Whatever is wrong with what was here: once more from nothing.
                    start_over(&copy.path).await?;
                    self.update(&copy.path, repository, &wanted).await?
                }
            });
        }
        if !stale || !copy.path.join(LISTED).exists() {
            fs::write(copy.path.join(LISTED), repository.packs.join("\n"))
                .await
                .map_err(|source| RepoError::Cache { dir: copy.path.clone(), source })?;
        }
        disk::mark_used(&copy.path).await;
        drop(changing);
        copy.left_out = left_out;
        Ok(copy)
    }

    /// Whether a copy lacks something that it should have, looked at where there is doubt: a cleaner of the disk may have been there.
    async fn is_broken(&self, path: &Path) -> bool {
        let doubted = path.join(DOUBTED);
        if !doubted.exists() {
            return false;
        }
        let all = self.git.run(path, &["rev-list", "--objects", "--quiet", "--all"]).await;
        let _ = fs::remove_file(doubted).await;
        all.is_err()
    }

    /// Whether the local refs are those that are wanted, and no other.
    async fn is_current(&self, path: &Path, wanted: &Refs) -> bool {
        self.refs(path).await.is_ok_and(|refs| refs == *wanted)
    }

    async fn refs(&self, path: &Path) -> Result<Refs, GitError> {
        refs(&self.git, path).await
    }

    /// Brings a copy up to date; the refs that it cannot have.
    async fn update(
        &self,
        path: &Path,
        repository: &Repository,
        wanted: &Refs,
    ) -> Result<Refs, RepoError> {
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
        self.move_refs(path, repository.head.as_ref(), wanted).await
    }

    /// Sets the refs of a copy to those that are wanted; which of them it cannot have.
    async fn move_refs(
        &self,
        path: &Path,
        head: Option<&String>,
        wanted: &Refs,
    ) -> Result<Refs, RepoError> {
        let (mut gone, mut moved, mut unfit) = (String::new(), String::new(), Refs::new());
        let here = self.refs(path).await?;
        for name in here.keys().filter(|name| !wanted.contains_key(*name)) {
            gone.push_str(&format!("delete {name}\n"));
        }
        let changed: Refs = wanted
            .iter()
            .filter(|(name, id)| here.get(*name) != Some(id))
            .map(|(name, id)| (name.clone(), id.clone()))
            .collect();
        let commits = commits(&self.git, path, changed.values()).await?;
        for (name, id) in changed {
            let fits = commits.contains(&id) || !name.starts_with("refs/heads/");
            if head == Some(&id) || (fits && self.is_connected(path, &id).await.is_ok()) {
                moved.push_str(&format!("update {name} {id}\n"));
                continue;
            }
            let place = path.display();
            warn!(app.repository = %place, "the objects of {name} are not there; it is left out");
            if here.contains_key(&name) {
                gone.push_str(&format!("delete {name}\n"));
            }
            unfit.insert(name, id);
        }
        // What goes makes room for what comes: in one transaction git would not let `a` follow `a/b`.
        for orders in [gone, moved] {
            let args = ["update-ref", "--stdin"];
            self.git.run_with(path, &args, Some(orders.as_bytes())).await?;
        }
        Ok(unfit)
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
        git::output("index-pack", &mut command, None).await?;
        drop(temp);
        Ok(())
    }
}

/// The refs a copy shall have: the deployed commit under each name it is deployed by, and all that are kept; and those that
/// git cannot keep, by themselves or beside the others.
fn wanted(repository: &Repository, branches: &DeployBranches) -> (Refs, Refs) {
    let head = repository.head.iter();
    let deployed = head.flat_map(|head| branches.names().iter().map(move |name| (name, head)));
    let kept = repository.refs.iter().filter(|(name, _)| !branches.contains(name));
    let (mut wanted, mut left_out, mut names) = (Refs::new(), Refs::new(), BTreeSet::new());
    for (name, id) in deployed.chain(kept) {
        if is_object_id(id) && can_be_kept(name) && clash(&names, name).is_none() {
            names.insert(name.clone());
            wanted.insert(name.clone(), id.clone());
        } else {
            left_out.insert(name.clone(), id.clone());
        }
    }
    (wanted, left_out)
}

/// Those of some objects that are here and are commits.
async fn commits(
    git: &Git,
    repo: &Path,
    ids: impl Iterator<Item = &String>,
) -> Result<BTreeSet<String>, GitError> {
    let asked: String = ids.map(|id| format!("{id}\n")).collect();
    let args = ["cat-file", "--batch-check=%(objectname) %(objecttype)"];
    let said = git.run_with(repo, &args, Some(asked.as_bytes())).await?;
    let said = String::from_utf8_lossy(&said);
    Ok(said.lines().filter_map(|line| line.strip_suffix(" commit")).map(str::to_owned).collect())
}

/// All refs of a repository.
pub(crate) async fn refs(git: &Git, repo: &Path) -> Result<Refs, GitError> {
    let refs = git.run(repo, &["for-each-ref", "--format=%(objectname) %(refname)"]).await?;
    let refs = String::from_utf8_lossy(&refs);
    let refs = refs.lines().filter_map(|line| line.split_once(' '));
    Ok(refs.map(|(id, name)| (name.to_owned(), id.to_owned())).collect())
}

/// Whether a copy may have objects that no pack holds any more, because its repository has fewer packs than it had: then what
/// is here is no proof that it is kept.
async fn has_more(path: &Path, packs: &[String]) -> bool {
    for file in [IMPORTED, LISTED] {
        let seen = fs::read_to_string(path.join(file)).await.unwrap_or_default();
        if seen.lines().any(|seen| !packs.iter().any(|pack| pack == seen)) {
            return true;
        }
    }
    false
}

async fn start_over(path: &Path) -> Result<(), RepoError> {
    match fs::remove_dir_all(path).await {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(RepoError::Cache { dir: path.into(), source })
        }
        _ => Ok(()),
    }
}
