//! How the API's errors become HTTP.

use daemon::ApiError;

use crate::store::StoreError;

impl From<StoreError> for ApiError {
    fn from(err: StoreError) -> Self {
        Self::from(&err)
    }
}

impl From<&StoreError> for ApiError {
    fn from(err: &StoreError) -> Self {
        match err {
            StoreError::Unreachable { .. } | StoreError::TimedOut { .. } => {
                tracing::warn!(error = err as &dyn std::error::Error, "{err}");
                Self::unavailable(err.to_string())
            }
            StoreError::Refused { doing, source } => Self::internal(doing, source),
            StoreError::Panicked(panicked) => Self::internal("working on a database", panicked),
        }
    }
}
