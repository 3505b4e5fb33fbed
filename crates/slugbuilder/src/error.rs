//! Why an app was not built, for the one who pushed it.

use std::{error::Error, io, path::PathBuf, process::ExitStatus, time::Duration};

use api::slug::{BadType, RELEASE_FILE};

use crate::domain::{
    entry::Refused, output::size, release::BadRelease, source::BadSource, target::BadTarget,
};

/// Bytes that a Procfile, a `.slugignore` or a `.buildpacks` may have.
pub const MAX_TEXT: u64 = 1 << 20;

/// Why an app was not built.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum BuildError {
    #[error("The environment of the app is not a JSON object of strings")]
    Environment(#[source] serde_json::Error),
    #[error("{doing} failed")]
    Transfer {
        doing: &'static str,
        #[source]
        source: reqwest::Error,
    },
    #[error("{doing} failed: nothing moved any longer")]
    Stalled { doing: &'static str },
    #[error("{0}")]
    Target(#[from] BadTarget),
    #[error(
        "There is no source: give a tar of it on stdin, as in\n  git archive master | docker run -i -a stdin flynn/slugbuilder"
    )]
    NoSource,
    #[error("{doing} was refused with status {status}: {body}")]
    Status { doing: &'static str, status: u16, body: String },
    #[error("The {what} cannot be unpacked: {source}")]
    Refused { what: &'static str, source: Refused },
    #[error("The {what} cannot be unpacked")]
    Unpack {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("The {what} cannot be packed")]
    Pack {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error(
        "The slug would have more than {}. Leave out what the app does not need at run time: list it in .slugignore",
        size(*limit)
    )]
    TooLarge { limit: u64 },
    #[error(
        "The slug would unpack to {}; it may have {}. Leave out what the app does not need at run time: list it in .slugignore",
        size(*unpacked), size(*limit)
    )]
    TooMuch { unpacked: u64, limit: u64 },
    #[error(
        "The repository has a folder {RELEASE_FILE}, a name that slugs need for themselves: rename it, commit, and push again"
    )]
    ReleaseFolder,
    #[error("{name} is longer than {MAX_TEXT} bytes, or no file: that cannot be meant")]
    NoText { name: &'static str },
    #[error("Line {line} of the Procfile: {source}")]
    Type { line: usize, source: BadType },
    #[error("{} cannot be {done}", path.display())]
    File {
        path: PathBuf,
        done: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("The repository is empty: commit the app's files at its root, and push again")]
    Empty,
    #[error("{0}")]
    NoBuildpack(String),
    #[error("{of}: {source}")]
    Source { of: &'static str, source: BadSource },
    #[error(
        "The buildpack {url} could not be fetched: git ended with {status}; its messages are above"
    )]
    Fetch { url: String, status: ExitStatus },
    #[error("{name} is no buildpack: it has no bin/compile that can be run")]
    NotABuildpack { name: String },
    #[error("The buildpack {name} does not want this app, although .buildpacks lists it")]
    Unwanted { name: String },
    #[error(
        "The {name} buildpack failed ({status}); its reason is above. Mend it, commit, and push again"
    )]
    Compile { name: String, status: ExitStatus },
    #[error("The bin/release of the {name} buildpack failed ({status})")]
    Release { name: String, status: ExitStatus },
    #[error("The bin/release of the {name} buildpack printed what is no release: {source}")]
    BadRelease { name: String, source: BadRelease },
    #[error(
        "Line {line} of the Procfile is not \"type: command\". Write for example \"web: node server.js\""
    )]
    Procfile { line: usize },
    #[error("{program} could not be run")]
    Program {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error("The build took longer than {} and was stopped", minutes(*limit))]
    TooLong { limit: Duration },
}

impl BuildError {
    /// The whole of it, in one text that a terminal may be given.
    pub fn report(&self) -> String {
        // Our own lines stay lines.
        let mut text = self.to_string().lines().map(clean).collect::<Vec<_>>().join("\n");
        let mut cause = self.source();
        // Those that are told in the message itself.
        if matches!(
            self,
            Self::Refused { .. }
                | Self::Source { .. }
                | Self::BadRelease { .. }
                | Self::Type { .. }
                | Self::Target(_)
        ) {
            cause = None;
        }
        while let Some(err) = cause {
            text.push_str(": ");
            text.push_str(&clean(&err.to_string()));
            cause = err.source();
        }
        if !text.ends_with(['.', '\n']) {
            text.push('.');
        }
        text
    }
}

/// A text without what a terminal would obey, and not endless: errors quote what they were given, an archive's bytes too.
fn clean(text: &str) -> String {
    const LEN_MAX: usize = 1000;
    let seen = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().take(LEN_MAX).map(seen).collect()
}

fn minutes(limit: Duration) -> String {
    match limit.as_secs() {
        seconds if seconds % 60 == 0 => format!("{} minutes", seconds / 60),
        seconds => format!("{seconds} seconds"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[tokio::test]
    async fn a_broken_archive_is_named_without_its_bytes() {
        let place = tempfile::tempdir().unwrap();
        let garbage: Vec<u8> =
            (0..2048_u32).map(|n| [0x1b, b'[', b'2', b'J', 0x07][n as usize % 5]).collect();
        let unpacked = crate::transfer::unpack_stream("source", &garbage[..], place.path()).await;
        let said = unpacked.unwrap_err().report();
        assert!(said.starts_with("The source cannot be unpacked"), "{said}");
        assert!(!said.contains(char::is_control), "{said:?}");
    }

    proptest! {
        #[test]
        fn nothing_that_is_said_moves_a_terminal(bytes in ".{0,200}") {
            let source = io::Error::other(bytes.clone());
            for err in [BuildError::Unpack { what: "source", source }, BuildError::NoBuildpack(bytes)] {
                prop_assert!(!err.report().contains(|c: char| c.is_control() && c != '\n'));
            }
        }
    }
}
