//! Public keys: which are strong enough, and how one is named.

use md5::{Digest, Md5};
use russh::keys::{Algorithm, PublicKey};

/// RSA keys below this are broken with money.
const RSA_BITS_MIN: u32 = 2048;

/// Why a key is not even looked up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Weak {
    /// RSA signatures over SHA-1 can be forged.
    #[error(
        "your SSH client signs with SHA-1 (ssh-rsa), which is not safe: update it, or use an ed25519 key"
    )]
    Sha1,
    /// The modulus is too short.
    #[error(
        "your RSA key has {0} bits, and fewer than {RSA_BITS_MIN} are not safe: make a new one with `ssh-keygen -t ed25519`"
    )]
    Short(u32),
    /// DSA, or something unknown.
    #[error("keys of type {0} are not taken: make a new one with `ssh-keygen -t ed25519`")]
    Kind(String),
}

/// Whether a key used with this signature algorithm is strong enough.
pub fn check(key: &PublicKey, algorithm: &Algorithm) -> Result<(), Weak> {
    match algorithm {
        Algorithm::Rsa { hash: None } => Err(Weak::Sha1),
        Algorithm::Rsa { hash: Some(_) } => {
            let bits = key.key_data().rsa().map_or(0, |rsa| rsa.key_size());
            if bits < RSA_BITS_MIN { Err(Weak::Short(bits)) } else { Ok(()) }
        }
        Algorithm::Ed25519
        | Algorithm::Ecdsa { .. }
        | Algorithm::SkEd25519
        | Algorithm::SkEcdsaSha2NistP256 => Ok(()),
        other => Err(Weak::Kind(other.to_string())),
    }
}

/// The key's id at the controller: MD5 of its wire form, 32 hex digits. Only a name: see [`Offered`].
pub fn fingerprint(wire: &[u8]) -> String {
    hex::encode(Md5::digest(wire))
}

/// A key a client offers: compared whole, for an MD5 can be made to match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offered {
    /// Its id at the controller.
    pub fingerprint: String,
    /// `<type> <base64>`.
    pub line: String,
}

impl Offered {
    /// Names a key; `None` if it has no wire form.
    pub fn of(key: &PublicKey) -> Option<Self> {
        let mut bare = key.clone();
        bare.set_comment("");
        let line = bare.to_openssh().ok()?.trim().to_owned();
        Some(Self { fingerprint: fingerprint(&key.to_bytes().ok()?), line })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED25519: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

    #[test]
    fn a_fingerprint_is_what_ssh_keygen_prints_without_colons() {
        let key = PublicKey::from_openssh(&format!("{ED25519} me@home")).unwrap();
        let offered = Offered::of(&key).unwrap();
        assert_eq!(offered.line, ED25519);
        assert_eq!(offered.fingerprint.len(), 32);
        assert_eq!(offered.fingerprint, fingerprint(&key.to_bytes().unwrap()));
        assert_eq!(check(&key, &Algorithm::Ed25519), Ok(()));
    }

    #[test]
    fn sha1_and_dsa_are_refused_whatever_the_key() {
        let key = PublicKey::from_openssh(ED25519).unwrap();
        assert_eq!(check(&key, &Algorithm::Rsa { hash: None }), Err(Weak::Sha1));
        assert!(matches!(check(&key, &Algorithm::Dsa), Err(Weak::Kind(_))));
    }
}
