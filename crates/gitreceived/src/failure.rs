//! Why a push could not be stored, and what is to be done about it.

use crate::{
    disk::NoRoom,
    git::{GitError, with_causes},
    hosting::KeepError,
    pack::PackError,
};

/// What git and the kernel say of a full disk, for every kind of push.
const OF_DISK: [&str; 3] =
    ["No space left on device", "Disk quota exceeded", "Read-only file system"];

/// Why the objects of a push could not be kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StepError {
    #[error(transparent)]
    Pack(#[from] PackError),
    #[error(transparent)]
    Git(#[from] GitError),
    #[error(transparent)]
    Keep(#[from] KeepError),
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
}

impl StepError {
    /// It as a pusher is told it.
    pub(crate) fn told(&self) -> String {
        let why = format!("The push could not be stored: {}.", with_causes(self));
        match self {
            Self::Pack(PackError::TooLarge { .. } | PackError::TooMany { .. }) => {
                format!("{why} Nothing was changed; make it smaller.")
            }
            _ => nothing_changed(&why),
        }
    }
}

/// A sentence with what is to be done.
pub(crate) fn nothing_changed(why: &str) -> String {
    match OF_DISK.iter().any(|words| why.contains(words)) {
        true => format!(
            "{why} Nothing was changed; pushing again helps when whoever runs this server has seen to its disk."
        ),
        false => format!("{why} Nothing was changed; push again."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn to_push_again_is_said_where_it_helps() {
        let full = std::io::Error::from_raw_os_error(28);
        for (err, advice) in [
            (PackError::Write { what: "archive", source: full }, "has seen to its disk."),
            (PackError::TooMany { limit: 5 }, "make it smaller."),
            (
                PackError::Io { what: "archive", source: std::io::ErrorKind::BrokenPipe.into() },
                "push again.",
            ),
        ] {
            let said = StepError::from(err).told();
            assert!(said.ends_with(advice), "{said}");
        }
    }
}
