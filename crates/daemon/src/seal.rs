//! Secrets as they lie in etcd: sealed, so that neither a member's disk nor a backup gives them away.
//!
//! They are sealed with AES-256-GCM (RFC 5116) under a key that is derived from one that is not in etcd. What is sealed is bound to
//! the place where it is stored: it cannot be opened in another.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};

/// Seals and opens under one key.
pub struct Seal(RandomizedNonceKey);

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seal")
    }
}

impl Seal {
    /// Under a key of 64 hex digits, as [`api::key::derive`] makes them.
    ///
    /// # Panics
    ///
    /// If the key is anything else.
    #[must_use]
    pub fn new(key: &str) -> Self {
        let key: [u8; 32] = std::array::from_fn(|at| {
            let digits = key.get(2 * at..2 * at + 2).expect("a derived key has 64 digits");
            u8::from_str_radix(digits, 16).expect("a derived key is hex digits")
        });
        Self(RandomizedNonceKey::new(&AES_256_GCM, &key).expect("it has 32 bytes"))
    }

    /// The nonce (12 bytes), then the sealed text with its tag.
    ///
    /// # Panics
    ///
    /// If the text has 64 GiB or more.
    #[must_use]
    pub fn close(&self, place: &str, mut text: Vec<u8>) -> Vec<u8> {
        let nonce = self.0.seal_in_place_append_tag(Aad::from(place), &mut text);
        let mut sealed = nonce.expect("the text is shorter than 64 GiB").as_ref().to_vec();
        sealed.append(&mut text);
        sealed
    }

    /// The text, if it was sealed under this key for this place.
    #[must_use]
    pub fn open(&self, place: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, text) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let mut text = text.to_vec();
        let length =
            self.0.open_in_place(Nonce::from(nonce), Aad::from(place), &mut text).ok()?.len();
        text.truncate(length);
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_under_its_key_and_in_its_place_only() {
        let seal = |cluster| Seal::new(&api::key::derive(cluster, "critical", 1));
        let sealed = seal("k").close("controller", b"AUTH_KEY=s3cret".to_vec());
        assert!(!sealed.windows(6).any(|part| part == b"s3cret"));
        assert_eq!(seal("k").open("controller", &sealed).unwrap(), b"AUTH_KEY=s3cret");
        assert!(seal("k").open("controller-scheduler", &sealed).is_none());
        assert!(seal("l").open("controller", &sealed).is_none());
        assert!(seal("k").open("controller", &sealed[..sealed.len() - 1]).is_none());
        assert!(seal("k").open("controller", b"short").is_none());
    }
}
