//! Slugs: what a build leaves behind, and how a slug says what it can run.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// Name of the file at the root of a slug that holds its [`SlugRelease`] as JSON.
pub const RELEASE_FILE: &str = ".release";
/// Name of the file at the root of a repository that declares process types.
pub const PROCFILE: &str = "Procfile";

/// What a build made: slugbuilder's answer to whoever ordered it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildResult {
    /// Every process type the slug can run, and its command: the Procfile's, and the buildpack's defaults it leaves.
    #[serde(default)]
    pub types: BTreeMap<String, String>,
    /// Those of the buildpack.
    #[serde(default)]
    pub default_types: BTreeMap<String, String>,
    /// What the buildpack calls itself: `Node.js`.
    #[serde(default)]
    pub buildpack: String,
    /// Environment the buildpack wants where the app has none of that name.
    #[serde(default)]
    pub config_vars: BTreeMap<String, String>,
    /// The slug.
    #[serde(default)]
    pub slug: SlugFile,
}

/// A slug's file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlugFile {
    /// Hex SHA-256 of the file.
    pub sha256: String,
    /// Its bytes.
    pub size: u64,
}

/// The buildpack's part of a slug, in [`RELEASE_FILE`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlugRelease {
    /// Commands of process types that the Procfile does not declare.
    #[serde(default)]
    pub default_process_types: BTreeMap<String, String>,
    /// Environment where none of that name is given.
    #[serde(default)]
    pub config_vars: BTreeMap<String, String>,
}

/// A Procfile: process types and their commands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Procfile {
    /// Command by type. A type declared twice has its last command.
    pub types: BTreeMap<String, String>,
    /// Numbers, from 1, of lines that are neither empty, nor a comment, nor `type: command`.
    pub bad_lines: Vec<usize>,
    /// Lines whose type no process can have, with their numbers, and why. They are no types here.
    pub bad_types: Vec<(usize, BadType)>,
}

impl Procfile {
    /// Parses the text of a Procfile. Never fails: bad lines are listed.
    pub fn parse(text: &str) -> Self {
        let mut procfile = Self::default();
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match line.split_once(':') {
                Some((kind, command)) if is_word(kind.trim()) && !command.trim().is_empty() => {
                    match check_type(kind.trim()) {
                        Ok(()) => {
                            procfile.types.insert(kind.trim().into(), command.trim().into());
                        }
                        Err(bad) => procfile.bad_types.push((at + 1, bad)),
                    }
                }
                _ => procfile.bad_lines.push(at + 1),
            }
        }
        procfile
    }
}

/// Longest name of a process type.
const TYPE_LEN_MAX: usize = 40;

/// Why no process type can have a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BadType {
    /// It has no characters, or others than letters, digits, `-` and `_`.
    Characters(String),
    /// It is too long.
    Length(String),
    /// It is served over HTTP, so its name becomes part of a host name.
    Served(String),
}

impl std::error::Error for BadType {}

impl fmt::Display for BadType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Characters(name) => {
                write!(f, "the type {name:?} may have letters, digits, - and _ only")
            }
            Self::Length(name) => write!(
                f,
                "the type {name:?} has {} characters; at most {TYPE_LEN_MAX} are possible",
                name.chars().count()
            ),
            Self::Served(name) => write!(
                f,
                "the type {name:?} is served over HTTP, as all that end in -web are: it may have lower-case letters, \
                 digits and - only"
            ),
        }
    }
}

/// The one rule for names of process types: 1 to 40 letters, digits, `-` and `_`; of those that end in `-web`, which are
/// routed, lower-case letters, digits and `-` only.
pub fn check_type(name: &str) -> Result<(), BadType> {
    if !is_word(name) {
        return Err(BadType::Characters(name.chars().take(100).collect()));
    }
    if name.len() > TYPE_LEN_MAX {
        return Err(BadType::Length(name.chars().take(100).collect()));
    }
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if name.ends_with("-web") && !name.bytes().all(plain) {
        return Err(BadType::Served(name.into()));
    }
    Ok(())
}

fn is_word(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_procfile_declares_types_and_says_which_lines_it_cannot_read() {
        let text = "# comment\r\nweb: node server.js --url http://x:1\r\n\r\nworker:  ./work  \nbroken\n: x\nw b: x\nempty:\n";
        let procfile = Procfile::parse(text);
        assert_eq!(procfile.types["web"], "node server.js --url http://x:1");
        assert_eq!(procfile.types["worker"], "./work");
        assert_eq!(procfile.types.len(), 2);
        assert_eq!(procfile.bad_lines, [5, 6, 7, 8]);
    }

    #[test]
    fn a_type_that_no_process_can_have_is_told_with_its_line() {
        let long = "x".repeat(41);
        let procfile = Procfile::parse(&format!("web: x\nApi_v2-web: y\n{long}: z\nApi_v2: a\n"));
        assert_eq!(procfile.types.keys().collect::<Vec<_>>(), ["Api_v2", "web"]);
        assert_eq!(
            procfile.bad_types,
            [(2, BadType::Served("Api_v2-web".into())), (3, BadType::Length(long))]
        );
        assert!(procfile.bad_types[0].1.to_string().contains("lower-case"));
        assert!(check_type(&"x".repeat(40)).is_ok() && check_type("").is_err());
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_keeps_only_usable_types(text in "\\PC*|(?s:.{0,80})") {
            for (kind, command) in Procfile::parse(&text).types {
                prop_assert!(check_type(&kind).is_ok() && !command.trim().is_empty() && !command.contains('\n'));
            }
        }

        #[test]
        fn what_is_declared_is_found(types in prop::collection::btree_map("[a-z][a-z0-9_-]{0,20}", "[!-9;-~][ -~]{0,30}[!-~]", 0..6)) {
            let text: String = types.iter().map(|(kind, command)| format!("{kind}: {command}\n")).collect();
            prop_assert_eq!(Procfile::parse(&text).types, types);
        }
    }
}
