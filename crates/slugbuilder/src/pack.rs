//! Packing a directory into a tar.gz that is the same for the same content.

use std::{
    fs,
    io::{self, Cursor},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use async_compression::{Level, tokio::write::GzipEncoder};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_tar::{Builder, EntryType, Header};

/// Apps run as this user and group, to whom all of a slug belongs.
const OWNER: u64 = 1000;
/// Longest link target that fits in a header.
const SHORT_LINK: usize = 100;

/// A file, directory or link to be packed, by its path relative to the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Where it is in the archive.
    pub path: PathBuf,
    size: u64,
    mode: u32,
    mtime: i64,
    kind: EntryType,
}

impl Item {
    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.kind == EntryType::Directory
    }
}

/// Lists what is in a directory, sorted. `leave_out` is asked about each path; what a directory holds goes with it.
pub fn list(root: &Path, leave_out: impl Fn(&Path, bool) -> bool) -> io::Result<Vec<Item>> {
    let mut items = Vec::new();
    let mut directories = vec![PathBuf::new()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(root.join(&directory))? {
            let entry = entry?;
            let path = directory.join(entry.file_name());
            let metadata = entry.metadata()?;
            let kind = match metadata.file_type() {
                kind if kind.is_dir() => EntryType::Directory,
                kind if kind.is_file() => EntryType::Regular,
                kind if kind.is_symlink() => EntryType::Symlink,
                // Sockets and pipes mean nothing elsewhere.
                _ => continue,
            };
            if leave_out(&path, kind == EntryType::Directory) {
                continue;
            }
            if kind == EntryType::Directory {
                directories.push(path.clone());
            }
            let (size, mode, mtime) = (metadata.len(), metadata.mode(), metadata.mtime());
            items.push(Item { path, size, mode, mtime, kind });
        }
    }
    items.sort_by(|a, b| a.path.as_os_str().as_bytes().cmp(b.path.as_os_str().as_bytes()));
    Ok(items)
}

/// Says whether two listings are of the same content, as far as names, sizes and times tell.
pub fn fingerprint(items: &[Item]) -> String {
    let mut hash = Sha256::new();
    for item in items {
        hash.update(item.path.as_os_str().as_bytes());
        let times = if item.kind == EntryType::Regular { item.mtime } else { 0 };
        hash.update(format!("\0{} {:o} {times}\n", item.size, item.mode));
    }
    hex::encode(hash.finalize())
}

/// Writes the tar.gz of a listing. With a time all files get it, else each keeps its own.
pub async fn pack(
    root: &Path,
    items: &[Item],
    time: Option<u64>,
    out: impl AsyncWrite + Unpin + Send + 'static,
) -> io::Result<()> {
    let mut archive = Builder::new(GzipEncoder::with_quality(out, Level::Fastest));
    for item in items {
        one(&mut archive, root, item, time).await?;
    }
    archive.into_inner().await?.shutdown().await
}

async fn one<W: AsyncWrite + Unpin + Send + 'static>(
    archive: &mut Builder<W>,
    root: &Path,
    item: &Item,
    time: Option<u64>,
) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(item.kind);
    header.set_mode(mode(item));
    header.set_uid(OWNER);
    header.set_gid(OWNER);
    header.set_mtime(time.unwrap_or_else(|| u64::try_from(item.mtime).unwrap_or(0)));
    header.set_size(0);
    let path = root.join(&item.path);
    if item.kind == EntryType::Regular {
        let file = fs::read(&path)?;
        header.set_size(file.len() as u64);
        return archive.append_data(&mut header, &item.path, Cursor::new(file)).await;
    }
    if item.kind == EntryType::Symlink {
        let target = fs::read_link(&path)?;
        if target.as_os_str().len() > SHORT_LINK {
            long_link(archive, target.as_os_str().as_bytes()).await?;
            header.set_link_name(Path::new(std::ffi::OsStr::from_bytes(
                &target.as_os_str().as_bytes()[..SHORT_LINK],
            )))?;
        } else {
            header.set_link_name(&target)?;
        }
    }
    archive.append_data(&mut header, &item.path, tokio::io::empty()).await
}

/// What differs between machines and users is evened out: readable by all, executable by all or nobody.
fn mode(item: &Item) -> u32 {
    match item.kind {
        EntryType::Directory => 0o755,
        EntryType::Symlink => 0o777,
        _ if item.mode & 0o100 != 0 => 0o755,
        _ => 0o644,
    }
}

/// GNU's way to say a link's target that is too long for a header.
async fn long_link<W: AsyncWrite + Unpin + Send + 'static>(
    archive: &mut Builder<W>,
    target: &[u8],
) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNULongLink);
    header.set_path("././@LongLink")?;
    header.set_mode(0o644);
    header.set_size(target.len() as u64 + 1);
    header.set_cksum();
    let data: &mut (dyn AsyncRead + Unpin + Send) = &mut Cursor::new([target, b"\0"].concat());
    archive.append(&header, data).await
}
