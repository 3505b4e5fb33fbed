//! A line of an `authorized_keys` file.

use base64::{Engine, engine::general_purpose::STANDARD};
use md5::{Digest, Md5};

use crate::error::{Error, Result};

/// Longest line taken.
const LONGEST: usize = 16 << 10;

/// A public key as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PublicKey {
    /// Hex MD5 of the wire form.
    pub(crate) fingerprint: String,
    /// `<type> <base64>`.
    pub(crate) key: String,
    /// The rest of the line.
    pub(crate) comment: String,
}

/// Reads a key: type, base64, comment. Options before the type are not taken.
pub(crate) fn parse(line: &str) -> Result<PublicKey> {
    let line = line.trim();
    if line.is_empty() {
        return Err(Error::invalid("key", "must not be blank"));
    }
    if line.len() > LONGEST {
        return Err(Error::invalid("key", "is too long for a public key"));
    }
    if line.contains("PRIVATE KEY") {
        return Err(Error::invalid("key", "is a private key: give the public one (`.pub`)"));
    }
    let unusable = || {
        Error::invalid("key", "is not a public key: expected `<type> <base64> [comment]`, one line")
    };
    if line.contains('\n') {
        return Err(unusable());
    }
    let (kind, rest) = line.split_once(char::is_whitespace).ok_or_else(unusable)?;
    let rest = rest.trim_start();
    let (base64, comment) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let wire = STANDARD.decode(base64).map_err(|_| unusable())?;
    // The wire form begins with the type, and something follows it.
    let named =
        wire.strip_prefix(&u32::try_from(kind.len()).map_err(|_| unusable())?.to_be_bytes());
    let rest = named.and_then(|named| named.strip_prefix(kind.as_bytes()));
    if rest.is_none_or(<[u8]>::is_empty) {
        return Err(unusable());
    }
    Ok(PublicKey {
        fingerprint: hex::encode(Md5::digest(&wire)),
        key: format!("{kind} {}", STANDARD.encode(&wire)),
        comment: comment.trim().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Made with `ssh-keygen -t ed25519`; `ssh-keygen -lE md5` gave the fingerprint.
    const LINE: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHUqGvDsC8Aj+4s3tXbXWTHOqhUDSvlrcGFCxF3Fhl3K me@there";

    #[test]
    fn a_key_has_fingerprint_and_comment() {
        let key = parse(LINE).unwrap();
        assert_eq!(key.comment, "me@there");
        assert_eq!(format!("{} {}", key.key, key.comment), LINE);
        assert_eq!(key.fingerprint.len(), 32);
    }

    #[test]
    fn what_is_no_public_key_is_refused() {
        let lines =
            ["", "ssh-rsa", "ssh-rsa AAAA", "ssh-rsa !!!", "ssh-dss AAAAC3NzaC1lZDI1NTE5AAAA"];
        assert!(lines.iter().all(|line| parse(line).is_err()));
        let private = parse("-----BEGIN OPENSSH PRIVATE KEY-----").unwrap_err().to_string();
        assert!(private.contains("public"), "{private}");
    }

    proptest! {
        #[test]
        fn reading_never_panics(line in ".{0,200}", bytes: Vec<u8>) {
            let _ = parse(&line);
            let _ = parse(&format!("ssh-rsa {}", STANDARD.encode(bytes)));
        }
    }
}
