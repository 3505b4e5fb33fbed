//! Blobs on a disk: the only place that knows the files.
//!
//! A blob's file is written in `tmp`, made durable, and then renamed to its place, so that a path shows either nothing,
//! the old blob or the whole new one, whenever the process or the machine dies. The digest is the end of the same file,
//! because two files cannot be renamed at once.

mod list;
mod room;
mod scrub;
mod upload;

use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Seek, SeekFrom},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, RwLock},
    time::SystemTime,
};

use tokio::{sync::OwnedMutexGuard, task::spawn_blocking};

use self::room::{FolderLens, Reserve};
use crate::{domain::BlobPath, error::StoreError};

/// In the data directory: who has locked it owns that.
pub(crate) const LOCK: &str = "lock";
/// Ends every blob's file, after the digest.
const MARK: &[u8; 8] = b"flynnsh1";
/// Bytes of the file after the content: digest and mark.
const TRAILER_LEN: u64 = 32 + MARK.len() as u64;

/// How often one that is being replaced again and again is tried.
const LINK_ATTEMPTS: u32 = 100;

/// The blobs of one data directory.
#[derive(Debug, Clone)]
pub(crate) struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    blobs: PathBuf,
    tmp: PathBuf,
    reserve: Reserve,
    folder_len_max: u64,
    folder_lens: FolderLens,
    /// Of the data directory.
    lock_path: PathBuf,
    /// Each for a part of the folders: held while a file comes to one of them, so that all that comes is counted.
    filling: [Arc<tokio::sync::Mutex<()>>; 32],
    /// Held while a directory is made and made durable: a directory that others see is durable.
    making_dirs: Mutex<()>,
    /// Held alone while empty directories are removed, shared by whoever needs one to stay until a file is in it.
    pruning: RwLock<()>,
    /// Says that the directory is ours.
    lock: File,
}

/// Says that nothing else comes to a folder.
type Filling = Option<OwnedMutexGuard<()>>;

/// A blob that is open for reading.
#[derive(Debug)]
pub(crate) struct OpenBlob {
    pub(crate) file: File,
    pub(crate) size: u64,
    pub(crate) sha256: String,
}

impl Store {
    /// Opens or makes the store of a directory that is locked. What uploads left unfinished is removed.
    pub(crate) fn open(
        data_dir: &Path,
        reserve: u64,
        folder_len_max: u64,
        lock: File,
    ) -> io::Result<Self> {
        let (blobs, tmp) = (data_dir.join("blobs"), data_dir.join("tmp"));
        if tmp.exists() {
            fs::remove_dir_all(&tmp)?;
        }
        fs::create_dir_all(&tmp)?;
        fs::create_dir_all(&blobs)?;
        // A directory made by a predecessor that was killed may not be durable yet.
        rustix::fs::syncfs(File::open(&blobs)?)?;
        let (making_dirs, pruning) = (Mutex::new(()), RwLock::new(()));
        let lock_path = data_dir.join(LOCK);
        Ok(Self(Arc::new(Inner {
            blobs,
            tmp,
            reserve: Reserve::new(reserve),
            folder_len_max,
            folder_lens: FolderLens::default(),
            lock_path,
            filling: Default::default(),
            making_dirs,
            pruning,
            lock,
        })))
    }

    /// Finds out whether the data directory can be read, and is still the one that was locked.
    pub(crate) async fn check(&self) -> io::Result<()> {
        let inner = self.0.clone();
        blocking(move || Ok(inner.check())).await.map_err(io::Error::other)?
    }

    /// Opens a blob for reading.
    pub(crate) async fn get(&self, path: BlobPath) -> Result<OpenBlob, StoreError> {
        let inner = self.0.clone();
        blocking(move || open(&inner.blobs.join(path.file()), path)).await
    }

    /// Makes `to` the same blob as `from`; answers the digest.
    pub(crate) async fn copy(&self, from: BlobPath, to: BlobPath) -> Result<String, StoreError> {
        let inner = self.0.clone();
        let filling = inner.fill(&to).await;
        blocking(move || {
            let source = inner.blobs.join(from.file());
            let copying = StoreError::io("copying a blob");
            inner.make_tmp().map_err(StoreError::io("copying a blob"))?;
            let linked = tempfile::Builder::new().make_in(&inner.tmp, |name| link(&source, name));
            let link = match linked {
                Ok(link) => link.into_temp_path(),
                Err(err) if is_absent(&err) => return Err(StoreError::NotFound(from)),
                Err(err) => return Err(copying(err)),
            };
            // Of the link, not of the path: another blob may have its place by now.
            let OpenBlob { file, sha256, .. } = open(&link, from)?;
            // A conditional deletion compares this time, so a copy must count as stored now. Both names are one file:
            // the source gets the new time as well, and is at worst deleted later.
            file.set_modified(SystemTime::now()).map_err(StoreError::io("copying a blob"))?;
            // The link is removed at the end, for renaming one name of a file to another of its names does nothing.
            inner.move_into_place(&link, &to, filling)?;
            Ok(sha256)
        })
        .await
    }

    /// Removes a blob, durably, unless it was stored later than `not_after` (nanoseconds of Unix time). That there is none
    /// is success.
    pub(crate) async fn delete(
        &self,
        path: BlobPath,
        not_after: Option<u64>,
    ) -> Result<(), StoreError> {
        let inner = self.0.clone();
        blocking(move || inner.delete(&path, not_after).map_err(StoreError::io("removing a blob")))
            .await
    }
}

impl Inner {
    fn check(&self) -> io::Result<()> {
        let (ours, there) = (self.lock.metadata()?, fs::metadata(&self.lock_path)?);
        if (ours.dev(), ours.ino()) != (there.dev(), there.ino()) {
            return Err(io::Error::other("another directory has its place"));
        }
        fs::read_dir(&self.blobs)?.next().transpose().map(drop)
    }

