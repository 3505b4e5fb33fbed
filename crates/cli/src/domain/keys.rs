//! SSH public keys, as `~/.ssh/*.pub` and `ssh-add -L` have them.

use base64::{Engine, engine::general_purpose::STANDARD};

/// The text holds no key that could be added.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum KeyError {
    #[error(
        "{0} holds a PRIVATE key, which must never leave your machine: give the public one, whose name ends in .pub"
    )]
    Private(String),
    #[error("{0} holds no SSH public key: expected a line like `ssh-ed25519 AAAA… you@host`")]
    None(String),
    #[error("{0}, line {1}, is not an SSH public key: expected `ssh-ed25519 AAAA… you@host`")]
    Bad(String, usize),
}

/// The keys of a text, one a line; `source` says where it is from.
pub(crate) fn public_keys(text: &str, source: &str) -> Result<Vec<String>, KeyError> {
    if text.contains("PRIVATE KEY") {
        return Err(KeyError::Private(source.into()));
    }
    // Editors of Windows put a byte order mark in front.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = text.lines().enumerate().map(|(at, line)| (at, line.trim()));
    let keys: Vec<String> = lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(at, line)| {
            let bad = || KeyError::Bad(source.into(), at + 1);
            is_public_key(line).then(|| line.to_owned()).ok_or_else(bad)
        })
        .collect::<Result<_, _>>()?;
    if keys.is_empty() { Err(KeyError::None(source.into())) } else { Ok(keys) }
}

/// `<type> <base64>`, and the bytes begin with the same type.
fn is_public_key(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let (Some(kind), Some(base64)) = (words.next(), words.next()) else { return false };
    let Ok(blob) = STANDARD.decode(base64) else { return false };
    let Some((length, rest)) = blob.split_first_chunk::<4>() else { return false };
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    rest.get(..length).is_some_and(|inner| inner == kind.as_bytes())
}

/// `aabb…` as `aa:bb:…`.
pub(crate) fn with_colons(fingerprint: &str) -> String {
    let hex: Vec<char> = fingerprint.chars().filter(|&c| c != ':').collect();
    hex.chunks(2).map(String::from_iter).collect::<Vec<_>>().join(":")
}

/// A fingerprint as typed, `aa:bb:…` or `aabb…`, as the controller keeps it.
pub(crate) fn fingerprint(typed: &str) -> Option<String> {
    let typed = typed.strip_prefix("MD5:").unwrap_or(typed);
    let hex: String = typed.chars().filter(|&c| c != ':').collect();
    let valid = hex.len() == 32 && hex.chars().all(|c| c.is_ascii_hexdigit());
    valid.then(|| hex.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ8Tna0kXQbGVVnbHjqjPkiF5c2yvdZpGrKTfZZbr4iM me@here";

    #[test]
    fn every_key_of_an_agent_is_taken() {
        let text = format!("{KEY}\n\n# none\n{KEY}\n");
        assert_eq!(public_keys(&text, "f").unwrap(), [KEY, KEY]);
    }

    #[test]
    fn a_byte_order_mark_and_line_ends_of_windows_do_no_harm() {
        assert_eq!(public_keys(&format!("\u{feff}{KEY}\r\n"), "f").unwrap(), [KEY]);
    }

    #[test]
    fn a_private_key_is_refused_whatever_its_kind() {
        for kind in ["", "RSA ", "OPENSSH ", "EC ", "ENCRYPTED "] {
            let text = format!("-----BEGIN {kind}PRIVATE KEY-----\n");
            assert_eq!(public_keys(&text, "id"), Err(KeyError::Private("id".into())));
        }
    }

    #[test]
    fn what_is_no_key_is_refused_with_its_line() {
        assert_eq!(public_keys("", "f"), Err(KeyError::None("f".into())));
        let lying = KEY.replace("ssh-ed25519", "ssh-rsa");
        for bad in ["hello", "ssh-rsa", "ssh-rsa !!", "ssh-rsa AAAA", &lying] {
            let text = format!("{KEY}\n{bad}");
            assert_eq!(public_keys(&text, "f"), Err(KeyError::Bad("f".into(), 2)), "{bad}");
        }
    }

    #[test]
    fn fingerprints_are_shown_and_taken_with_colons() {
        let hex = "0123456789abcdef0123456789abcdef";
        assert!(with_colons(hex).starts_with("01:23:45:"));
        assert_eq!(fingerprint(&with_colons(hex)).as_deref(), Some(hex));
        assert_eq!(fingerprint(hex).as_deref(), Some(hex));
        assert_eq!(fingerprint("01:23"), None);
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "(ssh-rsa |AAAA|[A-Za-z0-9+/=]{0,9}|\n|.){0,9}") {
            let _ = public_keys(&text, "f");
            let _ = fingerprint(&with_colons(&text));
        }
    }
}
