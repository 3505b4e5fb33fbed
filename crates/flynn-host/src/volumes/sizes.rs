//! How large the volumes are. Counting walks every file, so it is bounded, and done once for all who ask at about the same
//! time.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use api::volume::{HostVolume, Size};
use tokio::{sync::Mutex, time::Instant};

use super::folders::{blocking, holders, listed};
use crate::host::Host;

/// Longest time a count of all volumes takes.
const TIME_MAX: Duration = Duration::from_secs(5);
/// Files looked at of one volume, however fast that goes: what is read pushes out what jobs have in memory.
const FILES_MAX: u32 = 300_000;
/// A count that is younger is given again.
const GOOD_FOR: Duration = Duration::from_secs(20);
/// Unit of `st_blocks`.
const BLOCK: u64 = 512;

type Counted = BTreeMap<String, Size>;

/// The last count.
#[derive(Debug, Default)]
pub(crate) struct Sizes {
    last: Mutex<Option<(Instant, Arc<Counted>)>>,
}

impl Sizes {
    /// The count, made anew if it is old.
    async fn now(&self, folder: PathBuf) -> io::Result<Arc<Counted>> {
        let mut last = self.last.lock().await;
        if let Some((at, counted)) = &*last
            && at.elapsed() < GOOD_FOR
        {
            return Ok(counted.clone());
        }
        let counted = Arc::new(blocking(move || count(&folder)).await?);
        *last = Some((Instant::now(), counted.clone()));
        Ok(counted)
    }
}

/// The volumes of this host.
pub(crate) async fn list(host: &Host) -> io::Result<Vec<HostVolume>> {
    let folder = host.folders.volumes();
    let counted = host.sizes.now(folder.clone()).await?;
    let (names, _) = blocking(move || listed(&folder)).await?;
    let active = host.registry.active();
    let volume = |name: String| HostVolume {
        // One that came since has little in it.
        size: counted.get(&name).copied().unwrap_or(Size { bytes: 0, at_least: true }),
        jobs: holders(&active, &name).map(|active| active.job.id).collect(),
        name,
    };
    Ok(names.into_iter().map(volume).collect())
}

/// Counts each volume, and leaves time for those that follow.
fn count(folder: &Path) -> io::Result<Counted> {
    let (names, _) = listed(folder)?;
    let end = std::time::Instant::now() + TIME_MAX;
    let mut left = u32::try_from(names.len()).unwrap_or(u32::MAX);
    let mut counted = Counted::new();
    for name in names {
        let now = std::time::Instant::now();
        let share = end.saturating_duration_since(now) / left.max(1);
        let size = size(&folder.join(&name), now + share, FILES_MAX);
        counted.insert(name, size);
        left -= 1;
    }
    Ok(counted)
}

/// Bytes a folder's files take of the disk, as far as they can be counted until then. What goes or cannot be read meanwhile
/// is left out, and so is what is mounted below.
fn size(folder: &Path, end: std::time::Instant, files_max: u32) -> Size {
    let (mut bytes, mut files, mut folders) = (0, 0, vec![folder.to_owned()]);
    let Ok(device) = fs::symlink_metadata(folder).map(|meta| meta.dev()) else {
        return Size::default();
    };
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            files += 1;
            if files > files_max || std::time::Instant::now() >= end {
                return Size { bytes, at_least: true };
            }
            // Of a link, not of where it leads.
            let Ok(meta) = entry.metadata() else { continue };
            if meta.dev() != device {
                continue;
            }
            bytes += meta.blocks() * BLOCK;
            if meta.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    Size { bytes, at_least: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_all_folders_are_counted_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (volumes, elsewhere) = (dir.path().join("volumes"), dir.path().join("elsewhere"));
        fs::create_dir_all(volumes.join("db/deep/deeper")).unwrap();
        fs::create_dir_all(volumes.join("empty")).unwrap();
        fs::create_dir_all(volumes.join(".going-old")).unwrap();
        fs::create_dir(&elsewhere).unwrap();
        fs::write(volumes.join("db/deep/deeper/file"), vec![1; 1 << 20]).unwrap();
        fs::write(elsewhere.join("file"), vec![1; 4 << 20]).unwrap();
        std::os::unix::fs::symlink(&elsewhere, volumes.join("db/link")).unwrap();
        let counted = count(&volumes).unwrap();
        assert_eq!(counted.keys().collect::<Vec<_>>(), ["db", "empty"]);
        assert_eq!(counted["empty"], Size::default());
        assert!(((1 << 20)..(2 << 20)).contains(&counted["db"].bytes), "{counted:?}");
        assert!(!counted["db"].at_least);
    }

    #[test]
    fn a_count_ends_when_its_time_or_its_files_are_over() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..10 {
            fs::write(dir.path().join(n.to_string()), "x").unwrap();
        }
        let later = std::time::Instant::now() + TIME_MAX;
        assert!(size(dir.path(), later, 9).at_least);
        assert!(!size(dir.path(), later, 10).at_least);
        assert!(size(dir.path(), std::time::Instant::now(), 10).at_least);
    }
}
