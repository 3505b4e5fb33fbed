//! The host a request is for.

use std::borrow::Cow;

/// Longest host name.
pub(crate) const HOST_LIMIT: usize = 253;

/// A `Host` header, an authority or a server name in the form routes are found by: lower case, without port and
/// without the dot at the end. `None` if it is none.
pub(crate) fn canonical(host: &[u8]) -> Option<Cow<'_, str>> {
    let name = without_port(host)?;
    let name = name.strip_suffix(b".").unwrap_or(name);
    if name.len() > HOST_LIMIT {
        return None;
    }
    if let Some(inner) = name.strip_prefix(b"[") {
        let inner = inner.strip_suffix(b"]")?;
        let address: std::net::Ipv6Addr = std::str::from_utf8(inner).ok()?.parse().ok()?;
        return Some(format!("[{address}]").into());
    }
    if !name.iter().all(|&b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        return None;
    }
    let text = std::str::from_utf8(name).ok()?;
    if text.bytes().any(|b| b.is_ascii_uppercase()) {
        Some(text.to_ascii_lowercase().into())
    } else {
        Some(text.into())
    }
}

fn without_port(host: &[u8]) -> Option<&[u8]> {
    let start = if host.starts_with(b"[") { host.iter().position(|&b| b == b']')? } else { 0 };
    let Some(colon) = host[start..].iter().position(|&b| b == b':') else { return Some(host) };
    let (name, port) = host.split_at(start + colon);
    let port = &port[1..];
    (port.len() <= 5 && port.iter().all(u8::is_ascii_digit)).then_some(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn case_port_and_trailing_dot_do_not_matter() {
        for same in [
            "example.com",
            "EXAMPLE.com",
            "example.com.",
            "Example.Com:80",
            "example.com.:8080",
            "example.com:",
        ] {
            assert_eq!(canonical(same.as_bytes()).as_deref(), Some("example.com"), "{same}");
        }
        assert_eq!(canonical(b"[::1]:80").as_deref(), Some("[::1]"));
        assert_eq!(canonical(b"").as_deref(), Some(""));
    }

    #[test]
    fn what_is_no_host_is_none() {
        let long = "a".repeat(254);
        for bad in [
            "a b", "a/b", "a:b", "a:1:2", "a:123456", "user@a", "[::1", "[x]", "a%00", "\u{fc}",
            &long,
        ] {
            assert_eq!(canonical(bad.as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_is_idempotent(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Some(host) = canonical(&bytes) {
                // One dot is taken off at a time: a second one makes a name that no route has.
                if !host.ends_with('.') {
                    prop_assert_eq!(canonical(host.as_bytes()), Some(host.clone()));
                }
                prop_assert!(!host.bytes().any(|b| b.is_ascii_uppercase()));
            }
        }
    }
}
