//! Packing a directory into a tar.gz that is the same for the same content.

use std::{
    fs,
    io::{self, Cursor, Read},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use api::slug::SlugFile;
use async_compression::{Level, tokio::write::GzipEncoder};
use rustix::fs::OFlags;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_tar::{Builder, EntryType, Header};

/// Apps run as this user and group, to whom all of a slug belongs.
const OWNER: u64 = 1000;
/// Longest link target that fits in a header.
const SHORT_LINK: usize = 100;
/// Files up to this many bytes are read at once, larger ones as they are written.
const SMALL: u64 = 1 << 20;

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

/// Bytes that a listing unpacks to.
pub fn unpacked_size(items: &[Item]) -> u64 {
    let files = items.iter().filter(|item| item.kind == EntryType::Regular);
    files.fold(0, |sum, item| sum.saturating_add(item.size))
}

/// A tar.gz on disk, in a file without a name: it can be sent several times, and only by us.
#[derive(Debug)]
pub struct Packed {
    file: fs::File,
    /// Its digest and size.
    pub is: SlugFile,
}

impl Packed {
    /// Reads a piece of it; empty at its end.
    pub fn piece(&self, from: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut piece = vec![0; length];
        let read = self.file.read_at(&mut piece, from)?;
        piece.truncate(read);
        Ok(piece)
    }

    /// Writes all of it.
    pub fn copy_to(&self, out: &mut impl io::Write) -> io::Result<()> {
        let mut at = 0;
        loop {
            let piece = self.piece(at, SMALL as usize)?;
            if piece.is_empty() {
                return out.flush();
            }
            out.write_all(&piece)?;
            at += piece.len() as u64;
        }
    }
}

/// Packs a listing into a file that is made in `scratch`. None: it has more than `limit` bytes.
pub async fn pack_to_disk(
    root: &Path,
    items: &[Item],
    time: Option<u64>,
    scratch: &Path,
    limit: u64,
) -> io::Result<Option<Packed>> {
    let name = scratch.join(format!(".packed-{}", uuid::Uuid::new_v4()));
    let file =
        fs::OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&name)?;
    fs::remove_file(&name)?;
    let meter = Arc::new(Mutex::new(Meter::default()));
    let out =
        Metered { file: tokio::fs::File::from_std(file.try_clone()?), meter: meter.clone(), limit };
    let packed = pack(root, items, time, out).await;
    let meter = std::mem::take(&mut *meter.lock().unwrap_or_else(PoisonError::into_inner));
    if meter.bytes > limit {
        return Ok(None);
    }
    packed?;
    let is = SlugFile { sha256: hex::encode(meter.hash.finalize()), size: meter.bytes };
    Ok(Some(Packed { file, is }))
}

#[derive(Debug, Default)]
struct Meter {
    hash: Sha256,
    bytes: u64,
}

/// A file that knows the digest of what was written to it.
#[derive(Debug)]
struct Metered {
    file: tokio::fs::File,
    meter: Arc<Mutex<Meter>>,
    limit: u64,
}

impl AsyncWrite for Metered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.file).poll_write(cx, bytes))?;
        let mut meter = self.meter.lock().unwrap_or_else(PoisonError::into_inner);
        meter.hash.update(&bytes[..written]);
        meter.bytes += written as u64;
        if meter.bytes > self.limit {
            return Poll::Ready(Err(io::Error::other("it is too large")));
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.file).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.file).poll_shutdown(cx)
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
        // A link or a pipe that took its place meanwhile is not followed, and nothing waits for it.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
        let mut file = fs::OpenOptions::new()
            .read(true)
            .custom_flags(i32::try_from(flags).unwrap_or_default())
            .open(&path)?;
        let size = file.metadata()?.len();
        header.set_size(size);
        if size <= SMALL {
            let mut whole = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
            file.by_ref().take(size).read_to_end(&mut whole)?;
            let whole = Exact { inner: Cursor::new(whole), left: size };
            return archive.append_data(&mut header, &item.path, whole).await;
        }
        let streamed = Exact { inner: tokio::fs::File::from_std(file), left: size };
        return archive.append_data(&mut header, &item.path, streamed).await;
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

/// A reader that gives as many bytes as were promised, or an error: a header has said how many follow.
struct Exact<R> {
    inner: R,
    left: u64,
}

impl<R: AsyncRead + Unpin> AsyncRead for Exact<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let room = buf.remaining().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if room == 0 {
            return Poll::Ready(Ok(()));
        }
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(room));
        ready!(Pin::new(&mut self.inner).poll_read(cx, &mut part))?;
        let read = part.filled().len();
        if read == 0 {
            return Poll::Ready(Err(io::Error::other("a file became shorter while it was packed")));
        }
        self.left -= read as u64;
        buf.advance(read);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn large_files_are_packed_whole_and_the_limit_holds() {
        let (root, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let large: Vec<u8> = (0..3 * SMALL + 7).map(|n| (n % 251) as u8).collect();
        fs::write(root.path().join("large"), &large).unwrap();
        fs::write(root.path().join("small"), b"x").unwrap();
        let items = list(root.path(), |_, _| false).unwrap();
        assert_eq!(unpacked_size(&items), large.len() as u64 + 1);
        let packed = pack_to_disk(root.path(), &items, Some(1), scratch.path(), u64::MAX);
        let packed = packed.await.unwrap().unwrap();
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0, "it has a name");
        let mut bytes = Vec::new();
        packed.copy_to(&mut bytes).unwrap();
        assert_eq!(packed.is.sha256, hex::encode(Sha256::digest(&bytes)));
        assert_eq!(packed.is.size, bytes.len() as u64);
        let place = tempfile::tempdir().unwrap();
        crate::unpack::unpack(&bytes[..], place.path()).await.unwrap();
        assert_eq!(fs::read(place.path().join("large")).unwrap(), large);
        let limited = pack_to_disk(root.path(), &items, None, scratch.path(), 100).await.unwrap();
        assert!(limited.is_none());
    }

    #[tokio::test]
    async fn a_file_that_shrinks_is_an_error_and_no_spoilt_archive() {
        let mut short = Exact { inner: Cursor::new(b"abc".to_vec()), left: 5 };
        let mut bytes = Vec::new();
        let read = tokio::io::AsyncReadExt::read_to_end(&mut short, &mut bytes).await;
        assert!(read.is_err());
    }
}
