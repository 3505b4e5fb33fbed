//! Which blobs there are.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use api::blob::Blob;

use super::{Inner, Store, blocking, is_absent, open_file, trailer};
use crate::{domain::BlobPath, error::StoreError};

/// Most blobs in one listing.
const LIST_MAX: usize = 10_000;

impl Store {
    /// Blobs whose path begins with `prefix`.
    pub(crate) async fn list(&self, prefix: String) -> Result<Vec<Blob>, StoreError> {
        let inner = self.0.clone();
        blocking(move || {
            let mut found = Vec::new();
            inner.walk(&start(&prefix), &prefix, &mut found).map_err(StoreError::io("listing"))?;
            Ok(found)
        })
        .await
    }
}

/// The directory below which everything with this prefix is. Nothing, where the prefix is none of a path.
fn start(prefix: &str) -> PathBuf {
    let dir = prefix.rsplit_once('/').map_or("", |(dir, _)| dir);
    match BlobPath::parse(dir) {
        Ok(path) => PathBuf::from(&path.as_str()[1..]),
        Err(_) => PathBuf::new(),
    }
}

impl Inner {
    fn walk(&self, dir: &Path, prefix: &str, found: &mut Vec<Blob>) -> io::Result<()> {
        let mut entries = match fs::read_dir(self.blobs.join(dir)) {
            Ok(entries) => entries.collect::<io::Result<Vec<_>>>()?,
            // Removed meanwhile, or never there.
            Err(err) if is_absent(&err) => return Ok(()),
            Err(err) => return Err(err),
        };
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            if found.len() >= LIST_MAX {
                break;
            }
            let relative = dir.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                self.walk(&relative, prefix, found)?;
            } else {
                found.extend(blob(&entry.path(), &relative, prefix));
            }
        }
        Ok(())
    }
}

fn blob(file: &Path, relative: &Path, prefix: &str) -> Option<Blob> {
    let path = BlobPath::of_file(relative.to_str()?)?;
    if !path.as_str().starts_with(prefix) {
        return None;
    }
    let file = open_file(file).ok()?;
    let modified = file.metadata().ok()?.modified().ok()?.try_into().ok()?;
    let (size, sha256) = trailer(&file)?;
    Some(Blob { path: path.to_string(), size, sha256, modified })
}
