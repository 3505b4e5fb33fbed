//! What a push brought, as a file: the pack that goes to shelf, the tree that goes to the receiver.

use std::{
    fs::File,
    io::{self, Seek},
    path::Path,
    process::Stdio,
};

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::Command,
};

use crate::git::{Git, GitError, Group, STDERR_LEN_MAX, drain, spawn};

/// Bytes read of git's output at a time.
const READ_SIZE: usize = 128 << 10;
/// Largest tree, unpacked: a pack of 2 GiB can hold a tree of any size.
pub(crate) const TREE_LEN_MAX: u64 = 4 << 30;
/// Largest pack; what was pushed before counts when packs are joined.
const PACK_LEN_MAX: u64 = 8 << 30;
/// When a repository has so many packs, the next push makes one of all of them.
pub(crate) const PACKS_MAX: usize = 24;

/// Why a file could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PackError {
    #[error(transparent)]
    Git(#[from] GitError),
    #[error("git {what} could not be read")]
    Io {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("what git {what} says could not be written to the disk of this server")]
    Write {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("what git {what} makes of this push is larger than {limit} bytes")]
    TooLarge { what: &'static str, limit: u64 },
    #[error("its tree has more than {limit} files and folders")]
    TooMany { limit: u64 },
}

/// A pack that is not in shelf yet.
#[derive(Debug)]
pub(crate) struct Pack {
    pub(crate) file: NamedTempFile,
    pub(crate) sha256: String,
}

/// Environment git needs to see objects that are not accepted yet.
pub(crate) type Quarantine = std::collections::BTreeMap<String, String>;

/// Packs what `wanted` reaches and `known` does not. `None` if that is nothing.
pub(crate) async fn pack(
    git: &Git,
    repo: &Path,
    quarantine: &Quarantine,
    wanted: &[String],
    known: &[String],
) -> Result<Option<Pack>, PackError> {
    let args = ["pack-objects", "--revs", "--stdout", "--quiet", "--delta-base-offset"];
    let id = wanted.first().map_or("", String::as_str);
    let mut command = git.plain(repo, id, &args);
    command.envs(quarantine);
    let wanted = wanted.iter().map(|id| format!("{id}\n"));
    let revisions = wanted.chain(known.iter().map(|id| format!("^{id}\n"))).collect();
    let (file, digest, head) =
        spool("pack-objects", command, Some(revisions), repo, PACK_LEN_MAX).await?;
    // "PACK", version, number of objects.
    if head.get(8..12).is_some_and(|count| count == [0; 4]) {
        return Ok(None);
    }
    Ok(Some(Pack { file, sha256: digest }))
}

/// The tree of a commit as a tar, every file as it was committed. (In a bare repository there is no work tree that
/// `--worktree-attributes` could find attributes in; without it those of the commit would leave files out, write commit
/// ids into them and change their line ends, and git would hold the whole tree in memory.)
pub(crate) async fn tree(
    git: &Git,
    repo: &Path,
    quarantine: &Quarantine,
    commit: &str,
) -> Result<NamedTempFile, PackError> {
    let mut command =
        git.plain(repo, commit, &["archive", "--worktree-attributes", "--format=tar", commit]);
    command.envs(quarantine);
    Ok(spool("archive", command, None, repo, TREE_LEN_MAX).await?.0)
}

/// Runs git with its output in a file; the file, its SHA-256 and its first bytes.
async fn spool(
    what: &'static str,
    mut command: Command,
    stdin: Option<String>,
    dir: &Path,
    limit: u64,
) -> Result<(NamedTempFile, String, Vec<u8>), PackError> {
    let io = |source| PackError::Io { what, source };
    command.stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = spawn(&mut command).map_err(io)?;
    let _group = Group::of(&child);
    let pipe = child.stdin.take();
    let fed = async {
        if let (Some(mut pipe), Some(text)) = (pipe, stdin) {
            // git may end before it has read all; what it says then is what counts.
            let _ = pipe.write_all(text.as_bytes()).await;
        }
        Ok(())
    };
    let stdout = child.stdout.take().ok_or_else(|| io(io::ErrorKind::BrokenPipe.into()))?;
    // All pipes at once: git that waits for room in one writes nothing to the other.
    let complaints = drain(child.stderr.take(), STDERR_LEN_MAX);
    let written = write_out(what, stdout, dir, limit);
    let complaints = async { Ok(complaints.await) };
    let ((), written, stderr) = tokio::try_join!(fed, written, complaints)?;
    let status = child.wait().await.map_err(io)?;
    if status.success() { Ok(written) } else { Err(GitError::failed(what, status, &stderr).into()) }
}

/// Writes what git says into a file, up to a limit.
async fn write_out(
    what: &'static str,
    mut stdout: impl AsyncRead + Unpin,
    dir: &Path,
    limit: u64,
) -> Result<(NamedTempFile, String, Vec<u8>), PackError> {
    let io = |source| PackError::Io { what, source };
    let unwritten = |source| PackError::Write { what, source };
    let temp = tempfile::Builder::new().prefix("spool-").tempfile_in(dir).map_err(unwritten)?;
    let mut file = tokio::fs::File::from_std(temp.reopen().map_err(unwritten)?);
    let (mut digest, mut len, mut head) = (Sha256::new(), 0_u64, Vec::new());
    let mut buffer = vec![0; READ_SIZE];
    loop {
        let read = stdout.read(&mut buffer).await.map_err(io)?;
        let chunk = &buffer[..read];
        if chunk.is_empty() {
            break;
        }
        len += read as u64;
        if len > limit {
            return Err(PackError::TooLarge { what, limit });
        }
        if head.len() < 12 {
            head.extend_from_slice(&chunk[..read.min(12)]);
        }
        digest.update(chunk);
        file.write_all(chunk).await.map_err(unwritten)?;
    }
    file.flush().await.map_err(unwritten)?;
    Ok((temp, hex::encode(digest.finalize()), head))
}

/// A file, to be read from its start.
pub(crate) fn rewound(mut file: &File) -> io::Result<()> {
    file.rewind()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::with_causes;

    #[tokio::test]
    async fn why_a_file_could_not_be_written_is_told() {
        let nowhere = Path::new("/nonexistent");
        let err = write_out("archive", &b"tar"[..], nowhere, 10).await.unwrap_err();
        let said = with_causes(&err);
        assert!(said.contains("could not be written") && said.contains("No such file"), "{said}");
        let full = io::Error::from_raw_os_error(28);
        let said = with_causes(&PackError::Write { what: "archive", source: full });
        assert!(said.ends_with("of this server: No space left on device (os error 28)"), "{said}");
    }
}
