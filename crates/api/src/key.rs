//! Keys between daemons.
//!
//! One installation has one cluster key, which never leaves the hosts and is never sent. What a client sends to a
//! service is that service's own key, derived with HKDF-SHA256 (RFC 5869) from the cluster key, so that one can be
//! rotated alone. It travels as the password of HTTP Basic authentication, with any user name.

use hkdf::Hkdf;
use sha2::Sha256;

/// The version every key is derived with until one is rotated.
pub const VERSION: u32 = 1;

/// Derives a service's key: 64 hex digits.
pub fn derive(cluster_key: &str, service: &str, version: u32) -> String {
    let mut key = [0; 32];
    Hkdf::<Sha256>::new(Some(b"flynn service key"), cluster_key.as_bytes())
        .expand(format!("{service}/{version}").as_bytes(), &mut key)
        .expect("32 bytes are within HKDF's limit");
    hex::encode(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_by_cluster_service_and_version() {
        let keys = [
            derive("a", "shelf", 1),
            derive("b", "shelf", 1),
            derive("a", "strowger", 1),
            derive("a", "shelf", 2),
        ];
        assert_eq!(derive("a", "shelf", 1), keys[0]);
        assert!(keys.iter().enumerate().all(|(i, k)| !keys[..i].contains(k) && k.len() == 64));
    }
}