    /// Something may have removed it: it is where temporary files are.
    fn make_tmp(&self) -> io::Result<()> {
        fs::create_dir_all(&self.tmp)
    }

    /// Moves a durable file to a blob's place and makes the move durable, while nothing else comes to its folder.
    fn move_into_place(
        &self,
        file: &Path,
        path: &BlobPath,
        _filling: Filling,
    ) -> Result<(), StoreError> {
        let storing = || StoreError::io("storing a blob");
        let target = self.blobs.join(path.file());
        let dir = target.parent().unwrap_or(&self.blobs);
        let len = fs::metadata(file).map_err(storing())?.len();
        let fits = |others: u64| {
            len.saturating_sub(TRAILER_LEN) <= self.folder_len_max.saturating_sub(others)
        };
        // Others may have come since this one began.
        let mut others = self.others_len(path);
        if !fits(others) {
            // What is known may be too much.
            others = self.count_others(path);
        }
        if !fits(others) {
            return Err(self.folder_full(path));
        }
        // Whatever becomes of this, what is there is not known before all is done.
        self.folder_lens.forget(path);
        let _kept = self.pruning.read();
        self.make_dir(dir).map_err(storing())?;
        fs::rename(file, &target).map_err(storing())?;
        sync_dir(dir).map_err(storing())?;
        self.folder_lens.set(path, others.saturating_add(len));
        Ok(())
    }

    /// Waits until nothing else comes to the folder of a path. Before a thread is taken that may block, for many that wait
    /// in such threads would leave none to who reads.
    async fn fill(&self, path: &BlobPath) -> Filling {
        let mut hasher = DefaultHasher::new();
        path.folder()?.hash(&mut hasher);
        let at = usize::try_from(hasher.finish() % self.filling.len() as u64).ok()?;
        Some(self.filling.get(at)?.clone().lock_owned().await)
    }

    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        if dir.is_dir() {
            // Wait for whoever may be making it.
            drop(self.making_dirs.lock());
            return Ok(());
        }
        let _alone = self.making_dirs.lock();
        let inside = dir.strip_prefix(&self.blobs).map_err(io::Error::other)?;
        let mut made = self.blobs.clone();
        for name in inside.components() {
            let parent = made.clone();
            made.push(name);
            match fs::create_dir(&made) {
                Ok(()) => sync_dir(&parent)?,
                Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {}
                Err(err) => return Err(err),
            }
        }
        Ok(())
    }

    fn delete(&self, path: &BlobPath, not_after: Option<u64>) -> io::Result<()> {
        let file = self.blobs.join(path.file());
        let mut dir = file.parent().unwrap_or(&self.blobs);
        {
            // Alone where it depends on the time: nothing is stored between the look and the removal.
            let (_kept, _alone) = match not_after {
                None => (Some(self.pruning.read()), None),
                Some(_) => (None, Some(self.pruning.write())),
            };
            if let Some(limit) = not_after
                && is_later(&file, limit)
            {
                return Ok(());
            }
            match fs::remove_file(&file) {
                Ok(()) => {
                    self.folder_lens.forget(path);
                    sync_dir(dir)?;
                }
                Err(err) if is_absent(&err) => return Ok(()),
                Err(err) => return Err(err),
            }
        }
        let _alone = self.pruning.write();
        // Directories that became empty go too; the first that is not ends it.
        while dir != self.blobs && fs::remove_dir(dir).is_ok() {
            dir = dir.parent().unwrap_or(&self.blobs);
        }
        Ok(())
    }
}

/// Gives a file a second name. While another takes its place the kernel may say that there is none.
fn link(source: &Path, name: &Path) -> io::Result<()> {
    for _ in 1..LINK_ATTEMPTS {
        match fs::hard_link(source, name) {
            Err(err) if is_absent(&err) && source.try_exists()? => {}
            done => return done,
        }
    }
    fs::hard_link(source, name)
}

/// Whether a file was stored after this time.
fn is_later(file: &Path, nanoseconds: u64) -> bool {
    let modified = fs::metadata(file).and_then(|data| data.modified());
    let since = modified.ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    since.is_some_and(|since| since.as_nanos() > u128::from(nanoseconds))
}

/// No such file, or what should be its directory is a file.
fn is_absent(err: &io::Error) -> bool {
    matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn open(file: &Path, path: BlobPath) -> Result<OpenBlob, StoreError> {
    let mut opened = match open_file(file) {
        Ok(opened) => opened,
        Err(err) if is_absent(&err) => return Err(StoreError::NotFound(path)),
        Err(err) => return Err(StoreError::io("opening a blob")(err)),
    };
    let (size, sha256) = trailer(&opened).ok_or(StoreError::Damaged(path))?;
    opened.seek(SeekFrom::Start(0)).map_err(StoreError::io("opening a blob"))?;
    Ok(OpenBlob { file: opened, size, sha256 })
}

/// Opens what should be a file. Were it a pipe, others would wait for its other end for ever.
fn open_file(file: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    File::options().read(true).custom_flags(flags).open(file)
}

/// Size and digest of the content of a blob's file.
fn trailer(file: &File) -> Option<(u64, String)> {
    let size = file.metadata().ok()?.len().checked_sub(TRAILER_LEN)?;
    let mut trailer = [0; TRAILER_LEN as usize];
    file.read_exact_at(&mut trailer, size).ok()?;
    trailer.ends_with(MARK).then(|| (size, hex::encode(&trailer[..32])))
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Runs file work where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    spawn_blocking(work).await.map_err(|err| StoreError::io("working on files")(err.into()))?
}
