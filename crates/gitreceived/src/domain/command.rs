//! What a client asks the server to run. It is never run: it is understood, or refused.

use std::fmt;

/// Longest command looked at.
const COMMAND_LEN_MAX: usize = 1024;
/// Longest name of an app.
const NAME_LEN_MAX: usize = 30;
/// Longest path of a repository in a folder.
const PATH_LEN_MAX: usize = 200;

/// What repositories are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// As apps are, in a cluster.
    Apps,
    /// As files are, in a folder.
    Paths,
}

/// A repository. In a cluster it is an app's name, `^[a-z\d]+(-[a-z\d]+)*$`; in a folder a path that cannot lead out of it,
/// nor into another repository, and is never an option.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RepoName(String);

impl RepoName {
    /// The repository that `/<name>.git` names; slash and ending may be missing.
    pub fn parse(text: &str, names: Names) -> Option<Self> {
        let name = text.strip_prefix('/').unwrap_or(text);
        let name = name.strip_suffix(".git").unwrap_or(name);
        let word = |word: &str| {
            !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        };
        let is_name = match names {
            Names::Apps => name.len() <= NAME_LEN_MAX && name.split('-').all(word),
            Names::Paths => name.len() <= PATH_LEN_MAX && name.split('/').all(is_folder),
        };
        is_name.then(|| Self(name.into()))
    }

    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a part of a path is one that neither a shell nor git takes for something else.
fn is_folder(part: &str) -> bool {
    !part.is_empty()
        && !part.starts_with(['.', '-'])
        && !part.ends_with(".git")
        && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._+-".contains(&b))
}

impl fmt::Display for RepoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A command that is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GitCommand {
    /// `git push` to a repository.
    ReceivePack(RepoName),
}

/// Why a command is not taken, as a sentence for the person at the other end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Anything but git.
    #[error("Hi! This server only takes git push.")]
    NotGit,
    /// Clone or fetch.
    #[error(
        "This server only takes git push: nothing can be cloned or fetched from it. Your own repository has everything."
    )]
    Fetch,
    /// A client of Git LFS.
    #[error(
        "This server does not take Git LFS: files kept in LFS are deployed as their small pointers. Commit the files \
         themselves (git lfs migrate export), or have the app fetch them when it is built. To push anyway: git push \
         --no-verify"
    )]
    Lfs,
    /// No app can have that name.
    #[error(
        "{0:?} is not the name of an app. The remote's URL ends in /<app>.git: see `git remote -v`, and `flynn apps` for the \
         names."
    )]
    BadName(String),
    /// No folder should.
    #[error(
        "{0:?} is not the name of a repository: it is letters, digits, '.', '_', '+' and '-', in folders if need be, and no part \
         of it begins with a dot or a dash."
    )]
    BadPath(String),
}

