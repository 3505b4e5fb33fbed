//! Pure rules: what may be handed to git.

/// Longest argument.
const LEN_MAX: usize = 2048;

/// Whether git can be given this as a repository: a URL that goes over the network, never an option, a command or a file.
pub fn is_remote(url: &str) -> bool {
    let plain = url.len() <= LEN_MAX && !url.bytes().any(|b| b.is_ascii_control() || b == b' ');
    let schemed = ["https://", "http://", "git://", "ssh://"]
        .iter()
        .filter_map(|scheme| url.strip_prefix(scheme))
        .any(|rest| !rest.is_empty() && !rest.starts_with('-'));
    plain && (schemed || is_scp_like(url))
}

/// `user@host:path`.
fn is_scp_like(url: &str) -> bool {
    let Some((user, rest)) = url.split_once('@') else { return false };
    let Some((host, path)) = rest.split_once(':') else { return false };
    let name = |text: &str| {
        !text.is_empty()
            && !text.starts_with('-')
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
    };
    name(user) && name(host) && !path.is_empty() && !path.starts_with(['-', ':'])
}

/// Whether git can be given this as the name of a branch or a commit.
pub fn is_revision(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && !name.starts_with(['-', '/', '.'])
        && !name.contains("..")
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._/+".contains(&b))
}

/// A URL without what is in it to get in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// The URL, which may be shown: no password, no query.
    pub url: String,
    /// The user it names.
    pub user: Option<String>,
    /// The password or token it holds.
    pub token: Option<String>,
}

impl Remote {
    /// Takes a URL apart. What is no URL of a repository on the network is refused, and not shown.
    pub fn parse(url: &str) -> Option<Self> {
        if !is_remote(url) {
            return None;
        }
        let bare = Self { url: url.into(), user: None, token: None };
        let Some((scheme, rest)) = url.split_once("://").filter(|(name, _)| *name != "ssh") else {
            return Some(bare);
        };
        let rest = rest.split(['?', '#']).next().unwrap_or_default();
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, host) = match host.rsplit_once('@') {
            Some((login, host)) => (Some(login), host),
            None => (None, host),
        };
        if host.is_empty() || host.starts_with('-') {
            return None;
        }
        let (user, token) = match login.map(|login| login.split_once(':').unwrap_or((login, ""))) {
            // A token alone stands where the user does.
            Some((token, "")) => (None, Some(token)),
            Some((user, token)) => (Some(user), Some(token)),
            None => (None, None),
        };
        let text = |text: &str| unescaped(text);
        Some(Self {
            url: format!("{scheme}://{host}/{path}"),
            user: user.map(text).filter(|user| !user.is_empty()),
            token: token.map(text).filter(|token| !token.is_empty()),
        })
    }

    /// Scheme and host of an HTTP URL: who may be told the token.
    pub fn origin(&self) -> Option<String> {
        let (scheme, rest) = self.url.split_once("://")?;
        let host = rest.split('/').next()?;
        matches!(scheme, "https" | "http").then(|| format!("{scheme}://{host}"))
    }
}

/// `%40` is `@`.
fn unescaped(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match escaped.filter(|_| first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whether a name can be that of a commit only: 7 hex digits or more.
pub fn is_commit(name: &str) -> bool {
    (7..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_hexdigit())
}

/// A text without secrets that somebody else may have put in.
pub fn without(text: &str, secrets: &[&str]) -> String {
    let secrets = secrets.iter().filter(|secret| !secret.is_empty());
    secrets.fold(text.to_owned(), |text, secret| text.replace(secret, "***"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_goes_over_the_network_is_a_remote() {
        for url in ["https://example.com/a.git", "ssh://git@h/x", "git@example.com:a/b.git"] {
            assert!(is_remote(url), "{url}");
        }
        for url in [
            "",
            "/etc",
            "file:///etc",
            "ext::sh -c id",
            "--upload-pack=id",
            "https://",
            "ssh://-oProxyCommand=id/x",
            "git@-oProxyCommand=id:x",
            "-x@h:p",
            "a b@h:p",
            "https://a/\n",
            "git@h:-x",
        ] {
            assert!(!is_remote(url), "{url}");
        }
    }

    #[test]
    fn what_is_secret_in_a_url_is_taken_out_of_it() {
        let parse = |url| Remote::parse(url).unwrap();
        let remote = parse("https://me:t%40ken@git.example.com:8443/a/b.git?x=y");
        assert_eq!(remote.url, "https://git.example.com:8443/a/b.git");
        assert_eq!((remote.user.as_deref(), remote.token.as_deref()), (Some("me"), Some("t@ken")));
        assert_eq!(remote.origin().as_deref(), Some("https://git.example.com:8443"));
        let remote = parse("https://ghp_token@github.com/a/b");
        assert_eq!((remote.user, remote.token.as_deref()), (None, Some("ghp_token")));
        let remote = parse("git@github.com:a/b.git");
        assert_eq!((&*remote.url, remote.origin()), ("git@github.com:a/b.git", None));
        assert_eq!(parse("ssh://git@h/x").url, "ssh://git@h/x");
        assert_eq!(Remote::parse("https://a@-oX=y/x"), None);
        assert_eq!(without("no t@ken here", &["t@ken", ""]), "no *** here");
    }

    proptest! {
        #[test]
        fn no_url_that_is_shown_holds_its_token(token in "[a-z0-9]{8,20}", user in "[A-Z]{0,4}", path in "[a-z/]{0,9}") {
            let remote = Remote::parse(&format!("https://{user}:{token}@host.example/{path}")).unwrap();
            prop_assert!(!remote.url.contains(&token));
            prop_assert_eq!(remote.token.as_deref(), Some(&*token));
        }

        #[test]
        fn taking_apart_never_panics(text in "(https?://)?.{0,40}") {
            let _ = Remote::parse(&text);
        }

        #[test]
        fn checking_never_panics_and_passes_no_option(text in "(https?://|ssh://|-|--)?.{0,40}") {
            if is_remote(&text) || is_revision(&text) {
                prop_assert!(!text.starts_with('-'));
            }
        }
    }
}
