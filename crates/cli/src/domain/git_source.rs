//! What `flynn deploy` is told, and whether it goes together.

use api::git::{GitSource, keeps_secrets};

/// Longest token or key: a private key of RSA with 16,384 bits has a fifth of that.
pub(crate) const SECRET_MAX: u64 = 64 << 10;

/// What was said. Secrets are as they were read.
#[derive(Default)]
pub(crate) struct Said {
    pub(crate) url: String,
    pub(crate) branch: Option<String>,
    pub(crate) user: Option<String>,
    /// Of `--token-file`.
    pub(crate) token: Option<String>,
    /// Of the environment: it stands for all repositories and goes where it fits.
    pub(crate) env_token: Option<String>,
    pub(crate) key: Option<String>,
}

/// Why nothing can be deployed so. No secret is in it, and no URL, which may hold one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadSource {
    #[error(
        "the URL holds a user or password, and what is typed is seen by everybody on this machine: leave out what is \
         before the @, and give `--user` and `--token-file`"
    )]
    SecretInUrl,
    #[error("a token opens https:// URLs only; a `--deploy-key` opens ssh:// and user@host:path")]
    TokenForSsh,
    #[error("over http:// everybody on the way could read the token: give the https:// URL")]
    TokenInClear,
    #[error(
        "a deploy key opens ssh:// and user@host:path URLs only; a `--token-file` opens https://"
    )]
    KeyForHttp,
    #[error("{0} is empty")]
    Empty(&'static str),
    #[error("the deploy key is a public key: give the private one")]
    PublicKey,
}

/// What taffy is told.
pub(crate) fn source(said: Said) -> Result<GitSource, BadSource> {
    let http = ["http://", "https://"].iter().find_map(|scheme| said.url.strip_prefix(scheme));
    let host = http.map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
    if host.is_some_and(|host| host.contains('@')) {
        return Err(BadSource::SecretInUrl);
    }
    if http.is_none() && (said.token.is_some() || said.user.is_some()) {
        return Err(BadSource::TokenForSsh);
    }
    let is_clear = !keeps_secrets(&said.url);
    if is_clear && said.token.is_some() {
        return Err(BadSource::TokenInClear);
    }
    if http.is_some() && said.key.is_some() {
        return Err(BadSource::KeyForHttp);
    }
    let token = filled(said.token, "the token")?;
    let env_token = said.env_token.map(|token| token.trim().to_owned());
    let env_token = env_token.filter(|token| http.is_some() && !is_clear && !token.is_empty());
    let key = filled(said.key, "the deploy key")?;
    if key.as_ref().is_some_and(|key| !key.contains("PRIVATE KEY")) {
        return Err(BadSource::PublicKey);
    }
    Ok(GitSource {
        url: Some(said.url),
        r#ref: said.branch,
        user: said.user,
        token: token.or(env_token),
        key,
    })
}

fn filled(secret: Option<String>, what: &'static str) -> Result<Option<String>, BadSource> {
    let secret = secret.map(|text| text.trim().to_owned());
    if secret.as_ref().is_some_and(String::is_empty) {
        Err(BadSource::Empty(what))
    } else {
        Ok(secret)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(url: &str) -> Said {
        Said { url: url.into(), ..Said::default() }
    }

    #[test]
    fn secrets_go_where_they_fit() {
        let some = |text: &str| Some(text.to_owned());
        let read = Said { token: some("t\n"), env_token: some("e"), ..of("https://h/x") };
        assert_eq!(source(read).unwrap().token.as_deref(), Some("t"));
        let env = |url| source(Said { env_token: some("e\n"), ..of(url) }).unwrap().token;
        assert_eq!(env("https://h/x").as_deref(), Some("e"));
        assert_eq!(env("git@h:x"), None);
        assert_eq!(env("http://h/x"), None);
        assert_eq!(env("http://git-web.discoverd/x").as_deref(), Some("e"));
        let key = "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n";
        let ssh = source(Said { key: some(key), ..of("git@h:x") }).unwrap();
        assert_eq!(ssh.key.as_deref(), Some(key.trim()));
    }

    #[test]
    fn what_does_not_go_together_is_refused_and_not_repeated() {
        let some = |text: &str| Some(text.to_owned());
        for (said, why) in [
            (of("https://me:s3cret@h/x"), BadSource::SecretInUrl),
            (of("https://s3cret@h/x"), BadSource::SecretInUrl),
            (Said { token: some("s3cret"), ..of("git@h:x") }, BadSource::TokenForSsh),
            (Said { token: some("s3cret"), ..of("http://h/x") }, BadSource::TokenInClear),
            (Said { key: some("s3cret"), ..of("https://h/x") }, BadSource::KeyForHttp),
            (Said { key: some("ssh-ed25519 AAAA"), ..of("git@h:x") }, BadSource::PublicKey),
            (Said { token: some(" \n"), ..of("https://h/x") }, BadSource::Empty("the token")),
        ] {
            let err = source(said).unwrap_err();
            assert_eq!(err, why);
            assert!(!err.to_string().contains("s3cret"));
        }
        assert!(source(of("https://h/~user@home")).is_ok());
    }
}