impl GitCommand {
    /// Understands the command of an SSH exec request.
    pub fn parse(command: &[u8], names: Names) -> Result<Self, Refusal> {
        if command.len() > COMMAND_LEN_MAX {
            return Err(Refusal::NotGit);
        }
        let text = std::str::from_utf8(command).map_err(|_| Refusal::NotGit)?;
        let words = shell_words::split(text).map_err(|_| Refusal::NotGit)?;
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words[..] {
            ["git-receive-pack", repo] | ["git", "receive-pack", repo] => {
                RepoName::parse(repo, names).map(Self::ReceivePack).ok_or_else(|| {
                    let shown = repo.chars().take(60).collect();
                    match names {
                        Names::Apps => Refusal::BadName(shown),
                        Names::Paths => Refusal::BadPath(shown),
                    }
                })
            }
            ["git-upload-pack" | "git-upload-archive", ..]
            | ["git", "upload-pack" | "upload-archive", ..] => Err(Refusal::Fetch),
            ["git-lfs-authenticate" | "git-lfs-transfer", ..] => Err(Refusal::Lfs),
            _ => Err(Refusal::NotGit),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(command: &str) -> Result<String, Refusal> {
        let GitCommand::ReceivePack(repo) = GitCommand::parse(command.as_bytes(), Names::Apps)?;
        Ok(repo.to_string())
    }

    #[test]
    fn git_push_to_an_app_is_understood_in_every_form_git_sends() {
        for command in [
            "git-receive-pack '/my-app.git'",
            "git-receive-pack 'my-app.git'",
            "git-receive-pack '/my-app'",
            "git-receive-pack my-app",
            "git receive-pack '/my-app.git'",
        ] {
            assert_eq!(parse(command).as_deref(), Ok("my-app"), "{command}");
        }
    }

    #[test]
    fn names_that_no_app_has_are_refused_and_so_is_every_other_command() {
        for name in [
            "",
            "/",
            "..",
            "../x",
            ".",
            "a/b",
            "//a",
            "-o",
            "--upload-pack=x",
            "a..b",
            "A",
            "a_b",
            "a.git.git",
            "a-",
            "-a",
            "a--b",
            ".git",
            "a\0",
            "ä",
            &"a".repeat(31),
        ] {
            assert_eq!(RepoName::parse(name, Names::Apps), None, "{name:?}");
        }
        assert!(matches!(parse("git-receive-pack '/../x.git'"), Err(Refusal::BadName(_))));
        assert_eq!(parse("git-upload-pack '/a.git'"), Err(Refusal::Fetch));
        assert_eq!(parse("git-lfs-authenticate a.git upload"), Err(Refusal::Lfs));
        for command in [
            "",
            "sh",
            "git-receive-pack",
            "git-receive-pack a b",
            "git-receive-pack a; id",
            "git-receive-pack 'a",
            "scp -t /",
        ] {
            assert_eq!(parse(command), Err(Refusal::NotGit), "{command:?}");
        }
        assert_eq!(GitCommand::parse(&[b'a'; 2000], Names::Apps), Err(Refusal::NotGit));
    }

    #[test]
    fn a_folder_holds_repositories_of_any_name_that_stays_in_it() {
        let parse = |name| RepoName::parse(name, Names::Paths).map(|name| name.to_string());
        for (name, is) in [
            ("/org/any.git", "org/any"),
            ("My_App.git", "My_App"),
            ("/a.b+c/d-e", "a.b+c/d-e"),
            ("a/b/c.git", "a/b/c"),
        ] {
            assert_eq!(parse(name).as_deref(), Some(is));
        }
        for name in [
            "",
            "/",
            "..",
            "../x",
            "a/../b",
            "a/./b",
            "//a",
            "a//b",
            "a/",
            ".git",
            "-o",
            "a/-o",
            "a/.b",
            "a.git/b",
            "a.git.git",
            "a b",
            "a\0",
            "~/a",
            "$HOME",
            "a\\b",
            &"a".repeat(201),
        ] {
            assert_eq!(parse(name), None, "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn no_path_leads_out_of_its_folder_or_into_a_repository(text in "[-a/.git]{0,12}") {
            if let Some(name) = RepoName::parse(&text, Names::Paths) {
                for part in name.as_str().split('/') {
                    prop_assert!(!part.is_empty() && !part.starts_with(['.', '-']) && !part.ends_with(".git"));
                }
            }
        }

        #[test]
        fn parsing_never_panics_and_takes_only_app_names(command: Vec<u8>, text in "(git-receive-pack |git )?.{0,40}") {
            let _ = GitCommand::parse(&command, Names::Paths);
            if let Ok(GitCommand::ReceivePack(repo)) = GitCommand::parse(text.as_bytes(), Names::Apps) {
                prop_assert!(repo.as_str().bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
                prop_assert!(!repo.as_str().starts_with('-') && !repo.as_str().is_empty());
            }
        }

        #[test]
        fn every_app_name_is_taken(name in "[a-z0-9]{1,9}(-[a-z0-9]{1,9}){0,2}") {
            prop_assert_eq!(parse(&format!("git-receive-pack '/{name}.git'")), Ok(name));
        }
    }
}
