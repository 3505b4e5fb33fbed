//! What the settings of an operator's own repository forbid. git obeys them where it moves refs itself, and here our hook
//! moves them.

use std::collections::BTreeSet;

use super::{told::shown, update::Change};

/// The settings that forbid something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    deny_deletes: bool,
    /// Whether a branch may only come after what it was at.
    pub(crate) deny_non_fast_forwards: bool,
    deny_current_branch: bool,
    deny_delete_current: bool,
    /// Whether it has no files of its own before anybody.
    is_bare: bool,
    /// What nobody is shown, in git's own words: what a full name begins with, after a `!` if it is shown all the same. The last
    /// that fits counts.
    hidden: Vec<String>,
}

/// Branches that are in use in a repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InUse {
    /// Those whose files somebody has before them, or that somebody rebases or bisects.
    pub checked_out: BTreeSet<String>,
    /// The one that `HEAD` names.
    pub head: String,
}

/// Why a change is not taken, as a sentence for the pusher.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    /// No branch may go.
    #[error("'{0}' stays: deletion prohibited (receive.denyDeletes). Nothing was changed.")]
    Deletion(String),
    /// This one may not.
    #[error(
        "'{0}' stays: deletion of the current branch prohibited (receive.denyDeleteCurrent). Nothing was changed."
    )]
    DeletionOfCurrent(String),
    /// Somebody works on it.
    #[error(
        "Cannot update '{0}': branch is currently checked out (receive.denyCurrentBranch). Nothing was changed."
    )]
    CheckedOut(String),
    /// Nobody is shown it.
    #[error(
        "Cannot update '{0}': it is hidden here (receive.hideRefs or transfer.hideRefs). Nothing was changed; use another name."
    )]
    Hidden(String),
    /// What the branch was at would be lost.
    #[error(
        "Cannot update '{0}': non-fast-forward (receive.denyNonFastForwards). Nothing was changed."
    )]
    NonFastForward(String),
}

impl Default for Rules {
    /// What git does where nothing is set.
    fn default() -> Self {
        Self {
            deny_deletes: false,
            deny_non_fast_forwards: false,
            deny_current_branch: true,
            deny_delete_current: true,
            is_bare: true,
            hidden: Vec::new(),
        }
    }
}

impl Rules {
    /// Understands what `git config -z --get-regexp` lists; what is listed last counts.
    pub fn read(listed: &str) -> Self {
        let mut rules = Self::default();
        for entry in listed.split_terminator('\0') {
            let (name, value) = entry.split_once('\n').unwrap_or((entry, "true"));
            if matches!(name, "receive.hiderefs" | "transfer.hiderefs") {
                rules.hidden.push(value.trim_end_matches('/').to_owned());
                continue;
            }
            let value = value.to_ascii_lowercase();
            let is_true = !["false", "no", "off", "0", ""].contains(&value.as_str());
            let denies = is_true && !["ignore", "warn"].contains(&value.as_str());
            match name {
                "receive.denydeletes" => rules.deny_deletes = is_true,
                "receive.denynonfastforwards" => rules.deny_non_fast_forwards = is_true,
                "receive.denycurrentbranch" => rules.deny_current_branch = denies,
                "receive.denydeletecurrent" => rules.deny_delete_current = denies,
                "core.bare" => rules.is_bare = is_true,
                _ => {}
            }
        }
        rules
    }

