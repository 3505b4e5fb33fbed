//! Names of blobs.

use std::{fmt, path::PathBuf};

/// Longest path.
const PATH_LEN_MAX: usize = 1024;
/// Longest name between two slashes; file systems take 255, and one byte is ours.
const NAME_LEN_MAX: usize = 200;
/// Deepest path.
const NAMES_MAX: usize = 16;
/// Ends the name of a blob's file. No path holds it, so a blob's file can never be in the place of a directory.
const FILE_MARK: char = '%';

/// A blob's path: `/` and names, none of which can leave the store or be one of its own files.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobPath(String);

/// Why a text is not a blob's path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPath {
    /// Does not begin with a slash.
    #[error("must begin with a slash")]
    NotAbsolute,
    /// Is too long or too deep.
    #[error(
        "is too long: at most {PATH_LEN_MAX} bytes, {NAMES_MAX} names, {NAME_LEN_MAX} bytes each"
    )]
    TooLong,
    /// Has an empty name, as in `/a//b` or `/a/`.
    #[error("has an empty name between two slashes or at its end")]
    EmptyName,
    /// Has a name such as `.`, `..` or `.git`.
    #[error("has a name that begins with a dot")]
    Dot,
    /// Has a character that paths do not have.
    #[error("may hold only letters, digits and -._~+=@, in its names")]
    Character,
}

impl BlobPath {
    /// The path a text is. The text is what stands in a request, never decoded: there is nothing to decode.
    pub fn parse(text: &str) -> Result<Self, InvalidPath> {
        let names = text.strip_prefix('/').ok_or(InvalidPath::NotAbsolute)?;
        if text.len() > PATH_LEN_MAX || names.split('/').count() > NAMES_MAX {
            return Err(InvalidPath::TooLong);
        }
        for name in names.split('/') {
            match name.as_bytes() {
                [] => return Err(InvalidPath::EmptyName),
                [b'.', ..] => return Err(InvalidPath::Dot),
                name if name.len() > NAME_LEN_MAX => return Err(InvalidPath::TooLong),
                name if !name.iter().all(|&b| is_name_byte(b)) => {
                    return Err(InvalidPath::Character);
                }
                _ => {}
            }
        }
        Ok(Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first two names, if there are more: the packs of one app, what one build has.
    pub fn folder(&self) -> Option<String> {
        let (end, _) = self.0.match_indices('/').nth(2)?;
        Some(self.0[..=end].to_owned())
    }

    /// Its file, relative to the directory of all blobs.
    pub fn file(&self) -> PathBuf {
        PathBuf::from(format!("{}{FILE_MARK}", &self.0[1..]))
    }

    /// The path whose file is at `relative`, if that is a blob's file.
    pub fn of_file(relative: &str) -> Option<Self> {
        Self::parse(&format!("/{}", relative.strip_suffix(FILE_MARK)?)).ok()
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~+=@,".contains(&byte)
}

impl fmt::Display for BlobPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Component;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_that_could_leave_the_store_or_hide_in_it_are_refused() {
        let refused = [
            ("", InvalidPath::NotAbsolute),
            ("a", InvalidPath::NotAbsolute),
            ("/", InvalidPath::EmptyName),
            ("//a", InvalidPath::EmptyName),
            ("/a/", InvalidPath::EmptyName),
            ("/..", InvalidPath::Dot),
            ("/a/../b", InvalidPath::Dot),
            ("/./a", InvalidPath::Dot),
            ("/.tmp", InvalidPath::Dot),
            ("/a%2e%2e", InvalidPath::Character),
            ("/a%", InvalidPath::Character),
            ("/a\\b", InvalidPath::Character),
            ("/a b", InvalidPath::Character),
            ("/a\0", InvalidPath::Character),
            ("/ä", InvalidPath::Character),
        ];
        for (text, why) in refused {
            assert_eq!(BlobPath::parse(text), Err(why), "{text:?}");
        }
        assert_eq!(BlobPath::parse(&format!("/{}", "a".repeat(201))), Err(InvalidPath::TooLong));
        assert_eq!(BlobPath::parse(&"/a".repeat(17)), Err(InvalidPath::TooLong));
        assert!(BlobPath::parse("/slugs/0123abc.tgz").is_ok());
    }

    #[test]
    fn the_folder_of_a_path_is_its_first_two_names() {
        let folder = |text| BlobPath::parse(text).unwrap().folder();
        assert_eq!(folder("/slugs/a.tgz"), None);
        assert_eq!(folder("/repos/a/1.pack").as_deref(), Some("/repos/a/"));
        assert_eq!(folder("/x/y/z/w").as_deref(), Some("/x/y/"));
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_what_it_takes_stays_inside(text in "(/|\\.|\\.\\.|%|[a-z\0]|\\PC){0,40}") {
            if let Ok(path) = BlobPath::parse(&text) {
                prop_assert!(path.file().components().all(|c| matches!(c, Component::Normal(_))));
            }
        }

        #[test]
        fn a_path_and_its_file_name_each_other(text in "(/[a-z0-9][a-z0-9._-]{0,8}){1,5}") {
            let path = BlobPath::parse(&text).unwrap();
            prop_assert_eq!(BlobPath::of_file(path.file().to_str().unwrap()), Some(path));
        }
    }
}
