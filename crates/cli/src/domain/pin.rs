//! Certificate pins: base64 of the SHA-256 of the server's certificate, as `openssl x509 -outform der | sha256` has it.

use std::{fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};

/// The digest of one certificate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pin([u8; 32]);

impl Pin {
    /// The pin of a certificate in DER.
    pub(crate) fn of(der: &[u8]) -> Self {
        Self(Sha256::digest(der).into())
    }
}

/// The text is no pin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a TLS pin: it must be the base64 of a SHA-256 digest (44 characters), as in the \
     line that `script/up` prints on the cluster's first host"
)]
pub(crate) struct InvalidPin(String);

impl FromStr for Pin {
    type Err = InvalidPin;

    fn from_str(text: &str) -> Result<Self, InvalidPin> {
        let bytes = STANDARD.decode(text.trim()).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| InvalidPin(text.chars().take(80).collect()))
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_pin_reads_back(der: Vec<u8>) {
            let pin = Pin::of(&der);
            prop_assert_eq!(pin.to_string().parse(), Ok(pin));
        }

        #[test]
        fn parsing_never_panics(text in ".{0,100}") {
            let _ = text.parse::<Pin>();
        }
    }

    #[test]
    fn a_digest_of_another_length_is_no_pin() {
        for text in ["", "AAAA", "not base64!", &STANDARD.encode([0; 33])] {
            assert!(text.parse::<Pin>().is_err(), "{text}");
        }
    }
}
