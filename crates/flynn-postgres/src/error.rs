//! How the API's errors become HTTP.

use std::error::Error as _;

use api::error::ErrorCode;
use daemon::ApiError;
use tokio_postgres::error::{DbError, SqlState};

use crate::store::StoreError;

impl From<StoreError> for ApiError {
    fn from(err: StoreError) -> Self {
        Self::from(&err)
    }
}

impl From<&StoreError> for ApiError {
    fn from(err: &StoreError) -> Self {
        match err {
            StoreError::Unreachable { .. }
            | StoreError::TimedOut { .. }
            | StoreError::Stopping
            | StoreError::AskerGone => {
                tracing::warn!(error = err as &dyn std::error::Error, "{err}");
                Self::unavailable(err.to_string())
            }
            StoreError::Refused { doing, source } if is_passing(source) => {
                tracing::warn!(error = err as &dyn std::error::Error, "{err} for now");
                let said = source.as_db_error().map_or("the connection was lost", DbError::message);
                Self::unavailable(format!("{doing} failed for now: {said}; try again"))
            }
            StoreError::Refused { doing, source } => Self::internal(doing, source),
            StoreError::OwnsAnother { .. } => Self::new(ErrorCode::Conflict, err.to_string()),
            StoreError::Panicked(panicked) => Self::internal("working on a database", panicked),
        }
    }
}

/// Whether the server may do later what it does not do now.
fn is_passing(err: &tokio_postgres::Error) -> bool {
    let Some(code) = err.code() else {
        return err.is_closed() || err.source().is_some_and(|cause| cause.is::<std::io::Error>());
    };
    // Classes: connection; out of room, connections, memory; an operator's doing, as a start or stop; rolled back for
    // others' sake; a lock not had. 25006: the server is read-only.
    ["08", "53", "57", "40", "55"].iter().any(|class| code.code().starts_with(class))
        || *code == SqlState::READ_ONLY_SQL_TRANSACTION
}
