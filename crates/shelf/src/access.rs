//! Who may: whoever has the key, or a signed URL for exactly this.

use std::sync::Arc;

use api::{
    blob::{COPY_FROM, Grant},
    error::ErrorCode,
};
use axum::{
    extract::{Query, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use daemon::{ApiError, auth::Keys};
use serde::Deserialize;

use crate::grants::{Claim, Grants, Refusal, unix_now};

/// What requests are checked against.
#[derive(Clone)]
pub(crate) struct Guard {
    keys: Keys,
    /// Those a URL may be signed with.
    signing: Arc<[String]>,
    grants: Arc<Grants>,
}

impl Guard {
    pub(crate) fn new(key: &str, grants: Arc<Grants>) -> Self {
        let signing = key.split(',').map(str::trim).filter(|key| !key.is_empty());
        Self { keys: Keys::parse(key), signing: signing.map(str::to_owned).collect(), grants }
    }
}

/// What a request that was let in may do; every handler finds one.
#[derive(Debug, Clone)]
pub(crate) enum Access {
    /// Everything.
    Key,
    /// This once, and no body above `limit`.
    Once { claim: Arc<Claim>, limit: u64 },
}

impl Access {
    /// Longest body it may store.
    pub(crate) fn limit(&self) -> u64 {
        match self {
            Self::Key => u64::MAX,
            Self::Once { limit, .. } => *limit,
        }
    }

    /// What was allowed has been done.
    pub(crate) fn spend(&self) {
        if let Self::Once { claim, .. } = self {
            claim.spend();
        }
    }
}

/// A grant's fields and its signature. (Not flattened: a query's numbers cannot be.)
#[derive(Deserialize)]
struct Signed {
    method: String,
    expires: u64,
    limit: u64,
    nonce: String,
    sig: String,
}

pub(crate) async fn require(
    State(guard): State<Guard>,
    mut request: Request,
    next: Next,
) -> Response {
    match guard.let_in(&request) {
        Ok(access) => {
            request.extensions_mut().insert(access);
            next.run(request).await
        }
        Err(refusal) => refusal.into_response(),
    }
}

impl Guard {
    fn let_in(&self, request: &Request) -> Result<Access, ApiError> {
        let refused = |why: &str| ApiError::new(ErrorCode::Unauthorized, why);
        let signed = request.uri().query().is_some_and(|query| query.contains("sig="));
        if !signed {
            return if self.keys.accept(request.headers()) {
                Ok(Access::Key)
            } else {
                Err(refused(
                    "this needs shelf's key or a signed URL, and what was given is missing or wrong",
                ))
            };
        }
        let Query(Signed { method, expires, limit, nonce, sig }) =
            Query::try_from_uri(request.uri())
                .map_err(|_| refused("the signature in this URL is incomplete"))?;
        let grant = Grant { method, expires, limit, nonce };
        let path = request.uri().path();
        if !self.signing.iter().any(|key| grant.is_signed(key, path, &sig)) {
            return Err(refused("the signature of this URL is wrong"));
        }
        if request.method().as_str() != grant.method || request.headers().contains_key(COPY_FROM) {
            return Err(refused("this URL is signed for something else"));
        }
        let claim = self.grants.claim(&grant, unix_now()).map_err(|why| match why {
            Refusal::Unrecorded => ApiError::unavailable(why.to_string()),
            why => refused(&why.to_string()),
        })?;
        Ok(Access::Once { claim: Arc::new(claim), limit: grant.limit })
    }
}
