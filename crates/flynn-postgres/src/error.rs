//! How the API's errors become HTTP.

use api::error::ErrorCode;
use daemon::ApiError;
use tokio_postgres::error::DbError;

use crate::store::{StoreError, is_passing};

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
            StoreError::TurnedAway { source, .. } if is_passing(source) => {
                tracing::warn!(error = err as &dyn std::error::Error, "{err} for now");
                Self::unavailable(format!("{err}; try again"))
            }
            StoreError::TurnedAway { .. } => {
                tracing::error!(error = err as &dyn std::error::Error, "{err}");
                Self::new(ErrorCode::UnknownError, err.to_string())
            }
            StoreError::OwnsAnother { .. } | StoreError::BeingRemoved(_) => {
                Self::new(ErrorCode::Conflict, err.to_string())
            }
            StoreError::Panicked(panicked) => Self::internal("working on a database", panicked),
        }
    }
}
