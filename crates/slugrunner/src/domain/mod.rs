//! What to run. Pure.

pub mod files;

use std::{collections::BTreeMap, fmt};

use api::slug::{PROCFILE, Procfile, RELEASE_FILE, SlugRelease};

/// What a slug says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slug {
    /// Its Procfile.
    pub procfile: Procfile,
    /// What its buildpack added.
    pub release: SlugRelease,
}

/// What slugrunner was asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// Serve the files of a directory.
    Site(String),
    /// Run a command.
    Command(Command),
}

/// A command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// A line for the shell.
    Line(String),
    /// A program and its arguments.
    Words(Vec<String>),
}

/// The slug has no such process type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoSuchType {
    wanted: String,
    known: Vec<String>,
}

impl std::error::Error for NoSuchType {}

impl fmt::Display for NoSuchType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no process type {:?}; ", self.wanted)?;
        if self.known.is_empty() {
            write!(
                f,
                "this app declares none: push it with a {PROCFILE}, such as \"web: ./server\""
            )
        } else {
            write!(f, "this app has: {}", self.known.join(", "))
        }
    }
}

impl Slug {
    /// Reads a slug's files, given as texts. A `.release` that is not JSON is an error.
    pub fn parse(procfile: &str, release: &str) -> Result<Self, serde_json::Error> {
        let release = match release.trim() {
            "" => SlugRelease::default(),
            text => serde_json::from_str(text)?,
        };
        Ok(Self { procfile: Procfile::parse(procfile), release })
    }

    /// What the words of the command line ask for. There is at least one.
    pub fn task(&self, words: &[String]) -> Result<Task, NoSuchType> {
        match words {
            [start, kind] if start == "start" => {
                self.command(kind).map(|line| Task::Command(Command::Line(line)))
            }
            [site, directory] if site == "static" => Ok(Task::Site(directory.clone())),
            [line] => Ok(Task::Command(Command::Line(line.clone()))),
            words => Ok(Task::Command(Command::Words(words.into()))),
        }
    }

    fn command(&self, kind: &str) -> Result<String, NoSuchType> {
        let mut all: BTreeMap<_, _> = self.release.default_process_types.iter().collect();
        all.extend(&self.procfile.types);
        match all.get(&kind.to_owned()) {
            Some(line) => Ok((*line).clone()),
            None => {
                Err(NoSuchType { wanted: kind.into(), known: all.into_keys().cloned().collect() })
            }
        }
    }

    /// The variables that are not in `given` and that the buildpack has a default for.
    pub fn defaults(&self, given: impl Fn(&str) -> bool) -> impl Iterator<Item = (&str, &str)> {
        let vars = &self.release.config_vars;
        vars.iter()
            .filter(move |(name, _)| is_variable(name) && !given(name))
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// Whether an environment can hold a variable of this name.
fn is_variable(name: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0'])
}

/// Why a slug cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SlugError {
    /// There is no directory.
    #[error("there is no slug: {0} is not a directory that can be entered")]
    NoDirectory(String, #[source] std::io::Error),
    /// Not read.
    #[error("{0} of the slug cannot be read")]
    Unread(&'static str, #[source] std::io::Error),
    /// Not JSON.
    #[error("{RELEASE_FILE} of the slug is not what slugbuilder writes")]
    Release(#[source] serde_json::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.into()).collect()
    }

    fn line(line: &str) -> Task {
        Task::Command(Command::Line(line.into()))
    }

    #[test]
    fn the_procfile_goes_before_the_buildpacks_defaults() {
        let slug = Slug::parse(
            "web: mine",
            r#"{"default_process_types":{"web":"theirs","console":"irb"},"config_vars":{"A":"1","B":"2","":"x"}}"#,
        )
        .unwrap();
        assert_eq!(slug.task(&words(&["start", "web"])), Ok(line("mine")));
        assert_eq!(slug.task(&words(&["start", "console"])), Ok(line("irb")));
        let unknown = slug.task(&words(&["start", "worker"])).unwrap_err();
        assert_eq!(
            unknown.to_string(),
            "there is no process type \"worker\"; this app has: console, web"
        );
        assert_eq!(slug.defaults(|name| name == "A").collect::<Vec<_>>(), [("B", "2")]);
    }

    #[test]
    fn one_word_is_a_line_for_the_shell_and_several_are_kept_apart() {
        let slug = Slug::default();
        assert_eq!(slug.task(&words(&["echo $HOME | rev"])), Ok(line("echo $HOME | rev")));
        assert_eq!(
            slug.task(&words(&["sh", "-c", "exit 7"])),
            Ok(Task::Command(Command::Words(words(&["sh", "-c", "exit 7"]))))
        );
        assert_eq!(slug.task(&words(&["static", "public"])), Ok(Task::Site("public".into())));
        assert!(slug.task(&words(&["start", "web"])).unwrap_err().to_string().contains("Procfile"));
    }
}
