//! Refs that stand for others (`git symbolic-ref`), and what may be pushed of them.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    refusal::Refusal,
    told::{short, shown},
    update::{Change, DeployBranches, Plan},
};

/// Refs that stand for others, and those others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Aliases {
    /// What each stands for at last.
    of: BTreeMap<String, String>,
    /// The refs by way of which a branch that is deployed stands for another, the last one included; and that branch.
    ways: BTreeMap<String, String>,
}

impl FromIterator<(String, String)> for Aliases {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        Self { of: pairs.into_iter().collect(), ways: BTreeMap::new() }
    }
}

impl Aliases {
    /// Notes that a ref stands for another.
    pub fn insert(&mut self, name: String, of: String) {
        self.of.insert(name, of);
    }

    /// Notes that a branch that is deployed stands for another by way of this ref, or for this one.
    pub fn insert_way(&mut self, name: String, deployed: &str) {
        self.ways.insert(name, deployed.to_owned());
    }

    /// What a ref stands for at last: itself, if for nothing else.
    pub fn of<'a>(&'a self, name: &'a str) -> &'a str {
        self.of.get(name).map_or(name, String::as_str)
    }
}

impl Plan {
    /// Whether it moves each ref once, and what is deployed under the name by which it is.
    pub fn check_aliases(
        &self,
        aliases: &Aliases,
        branches: &DeployBranches,
    ) -> Result<(), Refusal> {
        let way = |name: &str| {
            let deployed = aliases.ways.get(name).filter(|_| !branches.contains(name))?;
            Some((shown(short(name)), shown(short(deployed))))
        };
        let gone = self.changes().filter(|change| change.new.is_none());
        if let Some((name, of)) = gone.filter_map(|change| way(&change.name)).next() {
            return Err(Refusal::WayGone { name, of });
        }
        let mut moved = BTreeMap::new();
        for Change { name, .. } in self.changes().filter(|change| change.new.is_some()) {
            let of = aliases.of(name);
            let (told, told_of) = (|| shown(short(name)), || shown(short(of)));
            let is_branch = |name: &str| name.starts_with("refs/heads/");
            if is_branch(of) && !is_branch(name) {
                return Err(Refusal::TagAlias {
                    name: told(),
                    of: told_of(),
                    remote: branches.remote(),
                });
            }
            if branches.contains(of) && !branches.contains(name) {
                let remote = branches.remote();
                return Err(Refusal::Alias { name: told(), of: told_of(), remote });
            }
            if let Some((_, deployed)) = way(of).filter(|_| !branches.contains(name)) {
                let remote = branches.remote();
                return Err(Refusal::Way { name: told(), of: deployed, remote });
            }
            if let Some(other) = moved.insert(of, name) {
                return Err(Refusal::SameRef(shown(short(other)), told()));
            }
        }
        // git takes it for a contradiction that one of the names goes and the other is moved.
        let names: BTreeSet<&str> = self.changes().map(|change| change.name.as_str()).collect();
        let both = |name: &&str| aliases.of(name) != *name && names.contains(aliases.of(name));
        match names.iter().copied().find(both) {
            None => Ok(()),
            Some(name) => Err(Refusal::Together {
                name: shown(short(name)),
                of: shown(short(aliases.of(name))),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::update::judge;

    const ZERO: &str = "0000000000000000000000000000000000000000";
    const ONE: &str = "1111111111111111111111111111111111111111";
    const TWO: &str = "2222222222222222222222222222222222222222";

    fn line(id: &str, name: &str) -> String {
        format!("{ZERO} {id} refs/{name}\n")
    }

    fn gone(name: &str) -> String {
        format!("{ONE} {ZERO} refs/{name}\n")
    }

    /// What is said of a push to a repository with these aliases; nothing if it is taken.
    fn said(pairs: &[(&str, &str)], lines: &[String]) -> String {
        let name = |name: &str| format!("refs/{name}");
        let aliases = pairs.iter().map(|(one, other)| (name(one), name(other))).collect();
        let branches = DeployBranches::alone().with(&aliases);
        let judged = judge(&lines.concat(), &branches);
        let checked = judged.and_then(|plan| plan.check_aliases(&aliases, &branches));
        checked.err().map_or(String::new(), |refusal| refusal.to_string())
    }

    #[test]
    fn a_ref_is_moved_once_under_the_name_that_it_is_deployed_by() {
        let pairs = [("heads/master", "heads/main"), ("heads/alias", "heads/main")];
        let pairs = [pairs[0], pairs[1], ("heads/b", "heads/a"), ("heads/c", "heads/a")];
        let said = |lines: &[String]| said(&pairs, lines);
        assert_eq!(said(&[line(ONE, "heads/master")]) + &said(&[line(ONE, "heads/b")]), "");
        let two = said(&[line(ONE, "heads/main"), line(ONE, "heads/master")]);
        assert!(two.starts_with("main and master are one branch here"), "{two}");
        let two = said(&[line(ONE, "heads/a"), line(TWO, "heads/b")]);
        assert!(two.starts_with("a and b are one branch here"), "{two}");
        let alias = said(&[line(ONE, "heads/alias")]);
        assert!(alias.starts_with("alias is another name of main here"), "{alias}");
        assert_eq!(said(&[gone("heads/alias")]), "", "the name goes, what it stands for stays");
        assert_eq!(said(&[gone("heads/b"), gone("heads/c"), line(ONE, "heads/x")]), "");
    }

    #[test]
    fn a_name_does_not_go_in_the_push_that_moves_what_it_stands_for() {
        let pairs =
            [("heads/dev", "heads/main"), ("tags/now", "heads/main"), ("heads/b", "heads/a")];
        for (lines, names) in [
            ([gone("heads/dev"), line(ONE, "heads/main")], "dev stands for main here"),
            ([line(ONE, "heads/main"), gone("tags/now")], "now stands for main here"),
            ([gone("heads/a"), line(ONE, "heads/b")], "b stands for a here"),
            ([gone("heads/a"), gone("heads/b")], "b stands for a here"),
        ] {
            let said = said(&pairs, &lines);
            assert!(said.starts_with(names) && said.contains("one after the other"), "{said}");
        }
    }

    #[test]
    fn nothing_moves_or_cuts_what_is_deployed_past_the_receiver() {
        // main stands for a tag by way of another branch.
        let pairs = [("heads/main", "tags/v1"), ("heads/mid", "tags/v1"), ("tags/now", "tags/v1")];
        let mut aliases: Aliases =
            pairs.map(|(a, b)| (format!("refs/{a}"), format!("refs/{b}"))).into_iter().collect();
        for way in ["refs/heads/mid", "refs/tags/v1"] {
            aliases.insert_way(way.into(), "refs/heads/main");
        }
        let branches = DeployBranches::alone().with(&aliases);
        let said = |line: String| {
            let checked = judge(&line, &branches).unwrap().check_aliases(&aliases, &branches);
            checked.err().map_or(String::new(), |refusal| refusal.to_string())
        };
        for name in ["heads/mid", "tags/v1", "tags/now"] {
            let said = said(line(ONE, name));
            assert!(
                said.contains("would move main here") && said.contains("<commit>:main"),
                "{said}"
            );
        }
        for name in ["heads/mid", "tags/v1"] {
            let said = said(gone(name));
            assert!(said.contains("cannot be deleted, for main stands for it here"), "{said}");
        }
        for line in [line(ONE, "heads/main"), gone("tags/now"), line(ONE, "tags/v2")] {
            assert_eq!(said(line), "");
        }
    }

    #[test]
    fn what_the_deployed_branch_stands_for_is_deployed_and_no_tag_moves_a_branch() {
        let pairs = [("heads/main", "heads/trunk"), ("tags/now", "heads/x"), ("tags/a", "tags/b")];
        let aliases: Aliases =
            pairs.map(|(a, b)| (format!("refs/{a}"), format!("refs/{b}"))).into_iter().collect();
        let branches = DeployBranches::alone().with(&aliases);
        let plan = judge(&line(ONE, "heads/trunk"), &branches).unwrap();
        assert_eq!(plan.deploy.map(|change| change.name).as_deref(), Some("refs/heads/trunk"));
        let said = |lines: &[String]| said(&pairs, lines);
        assert_eq!(said(&[line(ONE, "heads/main")]) + &said(&[line(ONE, "tags/a")]), "");
        let deletion = said(&[gone("heads/trunk")]);
        assert!(deletion.starts_with("trunk cannot be deleted"), "{deletion}");
        let tag = said(&[line(ONE, "tags/now")]);
        assert!(tag.starts_with("The tag now stands for the branch x here"), "{tag}");
    }
}
