//! Small files that survive a power failure: written beside, synced, renamed, the folder synced.

use std::{
    collections::HashSet,
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write},
    os::fd::OwnedFd,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown},
    path::Path,
};

use rustix::{
    fs::{
        AtFlags, Dir, FallocateFlags, FileType, Gid, Mode, OFlags, Uid, chownat, fchown, openat,
        statat,
    },
    io::Errno,
};
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
/// Folders in each other that are measured: each is open meanwhile.
const FOLDERS_DEEP: usize = 200;
/// How one is opened.
const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

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

/// Makes a folder be root's alone, whoever made it: what is mounted there may have been open to everybody.
pub(crate) fn make_private(path: &Path) -> io::Result<()> {
    let there = fs::metadata(path)?.permissions();
    if there.mode() & 0o077 != 0 {
        fs::set_permissions(path, Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Whose a folder is; `None` if there is none.
pub(crate) fn owner(path: &Path) -> io::Result<Option<u32>> {
    match fs::symlink_metadata(path) {
        Ok(there) => Ok(Some(there.uid())),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(err),
    }
}

/// Makes a folder for a container's user, 0700. One that was another's becomes that user's with all that is in it.
pub(crate) fn user_dir(path: &Path, user: u32) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(there) if there.is_dir() => {
            return if there.uid() == user { Ok(()) } else { give(path, user) };
        }
        _ => {}
    }
    if let Some(above) = path.parent() {
        // Others must be able to pass through; names of volumes are no secret.
        DirBuilder::new().recursive(true).mode(0o711).create(above)?;
    }
    DirBuilder::new().mode(0o700).create(path)?;
    chown(path, Some(user), Some(user))
}

/// Gives a folder to a user: what is in it first, so that one that was given is given wholly, whenever the power fails.
/// Somebody may change it meanwhile: nothing is followed out of it.
fn give(path: &Path, user: u32) -> io::Result<()> {
    let top = rustix::fs::open(path, FOLDER, Mode::empty())?;
    give_open(top, (Uid::from_raw(user), Gid::from_raw(user)), FOLDERS_DEEP)
}

fn give_open(folder: OwnedFd, to: (Uid, Gid), depth: usize) -> io::Result<()> {
    for entry in Dir::read_from(&folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match openat(&folder, name, FOLDER, Mode::empty()) {
            Ok(below) => {
                let depth = depth.checked_sub(1).ok_or(io::ErrorKind::InvalidFilename)?;
                give_open(below, to, depth)?;
            }
            Err(Errno::NOENT) => {}
            Err(Errno::NOTDIR | Errno::LOOP) => {
                match chownat(&folder, name, Some(to.0), Some(to.1), AtFlags::SYMLINK_NOFOLLOW) {
                    Err(Errno::NOENT) => {}
                    given => given?,
                }
            }
            Err(err) => return Err(err.into()),
        }
    }
    Ok(fchown(&folder, Some(to.0), Some(to.1))?)
}

/// Bytes of disk that is taken by what is below a folder, which may change meanwhile: nothing is followed out of it.
pub(crate) fn used_below(folder: &Path) -> io::Result<u64> {
    let top = rustix::fs::open(folder, FOLDER, Mode::empty())?;
    used(top, FOLDERS_DEEP, &mut HashSet::new())
}

fn used(folder: OwnedFd, depth: usize, linked: &mut HashSet<u64>) -> io::Result<u64> {
    let mut sum = 0;
    for entry in Dir::read_from(&folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let found = match statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            found => found?,
        };
        // A file of several names takes its room once.
        let is_folder = FileType::from_raw_mode(found.st_mode).is_dir();
        if is_folder || found.st_nlink == 1 || linked.insert(found.st_ino) {
            sum += u64::try_from(found.st_blocks).unwrap_or(0) * 512;
        }
        if is_folder {
            let below = match openat(&folder, name, FOLDER, Mode::empty()) {
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                below => below?,
            };
            let depth = depth.checked_sub(1).ok_or(io::ErrorKind::InvalidFilename)?;
            sum += used(below, depth, linked)?;
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_below_a_folder_is_measured_once_and_nothing_outside_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let (outside, folder) = (dir.path().join("outside"), dir.path().join("folder"));
        fs::create_dir_all(folder.join("deep")).unwrap();
        fs::create_dir(&outside).unwrap();
        for path in [outside.join("large"), folder.join("deep/large")] {
            fs::write(path, vec![7; 1 << 20]).unwrap();
        }
        fs::hard_link(folder.join("deep/large"), folder.join("same")).unwrap();
        std::os::unix::fs::symlink(&outside, folder.join("link")).unwrap();
        let used = used_below(&folder).unwrap();
        assert!((1 << 20..1 << 21).contains(&used), "{used}");
        let deepest = (0..=FOLDERS_DEEP).fold(folder.clone(), |path, _| path.join("d"));
        fs::create_dir_all(&deepest).unwrap();
        let refused = used_below(&folder).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidFilename);
    }

    #[test]
    fn a_folder_that_was_anothers_is_given_wholly_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (volume, outside) = (dir.path().join("volumes/a"), dir.path().join("outside"));
        fs::write(&outside, "").unwrap();
        user_dir(&volume, 1000).unwrap();
        fs::create_dir_all(volume.join("deep/er")).unwrap();
        fs::write(volume.join("deep/er/file"), "").unwrap();
        std::os::unix::fs::symlink(&outside, volume.join("link")).unwrap();
        let of = |path: &Path| fs::symlink_metadata(path).unwrap().uid();
        let before = of(&outside);
        user_dir(&volume, 1_050_000).unwrap();
        for name in ["", "deep", "deep/er", "deep/er/file", "link"] {
            assert_eq!(of(&volume.join(name)), 1_050_000, "{name}");
        }
        assert_eq!(of(&outside), before);
        assert_eq!(fs::metadata(&volume).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_folder_that_becomes_a_link_while_it_is_given_leads_nowhere() {
        use rustix::fs::{CWD, RenameFlags, renameat_with};

        let dir = tempfile::tempdir().unwrap();
        let (volume, outside) = (dir.path().join("volume"), dir.path().join("outside"));
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("passwd"), "").unwrap();
        fs::create_dir_all(volume.join("folder")).unwrap();
        fs::write(volume.join("folder/passwd"), "").unwrap();
        let link = volume.join("link");
        std::os::unix::fs::symlink(&outside, &link).unwrap();
        let owners = || [&outside, &outside.join("passwd")].map(|p| fs::metadata(p).unwrap().uid());
        let before = owners();
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    let folder = volume.join("folder");
                    renameat_with(CWD, &folder, CWD, &link, RenameFlags::EXCHANGE).unwrap();
                }
            });
            for user in (0..3000).map(|n| 1_050_000 + n % 2) {
                // What changes under its hands may fail.
                let _ = give(&volume, user);
            }
            over.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        assert_eq!(owners(), before);
    }

    #[test]
    fn a_data_folder_that_was_open_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        make_private(dir.path()).unwrap();
        assert_eq!(fs::metadata(dir.path()).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn the_ballast_is_real_and_goes_when_it_is_needed() {
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
