//! Keys: HTTP Basic with any user name, or a bearer token.

use std::sync::Arc;

use api::error::ErrorCode;
use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, header::AUTHORIZATION};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::ApiError;

/// The keys a service accepts, as digests, so that neither content nor length shows in the time a comparison takes.
#[derive(Clone)]
pub struct Keys(Arc<[[u8; 32]]>);

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keys({})", self.0.len())
    }
}

impl Keys {
    /// Accepts each of the comma-separated keys. Empty ones are left out: an empty key never matches.
    pub fn parse(keys: &str) -> Self {
        let keys = keys.split(',').map(str::trim).filter(|key| !key.is_empty());
        Self(keys.map(|key| Sha256::digest(key).into()).collect())
    }

    /// Whether the headers carry one of the keys.
    pub fn accept(&self, headers: &HeaderMap) -> bool {
        let Some(given) = given_key(headers) else { return false };
        let given: [u8; 32] = Sha256::digest(given).into();
        let accepted = self.0.iter().fold(Choice::from(0), |found, key| found | key.ct_eq(&given));
        accepted.into()
    }
}

fn given_key(headers: &HeaderMap) -> Option<Vec<u8>> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, credentials) = value.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(credentials.trim().into());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = STANDARD.decode(credentials.trim()).ok()?;
    let colon = decoded.iter().position(|&b| b == b':')?;
    Some(decoded[colon + 1..].to_vec())
}

/// Middleware: 401 without one of the keys. Use as
/// `router.layer(axum::middleware::from_fn_with_state(keys, daemon::auth::require))`.
pub async fn require(State(keys): State<Keys>, request: Request, next: Next) -> Response {
    if keys.accept(request.headers()) {
        next.run(request).await
    } else {
        ApiError::new(
            ErrorCode::Unauthorized,
            "this needs a key, and the one given is missing or wrong",
        )
        .into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(authorization: &str) -> HeaderMap {
        [(AUTHORIZATION, authorization.parse().unwrap())].into_iter().collect()
    }

    #[test]
    fn any_user_with_the_right_key_is_let_in_and_nobody_else() {
        let keys = Keys::parse("secret, other,");
        assert!(keys.accept(&headers(&format!("Basic {}", STANDARD.encode(":secret")))));
        assert!(keys.accept(&headers(&format!("basic {}", STANDARD.encode("me:other")))));
        assert!(keys.accept(&headers("Bearer secret")));
        assert!(!keys.accept(&headers(&format!("Basic {}", STANDARD.encode(":")))));
        assert!(!keys.accept(&headers(&format!("Basic {}", STANDARD.encode("secret")))));
        assert!(!keys.accept(&headers("Bearer ")));
        assert!(!keys.accept(&HeaderMap::new()));
        assert!(!Keys::parse("").accept(&headers("Bearer ")));
    }
}
