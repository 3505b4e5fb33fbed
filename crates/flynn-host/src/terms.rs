//! The highest term of each role that gave this host an order. A lower one is refused: two leaders may believe in
//! themselves, one is obeyed.

use std::{
    io,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use api::discoverd::Term;

use crate::disk::{self, Durable};

/// The highest term, kept on disk.
#[derive(Debug)]
pub(crate) struct Terms {
    path: PathBuf,
    highest: Mutex<Term>,
}

/// The order is of a leader that leads no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this host obeys a leader of term {}, and yours is {}", highest.to_header(), given.to_header())]
pub(crate) struct OldTerm {
    /// The highest seen.
    highest: Term,
    /// The order's.
    given: Term,
}

/// Why an order is not obeyed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TermError {
    /// It is of an old leader.
    #[error(transparent)]
    Old(#[from] OldTerm),
    /// It could not be noted.
    #[error("the leader's term could not be noted")]
    Io(#[source] io::Error),
}

impl Terms {
    pub(crate) fn open(path: PathBuf) -> io::Result<Self> {
        let highest = disk::read_json(&path)?.unwrap_or_default();
        Ok(Self { path, highest: Mutex::new(highest) })
    }

    /// Obeys a term from now on, or refuses it. It is on disk before this answers.
    pub(crate) fn obey(&self, given: Term) -> Result<(), TermError> {
        let mut highest = self.highest.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(obeyed) = sampi::obey(*highest, given) else {
            return Err(OldTerm { highest: *highest, given }.into());
        };
        if obeyed > *highest {
            disk::write_json(&self.path, &obeyed, Durable::Synced).map_err(TermError::Io)?;
            *highest = obeyed;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lower_term_is_refused_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("term.json");
        let term = |revision| Term { epoch: 0, revision };
        let terms = Terms::open(path.clone()).unwrap();
        assert!(terms.obey(term(5)).is_ok() && terms.obey(term(5)).is_ok());
        let terms = Terms::open(path).unwrap();
        assert!(matches!(terms.obey(term(4)), Err(TermError::Old(_))));
        assert!(terms.obey(Term { epoch: 1, revision: 0 }).is_ok());
    }
}
