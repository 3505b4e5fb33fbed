//! Where servers keep their data.

use std::path::{Path, PathBuf};

use rustix::fs::statvfs;
use tempfile::TempDir;

/// A folder of memory, on Linux.
const MEMORY: &str = "/dev/shm";
/// With less room than this it is left alone: a PostgreSQL takes 60 MB, and as many tests run as there are processors.
const ROOM_MIN: u64 = 2 << 30;

/// The folder of all their folders: of memory, if there is room. A PostgreSQL makes a thousand files, which takes some file
/// systems longer than all that the test then does with it.
pub(crate) fn data_root() -> PathBuf {
    let room = statvfs(MEMORY).map_or(0, |fs| fs.f_bavail * fs.f_frsize);
    if room < ROOM_MIN { std::env::temp_dir() } else { Path::new(MEMORY).into() }
}

/// A folder for one server, removed with its value.
pub(crate) fn data_folder() -> TempDir {
    tempfile::Builder::new().prefix("flynn-test-").tempdir_in(data_root()).unwrap()
}
