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

    /// The URL for people: an SSH URL may have a password in it, which nobody needs.
    pub fn shown(&self) -> String {
        let parts = self.url.strip_prefix("ssh://").and_then(|rest| rest.split_once('@'));
        match parts.and_then(|(login, rest)| Some((login.split_once(':')?.0, rest))) {
            Some((user, rest)) => format!("ssh://{user}@{rest}"),
            None => self.url.clone(),
        }
    }

    /// Host and port that git connects to, where it has no time limit of its own for that.
    pub fn peer(&self) -> Option<(String, u16)> {
        let (scheme, rest) = self.url.split_once("://")?;
        let port = match scheme {
            "https" => 443,
            "http" => 80,
            "git" => 9418,
            _ => return None,
        };
        let at = rest.split('/').next()?;
        let (host, given) = match at.strip_prefix('[') {
            Some(address) => address.split_once(']')?,
            None => at.find(':').map_or((at, ""), |colon| at.split_at(colon)),
        };
        let port = match given.strip_prefix(':').filter(|port| !port.is_empty()) {
            Some(port) => port.parse().ok()?,
            None => port,
        };
        Some((host.to_owned(), port))
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

/// The branch or tag to clone, as git is given it, if a name is one and neither a commit nor the default branch.
pub fn branch(name: &str) -> Option<&str> {
    let short = name.strip_prefix("refs/heads/").or_else(|| name.strip_prefix("refs/tags/"));
    (name != "HEAD" && !is_commit(name)).then(|| short.unwrap_or(name))
}

/// Whether a name can be that of a commit only: 7 hex digits or more.
pub fn is_commit(name: &str) -> bool {
    (7..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_hexdigit())
}

/// A text without secrets that somebody else may have put in, in any form they go over the wire in: as they are, in Base64,
/// alone or behind their user as in an `Authorization` header, and with percent signs.
pub fn without(text: &str, user: &str, secrets: &[&str]) -> String {
    let secrets = secrets.iter().map(|secret| secret.trim()).filter(|secret| !secret.is_empty());
    let mut forms: Vec<String> = secrets.flat_map(|secret| forms(user, secret)).collect();
    // A form may hold another, and nothing of it shall stay.
    forms.sort_by_key(|form| std::cmp::Reverse(form.len()));
    forms.iter().fold(text.to_owned(), |text, form| text.replace(form, "***"))
}

fn forms(user: &str, secret: &str) -> Vec<String> {
    let mut plain = vec![secret.to_owned(), format!("{user}:{secret}")];
    // A key is lines, which somebody may show one by one; the short ones are no secret.
    let lines =
        secret.lines().map(str::trim).filter(|line| line.len() >= 16 && !line.starts_with("-----"));
    plain.extend(lines.map(str::to_owned));
    plain.push(format!("{secret}\n"));
    plain.push(secret.replace('\n', "\\n"));
    let mut forms = Vec::new();
    for text in plain {
        for alphabet in [STANDARD, URL_SAFE] {
            forms.push(base64(&text, alphabet));
        }
        for upper in [true, false] {
            forms.push(escaped(&text, upper));
        }
        forms.push(text);
    }
    forms.retain(|form| !form.trim().is_empty());
    forms
}

/// The last two digits of Base64, which come after letters and numbers.
const STANDARD: [u8; 2] = *b"+/";
/// And as it is in URLs.
const URL_SAFE: [u8; 2] = *b"-_";

/// Base64 without what fills it up at the end, which gives nothing away.
fn base64(text: &str, last: [u8; 2]) -> String {
    let digits: Vec<u8> = (b'A'..=b'Z').chain(b'a'..=b'z').chain(b'0'..=b'9').chain(last).collect();
    let chunks = text.as_bytes().chunks(3).flat_map(|chunk| {
        let bits = chunk.iter().fold(0, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - chunk.len()));
        (0..=chunk.len()).map(move |at| (bits >> (18 - 6 * at)) as usize & 63)
    });
    chunks.map(|digit| char::from(digits[digit])).collect()
}

/// `@` is `%40`.
fn escaped(text: &str, upper: bool) -> String {
    let byte = |byte: u8| match byte {
        b if b.is_ascii_alphanumeric() || b"-._~".contains(&b) => char::from(b).to_string(),
        b if upper => format!("%{b:02X}"),
        b => format!("%{b:02x}"),
    };
    text.bytes().map(byte).collect()
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
        assert_eq!(without("no t@ken here", "me", &["t@ken", ""]), "no *** here");
    }

    #[test]
    fn a_secret_is_hidden_in_every_form_it_has_on_the_wire() {
        // `me:t@ken/1`, `t@ken/1`, and `t@k>n?` which has both of the last digits.
        for (token, shown) in [
            ("t@ken/1", "Basic bWU6dEBrZW4vMQ=="),
            ("t@ken/1", "bWU6dEBrZW4vMQ"),
            ("t@ken/1", "dEBrZW4vMQ=="),
            ("t@ken/1", "t%40ken%2F1 t%40ken%2f1"),
            ("a~~?a~~?", "YX5+P2F+fj8= YX5-P2F-fj8"),
        ] {
            let said = without(&format!("no {shown} here"), "me", &[token]);
            assert!(
                !["bWU6", "dEBr", "%40", "YX5"].iter().any(|part| said.contains(part)),
                "{said}"
            );
            assert!(said.starts_with("no ") && said.ends_with(" here"), "{said}");
        }
        let key = "-----BEGIN KEY-----\nMC4CAQAwBQYDK2VwBCIEIA\n-----END KEY-----\n";
        let said = without(
            "line MC4CAQAwBQYDK2VwBCIEIA, {\"k\":\"-----BEGIN KEY-----\\nMC4CAQAwBQYDK2VwBCIEIA\\n\"}",
            "me",
            &[key],
        );
        assert!(!said.contains("MC4C"), "{said}");
    }

    #[test]
    fn what_is_shown_of_an_address_and_whom_it_reaches() {
        let parse = |url| Remote::parse(url).unwrap();
        assert_eq!(parse("ssh://git:s3cret@h/x").shown(), "ssh://git@h/x");
        assert_eq!(parse("https://me:s3cret@h/x").shown(), "https://h/x");
        assert_eq!(parse("git@h:x").shown(), "git@h:x");
        let to = |url| parse(url).peer();
        assert_eq!(to("https://me:t@h/x"), Some(("h".into(), 443)));
        assert_eq!(to("http://h:8080/x"), Some(("h".into(), 8080)));
        assert_eq!(to("git://[::1]/x"), Some(("::1".into(), 9418)));
        assert_eq!(to("http://[::1]:3/x"), Some(("::1".into(), 3)));
        assert_eq!((to("ssh://git@h/x"), to("git@h:x"), to("http://h:x/y")), (None, None, None));
    }

    #[test]
    fn a_branch_is_named_in_full_or_in_short() {
        assert_eq!(branch("dev"), Some("dev"));
        assert_eq!(branch("refs/heads/dev"), Some("dev"));
        assert_eq!(branch("refs/tags/v1"), Some("v1"));
        assert_eq!((branch("HEAD"), branch("0123456")), (None, None));
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
