//! Which answer an error becomes.

use api::error::ErrorCode;
use daemon::ApiError;

use crate::{jobs::orders::OrderError, terms::TermError, volumes::folders::RemoveError};

pub(crate) fn of_order(err: OrderError) -> ApiError {
    let message = err.to_string();
    match &err {
        OrderError::Term(TermError::Old(_)) => {
            ApiError::new(ErrorCode::PreconditionFailed, message)
        }
        OrderError::Term(TermError::Io(_)) => ApiError::internal("noting the leader's term", &err),
        OrderError::Invalid(invalid) => ApiError::invalid(invalid.field, &invalid.problem),
        OrderError::Different(_) | OrderError::NotRunning(_) => {
            ApiError::new(ErrorCode::Conflict, message)
        }
        OrderError::Unknown(_) => ApiError::not_found(message),
        OrderError::NoRoom(_)
        | OrderError::Full { .. }
        | OrderError::Volume(_)
        | OrderError::VolumeInUse(_) => ApiError::new(ErrorCode::Ratelimited, message),
        OrderError::NoDisk { .. } => ApiError::unavailable(message),
        OrderError::Panicked(_) => ApiError::internal("taking the order", &err),
        OrderError::Journal(_) => ApiError::internal("writing the order down", &err),
        OrderError::Engine(_) => ApiError::internal("asking the container engine", &err),
    }
}

pub(crate) fn of_term(err: TermError) -> ApiError {
    match &err {
        TermError::Old(old) => ApiError::new(ErrorCode::PreconditionFailed, old.to_string()),
        TermError::Io(_) => ApiError::internal("noting the leader's term", &err),
    }
}

pub(crate) fn of_volume(err: RemoveError) -> ApiError {
    match &err {
        RemoveError::Missing(_) => ApiError::not_found(err.to_string()),
        RemoveError::InUse { .. } => ApiError::new(ErrorCode::Conflict, err.to_string()),
        RemoveError::Io { .. } | RemoveError::Panicked(_) => {
            ApiError::internal("removing the volume", &err)
        }
    }
}
