//! A git repository that is deployed by its URL: what taffy reads from its stdin.

use serde::{Deserialize, Serialize};

/// What to deploy and how to get at it; no form of it that is printed shows a secret.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GitSource {
    /// The repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Branch, tag or commit; the repository's default branch if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r#ref: Option<String>,
    /// Whose the token is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Token or password for an HTTP URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Private SSH key for an SSH URL, PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

impl std::fmt::Debug for GitSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A URL may hold a password, too.
        f.debug_struct("GitSource").field("ref", &self.r#ref).finish_non_exhaustive()
    }
}

/// Whether nobody on the way reads a token that is given for this URL: it is encrypted, or stays on this machine or in the
/// cluster (`.discoverd`), whose hosts encrypt what they say to each other. `git://` has no tokens at all.
pub fn keeps_secrets(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("http://") else { return true };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let name = host.strip_prefix('[').map_or_else(
        || host.split(':').next().unwrap_or_default(),
        |address| address.split(']').next().unwrap_or_default(),
    );
    let is_own = name.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback());
    is_own || name == "localhost" || name.ends_with(".discoverd")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_goes_where_nobody_reads_along() {
        for url in [
            "https://h/x",
            "ssh://git@h/x",
            "git@h:x",
            "http://git-web.discoverd:8080/x",
            "http://127.0.0.1:1/x",
            "http://[::1]/x",
            "http://me@localhost/x",
        ] {
            assert!(keeps_secrets(url), "{url}");
        }
        for url in ["http://h/x", "http://127.0.0.1@h/x", "http://a.discoverd.h/x"] {
            assert!(!keeps_secrets(url), "{url}");
        }
    }

    #[test]
    fn a_source_that_is_printed_shows_no_secret() {
        let text = r#"{"url": "https://me:s3cret@h/x", "ref": "main", "token": "s3cret", "key": "s3cret"}"#;
        let source: GitSource = serde_json::from_str(text).unwrap();
        let printed = format!("{source:?}");
        assert!(printed.contains("main") && !printed.contains("s3cret"), "{printed}");
        assert!(serde_json::from_str::<GitSource>(r#"{"tokn": "x"}"#).is_err());
    }
}
