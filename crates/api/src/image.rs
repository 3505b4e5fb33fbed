//! Images that were pushed to the cluster: named by their id, kept in shelf, loaded by the hosts that run them.

use std::{fmt, str::FromStr};

/// Largest packed image that is taken, in bytes.
pub const IMAGE_MAX: u64 = 8 << 30;

/// Media type of a packed image: what `docker save` writes.
pub const IMAGE_TYPE: &str = "application/x-tar";

/// An image's id as the engine says it, `sha256:` and 64 hex digits: the digest of its configuration, which names its
/// layers, so that one id is one content.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageId(String);

/// The text is no image id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no image id: expected sha256: and 64 hex digits, as `docker image inspect` says it"
)]
pub struct InvalidImageId(String);

impl FromStr for ImageId {
    type Err = InvalidImageId;

    fn from_str(text: &str) -> Result<Self, InvalidImageId> {
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        let digit = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        if hex.len() == 64 && hex.chars().all(digit) {
            Ok(Self(hex.to_owned()))
        } else {
            Err(InvalidImageId(text.to_owned()))
        }
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

impl ImageId {
    /// The 64 hex digits.
    pub fn hex(&self) -> &str {
        &self.0
    }

    /// Where the packed image is in shelf.
    pub fn shelf_path(&self) -> String {
        format!("/images/{}.tar", self.0)
    }

    /// The URI of its artifact. The name is for people.
    pub fn artifact_uri(&self, name: &str) -> String {
        format!("docker:///{name}?id={self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_with_and_without_its_algorithm() {
        let hex = "0123456789abcdef".repeat(4);
        let id: ImageId = format!("sha256:{hex}").parse().unwrap();
        assert_eq!(hex.parse(), Ok(id.clone()));
        assert_eq!(id.to_string(), format!("sha256:{hex}"));
        assert_eq!(id.shelf_path(), format!("/images/{hex}.tar"));
        for wrong in ["", "sha256:", "sha256:12", "../etc", &hex.to_uppercase()] {
            assert!(wrong.parse::<ImageId>().is_err(), "{wrong}");
        }
    }
}