    /// Whether nobody is shown a ref, so that git refuses to move it.
    fn hides(&self, name: &str) -> bool {
        let fits = |pattern: &str| {
            let rest = name.strip_prefix(pattern);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        // There are no namespaces here, whose names `^` is for.
        let parts = |entry: &String| match entry.strip_prefix('!') {
            Some(shown) => (false, fits(shown.trim_start_matches('^'))),
            None => (true, fits(entry.trim_start_matches('^'))),
        };
        self.hidden.iter().rev().map(parts).find(|(_, fits)| *fits).is_some_and(|(hides, _)| hides)
    }

    /// Why a ref may not be changed, whatever it is to be at.
    pub fn check(&self, change: &Change, in_use: &InUse) -> Result<(), Forbidden> {
        let name = || shown(&change.name);
        let is_checked_out = in_use.checked_out.contains(&change.name);
        match &change.new {
            _ if self.hides(&change.name) => Err(Forbidden::Hidden(name())),
            _ if !change.name.starts_with("refs/heads/") => Ok(()),
            None if self.deny_deletes => Err(Forbidden::Deletion(name())),
            None if self.deny_delete_current && (is_checked_out || in_use.head == change.name) => {
                Err(Forbidden::DeletionOfCurrent(name()))
            }
            Some(_) if self.deny_current_branch && is_checked_out => {
                Err(Forbidden::CheckedOut(name()))
            }
            _ => Ok(()),
        }
    }
}

impl InUse {
    /// Understands what `git worktree list --porcelain` and `git symbolic-ref HEAD` say. The first it lists is the repository
    /// itself, and not as bare where nothing says whether it is; where it is pushed to, git takes it for bare then.
    pub fn read(worktrees: &str, head: &str, rules: &Rules) -> Self {
        let worktrees = worktrees.split("\n\n").skip(usize::from(rules.is_bare));
        let lines = worktrees.flat_map(str::lines);
        let checked_out = lines.filter_map(|line| line.strip_prefix("branch "));
        Self { checked_out: checked_out.map(str::to_owned).collect(), head: head.trim().into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(name: &str, new: Option<&str>) -> Change {
        Change {
            name: format!("refs/heads/{name}"),
            old: Some("1".into()),
            new: new.map(Into::into),
        }
    }

    #[test]
    fn settings_are_read_as_git_reads_them() {
        assert_eq!(Rules::read(""), Rules::default());
        let set = "receive.denydeletes\0receive.denynonfastforwards\nyes\0receive.denycurrentbranch\nupdateInstead\0";
        let rules = Rules::read(set);
        assert!(rules.deny_deletes && rules.deny_non_fast_forwards && rules.deny_current_branch);
        let unset = "receive.denydeletes\nOff\0receive.denycurrentbranch\nWarn\0receive.denydeletecurrent\nfalse\0";
        let rules = Rules::read(&format!("{set}{unset}"));
        assert!(!rules.deny_deletes && rules.deny_non_fast_forwards);
        assert!(!rules.deny_current_branch && !rules.deny_delete_current);
    }

    #[test]
    fn what_is_hidden_is_not_pushed_and_the_last_that_fits_counts() {
        let rules = Rules::read(
            "receive.hiderefs\nrefs/heads/h/\0transfer.hiderefs\nrefs/tags\0receive.hiderefs\n!refs/tags/v\0",
        );
        for (name, hidden) in [
            ("refs/heads/h", true),
            ("refs/heads/h/x", true),
            ("refs/heads/hx", false),
            ("refs/tags/t", true),
            ("refs/tags/v/1", false),
        ] {
            let change = Change { name: name.into(), ..change("", Some("2")) };
            assert_eq!(rules.check(&change, &InUse::default()).is_err(), hidden, "{name}");
        }
    }

    #[test]
    fn branches_in_use_and_those_that_may_not_go_are_left_alone() {
        let worktrees = "worktree /r\nHEAD 1\nbranch refs/heads/main\n\nworktree /a\nHEAD 1\nbranch refs/heads/a\n\nworktree /b\nHEAD 1\ndetached\n";
        let read = |rules: &str| InUse::read(worktrees, "refs/heads/head\n", &Rules::read(rules));
        assert_eq!(read("").checked_out, BTreeSet::from(["refs/heads/a".into()]));
        let in_use = read("core.bare\nfalse\0");
        assert_eq!(in_use.checked_out.len(), 2);
        let check =
            |rules: &str, name: &str, new| Rules::read(rules).check(&change(name, new), &in_use);
        let name = |name: &str| format!("refs/heads/{name}");
        assert_eq!(check("", "a", Some("2")), Err(Forbidden::CheckedOut(name("a"))));
        assert_eq!(check("receive.denycurrentbranch\nignore\0", "a", Some("2")), Ok(()));
        for current in ["a", "head"] {
            let refused = Err(Forbidden::DeletionOfCurrent(name(current)));
            assert_eq!(check("", current, None), refused);
            assert_eq!(check("receive.denydeletecurrent\nwarn\0", current, None), Ok(()));
        }
        assert_eq!((check("", "head", Some("2")), check("", "b", None)), (Ok(()), Ok(())));
        assert_eq!(check("receive.denydeletes\0", "b", None), Err(Forbidden::Deletion(name("b"))));
        let tag = Change { name: "refs/tags/b".into(), ..change("", None) };
        assert_eq!(Rules::read("receive.denydeletes\0").check(&tag, &in_use), Ok(()));
    }
}
