//! Where a buildpack comes from: `https://host/repo.git#branch`, or the name of one of ours.

/// Where a buildpack comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// One of ours.
    Known(String),
    /// A git repository, and the branch, tag or commit of it.
    Git {
        /// Its address.
        url: String,
        /// None: its head.
        reference: Option<String>,
    },
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
        let bad = || BadSource(text.chars().take(200).collect());
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
        Ok(Self::Git { url: url.into(), reference: reference.map(Into::into) })
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
            Ok(Source::Git { url: url.into(), reference: reference.map(Into::into) })
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

    proptest! {
        #[test]
        fn nothing_that_git_takes_for_an_option_gets_through(text in "\\PC{0,40}|(https://|git@)\\PC{0,40}") {
            if let Ok(Source::Git { url, reference }) = Source::parse(&text, &[]) {
                prop_assert!(!url.starts_with('-') && !url.contains("::/") && !url.contains(' '));
                prop_assert!(!reference.is_some_and(|reference| reference.starts_with('-')));
            }
        }
    }
}
