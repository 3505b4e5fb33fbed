//! Where a slug goes, by what the command line says.

use std::path::PathBuf;

/// Where a slug goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A file, in place of one that is there.
    File(PathBuf),
    /// Stdout; what is said goes to stderr then.
    Stdout,
    /// A URL it is PUT to.
    Url(String),
}

/// The word is none of the three.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no place for a slug: give - for stdout, http://host/path to PUT it there, or an absolute path; without any \
     it is written to /tmp/slug.tgz"
)]
pub struct BadTarget(String);

impl Target {
    /// Reads the argument.
    pub fn parse(word: &str) -> Result<Self, BadTarget> {
        let has_host = ["http://", "https://"]
            .iter()
            .any(|scheme| word.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()));
        if word == "-" {
            Ok(Self::Stdout)
        } else if has_host {
            Ok(Self::Url(word.into()))
        } else if word.starts_with('/') && !word.ends_with('/') {
            Ok(Self::File(word.into()))
        } else {
            Err(BadTarget(word.chars().take(200).collect()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_places_of_2014_and_nothing_else() {
        assert_eq!(Target::parse("-"), Ok(Target::Stdout));
        assert_eq!(Target::parse("/tmp/slug.tgz"), Ok(Target::File("/tmp/slug.tgz".into())));
        assert_eq!(Target::parse("http://h/x.tgz"), Ok(Target::Url("http://h/x.tgz".into())));
        for bad in ["", "slug.tgz", "/tmp/", "ftp://h/x", "http://", "bash"] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
    }
}
