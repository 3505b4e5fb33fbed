//! `.slugignore`: what the slug does without.

/// The patterns of a `.slugignore` file: gitignore's without `!`. A pattern with a slash in it, or before it, is matched
/// from the root, another one against names at any depth; `*` stops at slashes, `**` does not; a slash at the end means
/// directories only.
#[derive(Debug, Clone, Default)]
pub struct Patterns(Vec<Pattern>);

#[derive(Debug, Clone)]
struct Pattern {
    glob: Vec<u8>,
    anchored: bool,
    directory: bool,
}

/// Longer patterns are no names.
const MAX_PATTERN: usize = 1024;

impl Patterns {
    /// Reads the file. Comments, empty lines and negations are left out.
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().map(str::trim);
        let used = lines.filter(|line| !line.is_empty() && !line.starts_with(['#', '!']));
        Self(used.filter_map(Pattern::parse).collect())
    }

    /// Whether a path, relative to the root and without a slash at its end, is left out.
    pub fn ignore(&self, path: &[u8], directory: bool) -> bool {
        self.0.iter().any(|pattern| pattern.matches(path, directory))
    }
}

impl Pattern {
    fn parse(line: &str) -> Option<Self> {
        let directory = line.ends_with('/');
        let line = line.trim_end_matches('/');
        let anchored = line.contains('/');
        let glob = line.trim_start_matches('/').as_bytes().to_vec();
        (!glob.is_empty() && glob.len() <= MAX_PATTERN).then_some(Self {
            glob,
            anchored,
            directory,
        })
    }

    fn matches(&self, path: &[u8], directory: bool) -> bool {
        if self.directory && !directory {
            return false;
        }
        if self.anchored {
            return glob(&self.glob, path);
        }
        let name = path.rsplit(|&b| b == b'/').next().unwrap_or(path);
        glob(&self.glob, name)
    }
}

/// Matches with one place to go back to for each kind of star, so the time is bounded by the product of the lengths.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on when what follows a star does not fit: after the star, and how far the star has eaten.
    let mut star: Option<(usize, usize)> = None;
    let mut double: Option<(usize, usize)> = None;
    loop {
        if pattern[p..].starts_with(b"**") {
            p += 2;
            // `**/` also stands for nothing.
            if pattern.get(p) == Some(&b'/') && (t == 0 || text.get(t - 1) == Some(&b'/')) {
                p += 1;
            }
            double = Some((p, t));
            star = None;
        } else if pattern.get(p) == Some(&b'*') {
            p += 1;
            star = Some((p, t));
        } else if t == text.len() && p == pattern.len() {
            return true;
        } else if t < text.len() && fits(pattern.get(p), text[t]) {
            p += 1;
            t += 1;
        } else if let Some((after, eaten)) =
            star.filter(|&(_, eaten)| text.get(eaten).is_some_and(|&b| b != b'/'))
        {
            star = Some((after, eaten + 1));
            (p, t) = (after, eaten + 1);
        } else if let Some((after, eaten)) = double.filter(|&(_, eaten)| eaten < text.len()) {
            double = Some((after, eaten + 1));
            star = None;
            (p, t) = (after, eaten + 1);
        } else {
            return false;
        }
    }
}

fn fits(pattern: Option<&u8>, byte: u8) -> bool {
    match pattern {
        Some(b'?') => byte != b'/',
        Some(&wanted) => wanted == byte,
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_mean_what_gitignores_mean() {
        let patterns = Patterns::parse(
            "# no\n\n*.psd\n/docs/*.md\ntmp/\n a/**/z \n!keep.psd\n/rooted\n**/deep/x\n",
        );
        for (path, directory, ignored) in [
            ("art.psd", false, true),
            ("deep/er/art.psd", false, true),
            ("keep.psd", false, true),
            ("docs/a.md", false, true),
            ("docs/b/a.md", false, false),
            ("x/docs/a.md", false, false),
            ("tmp", true, true),
            ("x/tmp", true, true),
            ("tmp", false, false),
            ("a/b/c/z", false, true),
            ("a/z", false, true),
            ("rooted", false, true),
            ("x/rooted", false, false),
            ("deep/x", false, true),
            ("a/b/deep/x", false, true),
            ("anything", false, false),
        ] {
            assert_eq!(patterns.ignore(path.as_bytes(), directory), ignored, "{path}");
        }
    }

    proptest! {
        #[test]
        fn matching_never_panics(text in "(\\*|\\?|/|a|\\PC|\n){0,40}", path in "(a|b|/|\\PC){0,40}") {
            Patterns::parse(&text).ignore(path.as_bytes(), true);
        }

        #[test]
        fn a_plain_name_matches_itself_anywhere(name in "[a-z.]{1,10}", above in "([a-z]{1,5}/){0,3}") {
            let patterns = Patterns::parse(&name);
            let path = format!("{}{}", above, name);
            prop_assert!(patterns.ignore(path.as_bytes(), false));
        }
    }
}
