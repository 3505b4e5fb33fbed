//! Small files that survive a power failure: written beside, synced, renamed, the folder synced.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
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

/// Replaces a file's content at one instant; mode 0600.
pub(crate) fn write(path: &Path, content: &[u8], durable: Durable) -> io::Result<()> {
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
