//! Small files that survive a power failure: written beside, synced, renamed, the folder synced.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use rustix::fs::FallocateFlags;
use serde::{Serialize, de::DeserializeOwned};

/// Whether the write has to survive a power failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durable {
    /// It has.
    Synced,
    /// The process's own death is enough.
    Renamed,
}

/// Disk that is kept for the few bytes without which nothing could be stopped any more on a full disk: orders, ends
/// and the leader's term.
const BALLAST: u64 = 4 << 20;
/// Its file, in the data dir.
const BALLAST_FILE: &str = "ballast";
/// The data dir is so many folders above any file at most.
const DEPTH: usize = 4;

/// Takes disk for bad times, unless it is there or they have come.
pub(crate) fn keep_ballast(data_dir: &Path) -> io::Result<()> {
    let path = data_dir.join(BALLAST_FILE);
    let stat = rustix::fs::statvfs(data_dir)?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free < 2 * BALLAST || fs::metadata(&path).is_ok_and(|there| there.len() == BALLAST) {
        return Ok(());
    }
    let file = File::create(path)?;
    Ok(rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, BALLAST)?)
}

/// Gives up the ballast of the data dir a file is in. Answers whether there was one.
fn drop_ballast(path: &Path) -> bool {
    path.ancestors().take(DEPTH).any(|folder| fs::remove_file(folder.join(BALLAST_FILE)).is_ok())
}

/// Replaces a file's content at one instant; mode 0600. On a full disk the ballast makes room for what has to survive.
pub(crate) fn write(path: &Path, content: &[u8], durable: Durable) -> io::Result<()> {
    match try_write(path, content, durable) {
        Err(err) if durable == Durable::Synced && is_full(&err) && drop_ballast(path) => {
            try_write(path, content, durable)
        }
        done => done,
    }
}

fn is_full(err: &io::Error) -> bool {
    matches!(err.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn try_write(path: &Path, content: &[u8], durable: Durable) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let beside = path.with_extension("new");
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(content)?;
    if durable == Durable::Synced {
        file.sync_all()?;
    }
    fs::rename(&beside, path)?;
    if durable == Durable::Synced {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// Replaces a file's content with JSON.
pub(crate) fn write_json(path: &Path, value: &impl Serialize, durable: Durable) -> io::Result<()> {
    let content = serde_json::to_vec(value).map_err(io::Error::other)?;
    write(path, &content, durable)
}

/// Reads JSON; `None` if there is no file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(content) => serde_json::from_slice(&content).map(Some).map_err(|err| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{}: {err}", path.display()))
        }),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(err),
    }
}

/// Makes a folder and what is above it, for root alone.
pub(crate) fn private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Makes a folder for a container's user, 0700. One that is there keeps what it has.
pub(crate) fn user_dir(path: &Path, user: u32) -> io::Result<()> {
    if let Ok(there) = std::fs::metadata(path)
        && there.is_dir()
    {
        // Made, but not handed over: the power failed in between.
        let unfinished = std::os::unix::fs::MetadataExt::uid(&there) == 0
            && std::fs::read_dir(path)?.next().is_none();
        return if unfinished {
            std::os::unix::fs::chown(path, Some(user), Some(user))
        } else {
            Ok(())
        };
    }
    if let Some(above) = path.parent() {
        // Others must be able to pass through; names of volumes are no secret.
        DirBuilder::new().recursive(true).mode(0o711).create(above)?;
    }
    DirBuilder::new().mode(0o700).create(path)?;
    std::os::unix::fs::chown(path, Some(user), Some(user))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_ballast_is_real_and_goes_when_it_is_needed() {
        use std::os::unix::fs::MetadataExt;

        let dir = tempfile::tempdir().unwrap();
        keep_ballast(dir.path()).unwrap();
        keep_ballast(dir.path()).unwrap();
        let ballast = fs::metadata(dir.path().join(BALLAST_FILE)).unwrap();
        assert!(ballast.blocks() * 512 >= BALLAST, "it takes room");
        let file = dir.path().join("host/jobs/a.json");
        assert!(drop_ballast(&file));
        assert!(!drop_ballast(&file), "it is gone");
    }

    #[test]
    fn what_was_written_reads_back_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        assert_eq!(read_json::<u32>(&path).unwrap(), None);
        for value in [1, 2] {
            write_json(&path, &value, Durable::Synced).unwrap();
            assert_eq!(read_json::<u32>(&path).unwrap(), Some(value));
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, "{").unwrap();
        assert!(read_json::<u32>(&path).unwrap_err().to_string().contains("a.json"));
    }
}
