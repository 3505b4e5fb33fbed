//! Unpacking archives, as little trusted as whoever pushed them.

use std::{
    ffi::OsStr,
    fs,
    io::{self, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{OpenOptionsExt, PermissionsExt, symlink},
    },
    path::Path,
    time::{Duration, SystemTime},
};

use async_compression::tokio::bufread::GzipDecoder;
use futures_util::StreamExt;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt};
use tokio_tar::{Archive, Entry};

use crate::domain::entry::{Judge, Kind, Refused};

/// Why an archive was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// Refused.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Not read, or not written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Unpacks a tar or tar.gz into an empty directory. Answers with the time of its newest file, in seconds.
pub async fn unpack(
    mut archive: impl AsyncBufRead + Unpin + Send,
    into: &Path,
) -> Result<u64, UnpackError> {
    let gzipped = archive.fill_buf().await?.starts_with(&[0x1f, 0x8b]);
    if gzipped {
        let mut decoder = GzipDecoder::new(archive);
        decoder.multiple_members(true);
        entries(decoder, into).await
    } else {
        entries(archive, into).await
    }
}

async fn entries(archive: impl AsyncRead + Unpin + Send, into: &Path) -> Result<u64, UnpackError> {
    let mut archive = Archive::new(archive);
    let mut entries = archive.entries()?;
    let mut judge = Judge::default();
    let mut newest = 0;
    while let Some(entry) = entries.next().await {
        let mut entry = entry?;
        // git archive puts the commit's id into one.
        if entry.header().entry_type().is_pax_global_extensions() {
            continue;
        }
        newest = newest.max(entry.header().mtime().unwrap_or(0));
        one(&mut entry, &mut judge, into).await?;
    }
    Ok(newest)
}

async fn one<R: AsyncRead + Unpin>(
    entry: &mut Entry<R>,
    judge: &mut Judge,
    into: &Path,
) -> Result<(), UnpackError> {
    let kind = kind(entry);
    let path = entry.path_bytes()?.into_owned();
    let Some(place) = judge.admit(&path, kind, entry.effective_size())? else { return Ok(()) };
    let place = into.join(place);
    if kind == Kind::Directory {
        return Ok(fs::create_dir_all(&place)?);
    }
    if let Some(above) = place.parent() {
        fs::create_dir_all(above)?;
    }
    match fs::remove_file(&place) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err.into()),
        _ => {}
    }
    let target = entry.link_name_bytes()?.map(|target| target.into_owned()).unwrap_or_default();
    match kind {
        Kind::Symlink => symlink(OsStr::from_bytes(&target), &place)?,
        Kind::HardLink => fs::hard_link(into.join(judge.linked(&target)?), &place)?,
        _ => file(entry, &place).await?,
    }
    Ok(())
}

fn kind<R: AsyncRead + Unpin>(entry: &Entry<R>) -> Kind {
    let kind = entry.header().entry_type();
    if kind.is_file() || kind.is_contiguous() {
        Kind::File
    } else if kind.is_dir() {
        Kind::Directory
    } else if kind.is_symlink() {
        Kind::Symlink
    } else if kind.is_hard_link() {
        Kind::HardLink
    } else {
        Kind::Other
    }
}

async fn file<R: AsyncRead + Unpin>(entry: &mut Entry<R>, place: &Path) -> io::Result<()> {
    let mode = entry.header().mode().unwrap_or(0o644) & 0o777;
    let time = Duration::from_secs(entry.header().mtime().unwrap_or(0));
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(place)?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = entry.read(&mut buffer).await?;
        if read == 0 {
            break;
        }
        file.write_all(&buffer[..read])?;
    }
    file.set_permissions(fs::Permissions::from_mode(mode | 0o600))?;
    if let Some(time) = SystemTime::UNIX_EPOCH.checked_add(time) {
        file.set_modified(time)?;
    }
    Ok(())
}
