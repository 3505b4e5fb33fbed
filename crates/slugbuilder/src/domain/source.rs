//! Where a buildpack comes from: `https://host/repo.git#branch`, or the name of one of ours.

use std::fmt;

/// Where a buildpack comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// One of ours.
    Known(String),
    /// A git repository, and the branch, tag or commit of it.
    Git {
        /// Its address.
        url: GitUrl,
        /// None: its head.
        reference: Option<String>,
    },
}

/// The address of a git repository, without the secrets that were written into it.
#[derive(Clone, PartialEq, Eq)]
pub struct GitUrl {
    /// What git is called with.
    pub plain: String,
    /// User and password that stood in it.
    pub credentials: Option<(String, String)>,
}

impl fmt::Debug for GitUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.shown())
    }
}

impl GitUrl {
    fn new(url: &str) -> Self {
        let whole = || Self { plain: url.into(), credentials: None };
        let Some((scheme, rest)) = url.split_once("://") else { return whole() };
        // ssh and git know no passwords, and the user belongs to the address there.
        if !scheme.starts_with("http") {
            return whole();
        }
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let Some((userinfo, host)) = authority.rsplit_once('@') else { return whole() };
        let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
        Self {
            plain: format!("{scheme}://{host}{path}"),
            credentials: Some((decoded(user), decoded(password))),
        }
    }

    /// The address as it may be shown to everybody.
    pub fn shown(&self) -> &str {
        self.plain.split('?').next().unwrap_or_default()
    }

    /// What programs must not be shown to say: a query may be a permission.
    pub fn secrets(&self) -> Vec<String> {
        self.plain.split_once('?').map(|(_, query)| query.to_owned()).into_iter().collect()
    }

    /// Scheme and host: to whom the credentials may be told.
    pub fn origin(&self) -> &str {
        let host = self.plain.find("://").map_or(0, |at| at + 3);
        let end = self.plain[host..].find(['/', '?']).map_or(self.plain.len(), |at| host + at);
        &self.plain[..end]
    }
}

/// Decodes `%40`; what is no such code stays.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|hex| hex::decode(hex).ok());
        match (first, code) {
            (b'%', Some(code)) => {
                bytes.extend(code);
                rest = &after[2..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A text that may hold a password, without everything before its last `@`.
fn without_secrets(text: &str) -> String {
    let shown =
        text.rsplit_once('@').map_or_else(|| text.to_owned(), |(_, rest)| format!("...@{rest}"));
    shown.split('?').next().unwrap_or_default().chars().take(200).collect()
}

/// It is neither.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is neither the address of a git repository, such as https://host/buildpack.git#branch, nor one of our buildpacks"
)]
pub struct BadSource(String);

/// What git may be asked to fetch over.
const SCHEMES: [&str; 4] = ["https://", "http://", "git://", "ssh://"];

impl Source {
    /// Reads one. `known` are the names of ours.
    pub fn parse(text: &str, known: &[&str]) -> Result<Self, BadSource> {
        let text = text.trim();
        if known.contains(&text) {
            return Ok(Self::Known(text.into()));
        }
        let bad = || BadSource(without_secrets(text));
        let (url, reference) = match text.split_once('#') {
            Some((url, reference)) => (url, Some(reference).filter(|text| !text.is_empty())),
            None => (text, None),
        };
        let plain = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
        let has_host = SCHEMES.iter().any(|scheme| {
            let rest = url.strip_prefix(scheme);
            rest.is_some_and(|rest| !rest.starts_with(['-', '/']) && !rest.is_empty())
        });
        // git@host:path, the short way to write ssh.
        let short = url.split_once(':').is_some_and(|(host, _)| {
            host.split_once('@').is_some_and(|(user, host)| is_word(user) && is_word(host))
        });
        if !(has_host || short)
            || !plain(url)
            || !reference.is_none_or(|text| plain(text) && !text.starts_with('-'))
        {
            return Err(bad());
        }
        Ok(Self::Git { url: GitUrl::new(url), reference: reference.map(Into::into) })
    }

    /// Reads a `.buildpacks` file: one a line.
    pub fn parse_list(text: &str, known: &[&str]) -> Result<Vec<Self>, BadSource> {
        let lines = text.lines().map(str::trim);
        lines
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(|line| Self::parse(line, known))
            .collect()
    }
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_are_told_from_options_and_commands() {
        let git = |url: &str, reference: Option<&str>| {
            Ok(Source::Git { url: GitUrl::new(url), reference: reference.map(Into::into) })
        };
        let parse = |text| Source::parse(text, &["nodejs"]);
        assert_eq!(parse("nodejs"), Ok(Source::Known("nodejs".into())));
        assert_eq!(parse(" https://h/r.git#v1 "), git("https://h/r.git", Some("v1")));
        assert_eq!(parse("git@h:o/r.git#"), git("git@h:o/r.git", None));
        for bad in [
            "",
            "ruby",
            "ext::sh -c id",
            "--upload-pack=x",
            "https://-x/y",
            "https://h/r#-x",
            "file:///etc",
            "https://h/a b",
            "-o@h:x",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert_eq!(
            Source::parse_list("# c\n\nnodejs\nhttps://h/r\n", &["nodejs"]).unwrap().len(),
            2
        );
    }

    #[test]
    fn secrets_are_taken_out_of_addresses() {
        let url = GitUrl::new("https://me%40x:to%3Aken@h.example:8443/a/b.git?key=1");
        assert_eq!(url.plain, "https://h.example:8443/a/b.git?key=1");
        assert_eq!(url.shown(), "https://h.example:8443/a/b.git");
        assert_eq!(url.origin(), "https://h.example:8443");
        assert_eq!(url.credentials, Some(("me@x".into(), "to:ken".into())));
        assert_eq!(GitUrl::new("https://h/a@b").credentials, None);
        assert_eq!(GitUrl::new("ssh://git@h/a").plain, "ssh://git@h/a");
        let bad = Source::parse("https://me:token@h/a b", &[]).unwrap_err().to_string();
        assert!(!bad.contains("token") && bad.contains("@h/a b"), "{bad}");
    }

    proptest! {
        #[test]
        fn nothing_that_git_takes_for_an_option_gets_through(text in "\\PC{0,40}|(https://|git@)\\PC{0,40}") {
            if let Ok(Source::Git { url, reference }) = Source::parse(&text, &[]) {
                let url = url.plain;
                prop_assert!(!url.starts_with('-') && !url.contains("::/") && !url.contains(' '));
                prop_assert!(!reference.is_some_and(|reference| reference.starts_with('-')));
            }
        }
    }
}
