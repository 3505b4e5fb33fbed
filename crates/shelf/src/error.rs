//! What can go wrong with a blob, and how it becomes HTTP.

use std::io;

use api::error::ErrorCode;
use daemon::ApiError;

use crate::domain::BlobPath;

#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("there is no blob {0}")]
    NotFound(BlobPath),
    #[error("the body is larger than the {limit} bytes this request may store")]
    TooLarge { limit: u64 },
    #[error(
        "shelf's disk is full: {free} bytes are free and {reserve} are kept in reserve; remove old releases, or give \
         shelf a larger disk"
    )]
    NoRoom { free: u64, reserve: u64 },
    #[error(
        "all below {folder} would be more than the {most} bytes it may be: delete what is not needed there, or raise \
         FOLDER_LEN_MAX of shelf"
    )]
    FolderFull { folder: String, most: u64 },
    #[error("the upload broke off, and nothing of it was stored")]
    BrokenOff,
    #[error("the file of blob {0} is damaged")]
    Damaged(BlobPath),
    #[error("{doing} failed")]
    Io {
        doing: &'static str,
        #[source]
        source: io::Error,
    },
}

impl StoreError {
    pub(crate) fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, source }
    }
}

impl From<StoreError> for ApiError {
    fn from(err: StoreError) -> Self {
        let message = err.to_string();
        match err {
            StoreError::NotFound(_) => ApiError::not_found(message),
            StoreError::TooLarge { .. } => ApiError::new(ErrorCode::RequestBodyTooBig, message),
            StoreError::NoRoom { .. } => {
                tracing::error!("{message}");
                let mut error = ApiError::unavailable(message);
                // Room does not come by itself: clients shall say so at once instead of trying on.
                error.0.retry = false;
                error
            }
            StoreError::FolderFull { .. } => {
                tracing::warn!("{message}");
                ApiError::new(ErrorCode::RequestBodyTooBig, message)
            }
            StoreError::BrokenOff => ApiError::new(ErrorCode::SyntaxError, message),
            StoreError::Damaged(_) => {
                tracing::error!("{message}");
                ApiError::new(ErrorCode::UnknownError, message)
            }
            StoreError::Io { doing, source } => ApiError::internal(doing, &source),
        }
    }
}
