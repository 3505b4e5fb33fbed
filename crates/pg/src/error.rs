use deadpool_postgres::PoolError;
use tokio_postgres::error::SqlState;

/// Why the database did not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No connection could be had, or it was lost: the same may succeed later. Whether a commit happened is not known.
    #[error("the database is not available")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The database refused the statement.
    #[error("the database refused a statement")]
    Refused(#[source] tokio_postgres::Error),
    /// The migrations could not be run.
    #[error("the database could not be migrated")]
    Migration(#[source] refinery::Error),
}

impl Error {
    /// Whether the same may succeed later.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }

    /// Whether a value of the statement is one that the database cannot hold: a NUL in a text, a number out of range, a text
    /// too long for an index. The same would be refused again.
    pub fn is_input(&self) -> bool {
        let Self::Refused(err) = self else { return false };
        // Classes: data exception; program limit exceeded.
        err.code()
            .is_some_and(|code| ["22", "54"].iter().any(|class| code.code().starts_with(class)))
    }

    /// The unique constraint (or index) that the statement would have violated.
    pub fn violated(&self) -> Option<&str> {
        let Self::Refused(err) = self else { return None };
        let db = err.as_db_error()?;
        (*db.code() == SqlState::UNIQUE_VIOLATION).then(|| db.constraint()).flatten()
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(err: tokio_postgres::Error) -> Self {
        // Without a code it is the connection that failed, or a value that did not fit its column's type.
        let Some(code) = err.code() else {
            return if err.is_closed() || is_io(&err) {
                Self::Unavailable(err.into())
            } else {
                Self::Refused(err)
            };
        };
        // Classes: connection, out of resources, operator intervention, rollback for others' sake; a lock not had.
        let passing = ["08", "53", "57", "40", "55"].iter().any(|c| code.code().starts_with(c));
        // 25006: a server that is read-only is not, or not yet, the primary.
        if passing || code.code() == "25006" {
            Self::Unavailable(err.into())
        } else {
            Self::Refused(err)
        }
    }
}

fn is_io(err: &tokio_postgres::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(err);
    while let Some(err) = cause {
        if err.is::<std::io::Error>() {
            return true;
        }
        cause = err.source();
    }
    false
}

impl From<PoolError> for Error {
    fn from(err: PoolError) -> Self {
        match err {
            PoolError::Backend(err) => match Self::from(err) {
                // A connection that is refused by the server (no such role or database) may be mended meanwhile.
                Self::Refused(err) => Self::Unavailable(err.into()),
                err => err,
            },
            err => Self::Unavailable(err.into()),
        }
    }
}
