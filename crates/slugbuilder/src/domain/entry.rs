//! Which entries of an archive may be unpacked.

use std::{
    collections::HashSet,
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
};

/// Entries an archive may have. The largest repositories have some hundred thousand files.
const MAX_ENTRIES: u64 = 1_000_000;
/// Bytes it may unpack to: more than fits in a job's disk would end less clearly.
const MAX_BYTES: u64 = 8 << 30;
/// Length of a path the system takes.
const MAX_PATH: usize = 4096;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// Another name of a file before it.
    HardLink,
    /// A device, a pipe, or what nobody knows.
    Other,
}

/// Why an archive is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum Refused {
    #[error("{0:?} leads out of it")]
    Outside(String),
    #[error("{0:?} is neither a file, nor a directory, nor a link")]
    Kind(String),
    #[error("{0:?} lies behind a symbolic link")]
    BehindLink(String),
    #[error("{0:?} is a link to nothing in it")]
    Dangling(String),
    #[error("it has more than {MAX_ENTRIES} entries")]
    Entries,
    #[error("it has more than {} GiB", MAX_BYTES >> 30)]
    Bytes,
}

/// Judges the entries of one archive, in order.
#[derive(Debug, Default)]
pub struct Judge {
    entries: u64,
    bytes: u64,
    links: HashSet<PathBuf>,
}

impl Judge {
    /// Where an entry goes, relative to the root; none for the root itself.
    pub fn admit(
        &mut self,
        path: &[u8],
        kind: Kind,
        size: u64,
    ) -> Result<Option<PathBuf>, Refused> {
        self.entries += 1;
        if self.entries > MAX_ENTRIES {
            return Err(Refused::Entries);
        }
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > MAX_BYTES {
            return Err(Refused::Bytes);
        }
        let place = self.inside(path)?;
        if kind == Kind::Other {
            return Err(Refused::Kind(shown(path)));
        }
        if place.as_os_str().is_empty() {
            return if kind == Kind::Directory {
                Ok(None)
            } else {
                Err(Refused::Kind(shown(path)))
            };
        }
        if kind == Kind::Symlink {
            self.links.insert(place.clone());
        } else if kind != Kind::Directory {
            // It takes the place of a link of the same name.
            self.links.remove(&place);
        } else if self.links.contains(&place) {
            return Err(Refused::BehindLink(shown(path)));
        }
        Ok(Some(place))
    }

    /// The file a hard link names.
    pub fn linked(&self, target: &[u8]) -> Result<PathBuf, Refused> {
        let place = self.inside(target)?;
        if place.as_os_str().is_empty() || self.links.contains(&place) {
            return Err(Refused::Dangling(shown(target)));
        }
        Ok(place)
    }

    /// A path made of plain names only, none of them a link.
    fn inside(&self, path: &[u8]) -> Result<PathBuf, Refused> {
        if path.len() > MAX_PATH || path.contains(&0) {
            return Err(Refused::Outside(shown(path)));
        }
        let mut place = PathBuf::new();
        for component in Path::new(OsStr::from_bytes(path)).components() {
            match component {
                Component::CurDir => continue,
                Component::Normal(name) => {
                    if self.links.contains(&place) {
                        return Err(Refused::BehindLink(shown(path)));
                    }
                    place.push(name);
                }
                _ => return Err(Refused::Outside(shown(path))),
            }
        }
        Ok(place)
    }
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_plain_places_inside_are_admitted() {
        let mut judge = Judge::default();
        assert_eq!(judge.admit(b"./", Kind::Directory, 0), Ok(None));
        assert_eq!(judge.admit(b"./a/b", Kind::File, 1), Ok(Some("a/b".into())));
        for outside in ["/etc/passwd", "../x", "a/../../x", "a/..", "a\0b"] {
            let refused = judge.admit(outside.as_bytes(), Kind::File, 1);
            assert!(matches!(refused, Err(Refused::Outside(_))), "{outside}");
        }
        assert!(matches!(judge.admit(b"dev", Kind::Other, 0), Err(Refused::Kind(_))));
        assert!(matches!(judge.admit(b".", Kind::Symlink, 0), Err(Refused::Kind(_))));
    }

    #[test]
    fn nothing_is_written_through_a_link() {
        let mut judge = Judge::default();
        judge.admit(b"link", Kind::Symlink, 0).unwrap();
        let through = judge.admit(b"link/passwd", Kind::File, 1);
        assert!(matches!(through, Err(Refused::BehindLink(_))));
        assert!(matches!(judge.admit(b"link", Kind::Directory, 0), Err(Refused::BehindLink(_))));
        assert!(matches!(judge.linked(b"link"), Err(Refused::Dangling(_))));
        assert!(matches!(judge.linked(b"../x"), Err(Refused::Outside(_))));
        // A file of the same name replaces the link, and is then nothing but a file.
        judge.admit(b"link", Kind::File, 1).unwrap();
        assert_eq!(judge.linked(b"link"), Ok("link".into()));
    }

    #[test]
    fn bombs_are_refused() {
        let mut judge = Judge::default();
        judge.admit(b"a", Kind::File, MAX_BYTES).unwrap();
        assert_eq!(judge.admit(b"b", Kind::File, 1), Err(Refused::Bytes));
    }

    proptest! {
        #[test]
        fn no_path_panics_or_escapes(paths in prop::collection::vec(("(a|b|\\.|\\.\\.|/|\\PC){0,12}", 0..5usize), 0..20)) {
            let kinds = [Kind::Directory, Kind::File, Kind::Symlink, Kind::HardLink, Kind::Other];
            let mut judge = Judge::default();
            for (path, kind) in paths {
                if let Ok(Some(place)) = judge.admit(path.as_bytes(), kinds[kind], 1) {
                    prop_assert!(place.components().all(|c| matches!(c, Component::Normal(_))));
                }
            }
        }
    }
}
