//! The disk of the copies: what broken-off pushes left goes, and the copies used longest ago when it gets full.

use std::{
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use tokio::{
    fs,
    time::{Instant, sleep},
};

use crate::repos::{GONE, Uses};

/// Copies kept.
const COPIES_MAX: usize = 64;
/// Room there should be on the disk when a push begins, of which it is not known yet how large it is.
pub(crate) const FREE_MIN: u64 = 256 << 20;
/// Whose time of change says when a copy was used.
const USED: &str = "flynn-used";
/// Pause between two looks at a lock that may be of a git that lives.
const LOCK_INTERVAL: Duration = Duration::from_millis(100);
/// What files and folders of pushes under way are named like: ours, and those git makes.
const LEFTOVERS: [(&str, &[&str]); 3] = [
    ("", &["spool-", "incoming-"]),
    ("objects", &["tmp_objdir-", "incoming-", "tmp_"]),
    ("objects/pack", &["tmp_", ".tmp-"]),
];

/// The directory of all copies, and how large it may be.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    dir: PathBuf,
    /// Most bytes of all copies together, pushes under way included.
    len_max: u64,
    uses: Uses,
}

/// There is no room for a push.
#[derive(Debug, thiserror::Error)]
#[error(
    "this server has no room for a push of that size at the moment ({used} of {len_max} MiB are in use by pushes under way)"
)]
pub(crate) struct NoRoom {
    used: u64,
    len_max: u64,
}

impl Disk {
    pub(crate) fn new(dir: PathBuf, len_max: u64, uses: Uses) -> Self {
        Self { dir, len_max, uses }
    }

    /// Makes room for so many bytes among the copies, and for so many on the disk, as far as that is in our hands; copies that no push
    /// uses go first, the one used longest ago before all.
    pub(crate) async fn make_room(&self, len: u64, free_min: u64) -> Result<(), NoRoom> {
        let mut copies = copies(&self.dir).await;
        copies.sort();
        let mut used: u64 = copies.iter().map(|(_, _, len)| len).sum();
        let mut count = copies.len();
        let mut free = self.free();
        for (_, path, size) in copies {
            // Half of it is for pushes: copies that are only kept never fill it.
            let is_small = used.saturating_add(len) <= self.len_max / 2;
            if is_small && free >= free_min && count <= COPIES_MAX {
                return Ok(());
            }
            if let Some(gone) = self.uses.evict(&path) {
                let _ = fs::remove_dir_all(&gone).await;
                used -= size;
                free = free.saturating_add(size);
                count -= 1;
            }
        }
        if used.saturating_add(len) <= self.len_max {
            Ok(())
        } else {
            Err(NoRoom { used: used >> 20, len_max: self.len_max >> 20 })
        }
    }

    /// Bytes that are free on the disk itself, which others may fill.
    fn free(&self) -> u64 {
        let disk = rustix::fs::statvfs(&self.dir);
        disk.map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
    }
}

/// Removes what was being removed when the last gitreceived here ended.
pub(crate) fn remove_gone(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == GONE) {
            std::fs::remove_dir_all(path)?;
        }
    }
    Ok(())
}

/// Whether an open file is the one at a path.
pub(crate) fn is_at(file: &std::fs::File, path: &Path) -> bool {
    let id = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
    let (ours, there) = (file.metadata().map(id), path.metadata().map(id));
    matches!((ours, there), (Ok(ours), Ok(there)) if ours == there)
}

/// Notes that a copy was used now.
pub(crate) async fn mark_used(copy: &Path) {
    let _ = fs::write(copy.join(USED), "").await;
}

/// Every copy: when it was used, where it is, how large it is.
async fn copies(dir: &Path) -> Vec<(Option<SystemTime>, PathBuf, u64)> {
    let mut copies = Vec::new();
    let Ok(mut entries) = fs::read_dir(dir).await else { return copies };
    while let Ok(Some(entry)) = entries.next_entry().await {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "git") {
            let used = fs::metadata(path.join(USED)).await.and_then(|meta| meta.modified()).ok();
            let len = size(&path).await;
            copies.push((used, path, len));
        }
    }
    copies
}

