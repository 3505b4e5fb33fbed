//! shelf: what a blob is on the wire, and the signature of a URL that works once.

use hkdf::hmac::{Hmac, Mac};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::Sha256;

/// Header of a `PUT` that copies another blob instead of sending one: its path.
pub const COPY_FROM: &str = "blobstore-copy-from";

/// Header of 2014's `PUT` that writes behind what is there: refused.
pub const OFFSET: &str = "blobstore-offset";

/// Parameter of a `DELETE`: nanoseconds of Unix time; a blob that was stored later stays.
pub const NOT_AFTER: &str = "not_after";

/// One blob in the answer of `GET /?prefix=`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// Its path, with a slash in front.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Hex SHA-256 of its content; the `ETag`, without the quotes.
    pub sha256: String,
    /// Stored at.
    pub modified: Timestamp,
}

/// What a signed URL allows, once, to whoever has it. In the query: these fields and `sig`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// `GET` or `PUT`.
    pub method: String,
    /// Unix time in seconds from which on it is refused.
    pub expires: u64,
    /// Longest body of a `PUT`, in bytes.
    pub limit: u64,
    /// Drawn for this URL alone; hex.
    pub nonce: String,
}

impl Grant {
    /// The signature for `path` under shelf's key: hex HMAC-SHA256.
    pub fn sign(&self, key: &str, path: &str) -> String {
        hex::encode(self.mac(key, path).finalize().into_bytes())
    }

    /// Whether `sig` is that signature; takes the same time whatever differs.
    pub fn is_signed(&self, key: &str, path: &str, sig: &str) -> bool {
        !key.is_empty()
            && hex::decode(sig).is_ok_and(|sig| self.mac(key, path).verify_slice(&sig).is_ok())
    }

    /// The query of the URL, without the question mark.
    pub fn query(&self, key: &str, path: &str) -> String {
        let Self { method, expires, limit, nonce } = self;
        let sig = self.sign(key, path);
        format!("method={method}&expires={expires}&limit={limit}&nonce={nonce}&sig={sig}")
    }

    /// No field may hold a line feed but the path, which comes last.
    fn mac(&self, key: &str, path: &str) -> Hmac<Sha256> {
        let Self { method, expires, limit, nonce } = self;
        let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).expect("any length will do");
        mac.update(format!("{method}\n{limit}\n{expires}\n{nonce}\n{path}").as_bytes());
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant() -> Grant {
        Grant { method: "PUT".into(), expires: 1000, limit: 10, nonce: "ab".into() }
    }

    #[test]
    fn a_signature_holds_for_exactly_what_was_signed() {
        let sig = grant().sign("key", "/a");
        assert!(grant().is_signed("key", "/a", &sig));
        assert!(!grant().is_signed("other", "/a", &sig));
        assert!(!grant().is_signed("key", "/b", &sig));
        assert!(!grant().is_signed("key", "/a", ""));
        assert!(!grant().is_signed("key", "/a", &sig[..62]));
        for changed in [
            Grant { method: "GET".into(), ..grant() },
            Grant { expires: 1001, ..grant() },
            Grant { limit: 11, ..grant() },
            Grant { nonce: "ac".into(), ..grant() },
        ] {
            assert!(!changed.is_signed("key", "/a", &sig));
        }
        assert!(!grant().is_signed("", "/a", &grant().sign("", "/a")));
    }
}