/// Bytes of all files of a directory.
pub(crate) async fn size(dir: &Path) -> u64 {
    let (mut len, mut open) = (0, vec![dir.to_path_buf()]);
    while let Some(dir) = open.pop() {
        let Ok(mut entries) = fs::read_dir(&dir).await else { continue };
        while let Ok(Some(entry)) = entries.next_entry().await {
            match entry.metadata().await {
                Ok(meta) if meta.is_dir() => open.push(entry.path()),
                Ok(meta) => len += meta.len(),
                Err(_) => {}
            }
        }
    }
    len
}

/// Removes from a copy what pushes that ended before their time left in it, locks excepted.
pub(crate) async fn remove_leftovers(copy: &Path) {
    for (dir, prefixes) in LEFTOVERS {
        let Ok(mut entries) = fs::read_dir(copy.join(dir)).await else { continue };
        while let Ok(Some(entry)) = entries.next_entry().await {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if prefixes.iter().any(|prefix| name.starts_with(prefix)) {
                let _ = remove(&entry.path()).await;
            }
        }
    }
}

/// Removes locks of a git that was killed: they stay for ever, and what they lock with them. One that is younger than this
/// may be of a git that lives, an operator's, and has this time to go by itself. Those that cannot be removed.
pub(crate) async fn remove_locks(copy: &Path, grace: Duration) -> Vec<PathBuf> {
    let began = Instant::now();
    let locks = loop {
        let locks = locks(copy).await;
        let is_old = |at: &SystemTime| at.elapsed().is_ok_and(|age| age >= grace);
        if began.elapsed() >= grace || locks.iter().all(|(_, modified)| is_old(modified)) {
            break locks;
        }
        sleep(LOCK_INTERVAL).await;
    };
    let mut left = Vec::new();
    for (path, _) in locks {
        if remove(&path).await.is_err_and(|err| err.kind() != io::ErrorKind::NotFound) {
            left.push(path);
        }
    }
    left
}

/// Every lock of a copy, and when it was made.
async fn locks(copy: &Path) -> Vec<(PathBuf, SystemTime)> {
    let mut locks = Vec::new();
    let mut open = vec![copy.to_path_buf(), copy.join("reftable"), copy.join("objects/pack")];
    while let Some(dir) = open.pop() {
        let is_of_refs = dir.starts_with(copy.join("refs"));
        let is_of_packs = dir.ends_with("objects/pack");
        let Ok(mut entries) = fs::read_dir(&dir).await else { continue };
        while let Ok(Some(entry)) = entries.next_entry().await {
            let (path, name) = (entry.path(), entry.file_name());
            let Ok(meta) = entry.metadata().await else { continue };
            // Others of packs are an operator's git's, which may have them for minutes, and no push waits for them.
            if is_of_packs && path.extension().is_none_or(|extension| extension != "keep") {
                continue;
            }
            if (is_of_refs || !meta.is_dir()) && is_lock(&path, is_of_refs).await {
                locks.push((path, meta.modified().unwrap_or(SystemTime::UNIX_EPOCH)));
            } else if meta.is_dir() && (is_of_refs || name == "refs") {
                open.push(path);
            }
        }
    }
    locks
}

/// Whether a file is a lock. One that keeps a pack may be an operator's, and one `of_refs` a branch: no name of a branch ends
/// in `.lock`.
async fn is_lock(path: &Path, of_refs: bool) -> bool {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("lock") => true,
        _ if of_refs => false,
        Some("new") => path.ends_with("packed-refs.new"),
        Some("keep") => fs::read(path).await.is_ok_and(|text| text.starts_with(b"receive-pack ")),
        _ => false,
    }
}

async fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path).await {
        Err(err) if err.kind() == io::ErrorKind::NotADirectory => fs::remove_file(path).await,
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn copy(dir: &Path, name: &str, len: usize) -> PathBuf {
        let path = dir.join(name);
        fs::create_dir_all(path.join("objects/pack")).await.unwrap();
        fs::write(path.join("objects/pack/pack-1.pack"), vec![0; len]).await.unwrap();
        path
    }

    #[tokio::test]
    async fn copies_used_longest_ago_make_room_and_those_in_use_stay() {
        let dir = tempfile::tempdir().unwrap();
        let uses = Uses::default();
        let disk = Disk::new(dir.path().into(), 4000, uses.clone());
        // Never used, used, and in use.
        let old = copy(dir.path(), "a.git", 900).await;
        let young = copy(dir.path(), "b.git", 900).await;
        mark_used(&young).await;
        let busy = copy(dir.path(), "0.git", 900).await;
        let held = uses.begin(&busy);
        disk.make_room(100, 0).await.unwrap();
        assert!(!old.exists() && young.exists() && busy.exists());
        disk.make_room(3000, 0).await.unwrap();
        assert!(!young.exists() && busy.exists());
        assert!(disk.make_room(3200, 0).await.is_err());
        drop(held);
        disk.make_room(3200, 0).await.unwrap();
        assert!(!busy.exists());
    }

    #[tokio::test]
    async fn copies_go_also_where_others_have_filled_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let (kept, uses) = (copy(dir.path(), "a.git", 10).await, Uses::default());
        let disk = Disk::new(dir.path().into(), 4000, uses);
        disk.make_room(100, 1).await.unwrap();
        assert!(kept.exists());
        disk.make_room(100, u64::MAX).await.unwrap();
        assert!(!kept.exists());
    }

    #[tokio::test]
    async fn leftovers_go_and_packs_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = copy(dir.path(), "a.git", 10).await;
        fs::create_dir(path.join("objects/tmp_objdir-incoming-x")).await.unwrap();
        fs::write(path.join("objects/tmp_objdir-incoming-x/y"), "").await.unwrap();
        fs::write(path.join("objects/pack/tmp_pack_z"), "").await.unwrap();
        fs::write(path.join("spool-1"), "").await.unwrap();
        remove_leftovers(&path).await;
        assert_eq!(size(&path).await, 10);
        assert!(!path.join("objects/tmp_objdir-incoming-x").exists());
    }

    #[tokio::test]
    async fn locks_of_a_git_that_was_killed_go_and_what_others_keep_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = copy(dir.path(), "a.git", 10).await;
        fs::create_dir_all(path.join("refs/heads/a")).await.unwrap();
        let locks = [
            "config.lock",
            "packed-refs.lock",
            "packed-refs.new",
            "refs/heads/main.lock",
            "refs/heads/a/b.lock",
            "reftable/tables.list.lock",
        ];
        fs::create_dir(path.join("reftable")).await.unwrap();
        for lock in locks {
            fs::write(path.join(lock), "").await.unwrap();
        }
        fs::create_dir(path.join("refs/heads/c.lock")).await.unwrap();
        let (ours, theirs) =
            (path.join("objects/pack/pack-1.keep"), path.join("objects/pack/pack-2.keep"));
        fs::write(&ours, "receive-pack 12 on host\n").await.unwrap();
        fs::write(&theirs, "an operator's\n").await.unwrap();
        for branch in ["main", "packed-refs.new"] {
            fs::write(path.join("refs/heads").join(branch), "").await.unwrap();
        }
        // A git that lives takes its lock back.
        let (live, grace) = (path.join("HEAD.lock"), Duration::from_secs(3600));
        fs::write(&live, "").await.unwrap();
        let an_hour_ago = SystemTime::now() - grace;
        for lock in locks.map(|lock| path.join(lock)).iter().chain([&ours]) {
            std::fs::File::open(lock).unwrap().set_modified(an_hour_ago).unwrap();
        }
        let c = std::fs::File::open(path.join("refs/heads/c.lock")).unwrap();
        c.set_modified(an_hour_ago).unwrap();
        let (left, ()) = tokio::join!(remove_locks(&path, grace), async {
            tokio::task::yield_now().await;
            assert!(locks.iter().all(|lock| path.join(lock).exists()) && ours.exists());
            fs::remove_file(&live).await.unwrap();
        });
        assert!(left.is_empty() && !path.join("refs/heads/c.lock").exists());
        assert!(!locks.iter().any(|lock| path.join(lock).exists()) && !ours.exists());
        assert!(theirs.exists() && path.join("refs/heads/main").exists());
        assert!(path.join("refs/heads/packed-refs.new").exists());
    }
}
