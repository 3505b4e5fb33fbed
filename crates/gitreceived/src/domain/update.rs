//! What a push wants: one branch deployed, others and tags kept, or something that is refused.

use std::collections::BTreeSet;

use super::{
    aliases::Aliases,
    names::{can_be_kept, clash, is_ref_name},
    refusal::Refusal,
    told::{quoted, refspec, short, shown},
};

/// Most text a hook may send about its refs.
pub const UPDATES_LEN_MAX: usize = 1 << 20;
/// Most branches and tags one push may bring.
pub(crate) const CHANGES_MAX: usize = 500;

/// The branches whose push is a deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeployBranches {
    names: Vec<String>,
    /// What these stand for, if for other branches.
    stood_for: Vec<String>,
    /// Whether there is a cluster to give advice about.
    in_cluster: bool,
}

impl Default for DeployBranches {
    fn default() -> Self {
        let names = vec!["refs/heads/master".into(), "refs/heads/main".into()];
        Self { names, stood_for: Vec::new(), in_cluster: true }
    }
}

impl DeployBranches {
    /// The one branch an app names, or else main and master.
    pub fn of_app(branch: Option<&str>) -> Self {
        match branch.map(|name| name.strip_prefix("refs/heads/").unwrap_or(name)) {
            Some(name) if !name.is_empty() => {
                Self { names: vec![format!("refs/heads/{name}")], ..Self::default() }
            }
            _ => Self::default(),
        }
    }

    /// Those of a repository in a folder.
    pub fn alone() -> Self {
        Self { in_cluster: false, ..Self::default() }
    }

    /// These in a repository with certain aliases: what moves when they are pushed is deployed under its own name too.
    pub fn with(&self, aliases: &Aliases) -> Self {
        let of = self.names.iter().map(|name| aliases.of(name));
        let of =
            of.filter(|of| of.starts_with("refs/heads/") && !self.names.iter().any(|it| it == of));
        Self { stood_for: of.map(str::to_owned).collect(), ..self.clone() }
    }

    /// What the remote is called where advice names it.
    pub(crate) fn remote(&self) -> &'static str {
        if self.in_cluster { "flynn" } else { "<remote>" }
    }

    /// Their full names.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether a full name is one of them.
    pub fn contains(&self, name: &str) -> bool {
        self.names.iter().chain(&self.stood_for).any(|branch| branch == name)
    }

    /// As a person types the first of them.
    fn typed(&self) -> &str {
        short(self.names.first().map_or("", String::as_str))
    }

    /// `only main and master are`, or `only <the one> is`.
    fn told(&self) -> String {
        let names: Vec<&str> = self.names.iter().rev().map(|name| short(name)).collect();
        format!("only {} {}", names.join(" and "), if names.len() == 1 { "is" } else { "are" })
    }
}

/// A ref that is to be moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its full name.
    pub name: String,
    /// The object the pusher saw it at, if it was there.
    pub old: Option<String>,
    /// The object it shall be at; none if it goes.
    pub new: Option<String>,
}

/// What a push wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The branch that is to be deployed; has a `new`.
    pub deploy: Option<Change>,
    /// Other names of what is deployed, to be at the same object.
    pub deploy_too: Vec<Change>,
    /// What is kept only.
    pub kept: Vec<Change>,
    /// Those tags of it that lead to no commit, but to a tree or a file.
    pub no_commits: BTreeSet<String>,
}

/// Decides about the lines a pre-receive hook gets: `<old> <new> <ref>`.
pub fn judge(updates: &str, branches: &DeployBranches) -> Result<Plan, Refusal> {
    let lines: Vec<&str> = updates.lines().collect();
    match lines.len() {
        0 => return Err(Refusal::Unreadable),
        many if many > CHANGES_MAX => return Err(Refusal::TooMany(many)),
        _ => {}
    }
    let (mut plan, mut names) = (Plan::default(), BTreeSet::new());
    for line in lines {
        let change = read(line).ok_or(Refusal::Unreadable)?;
        if !names.insert(change.name.clone()) {
            return Err(Refusal::Twice(shown(&change.name)));
        }
        // One that is there can go, whatever its name.
        let is_name = if change.new.is_some() { can_be_kept } else { is_ref_name };
        if !is_name(&change.name) {
            return Err(Refusal::BadName(shown(&change.name)));
        }
        if !branches.contains(&change.name) {
            if !["refs/heads/", "refs/tags/"].iter().any(|kind| change.name.starts_with(kind)) {
                let name = shown(change.name.strip_prefix("refs/").unwrap_or(&change.name));
                return Err(Refusal::NotKept(name, branches.typed().into(), branches.remote()));
            }
            plan.kept.push(change);
            continue;
        }
        if change.new.is_none() {
            let is = match branches.in_cluster {
                true => "the app runs. To remove the app: flynn delete",
                false => "is deployed from here.",
            };
            return Err(Refusal::Deletion(short(&change.name).into(), is));
        }
        match &plan.deploy {
            Some(other) if other.new != change.new => {
                return Err(Refusal::TwoDeploys(branches.typed().into(), branches.remote()));
            }
            // Both names of what is deployed, at the same commit.
            Some(_) => plan.deploy_too.push(change),
            None => plan.deploy = Some(change),
        }
    }
    Ok(plan)
}

fn read(line: &str) -> Option<Change> {
    let mut parts = line.splitn(3, ' ');
    let (old, new, name) = (parts.next()?, parts.next()?, parts.next()?);
    let id = |id: &str| (!id.bytes().all(|b| b == b'0')).then(|| id.to_owned());
    [old, new].into_iter().all(is_object_id).then(|| Change {
        name: name.into(),
        old: id(old),
        new: id(new),
    })
}

impl Plan {
    /// All that is to be changed.
    pub fn changes(&self) -> impl Iterator<Item = &Change> {
        self.kept.iter().chain(&self.deploy).chain(&self.deploy_too)
    }

    /// Whether git can set all of it, in a repository with certain refs: otherwise it would say so when the app is deployed
    /// already, or other repositories know of a ref that none can have.
    pub fn fits(&self, mut there: BTreeSet<String>) -> Result<(), Refusal> {
        for Change { name, new, .. } in self.changes() {
            if new.is_none() {
                there.remove(name);
                continue;
            }
            if let Some(other) = clash(&there, name) {
                return Err(Refusal::Clash { name: shown(name), other: shown(other) });
            }
            there.insert(name.clone());
        }
        Ok(())
    }

    /// What `git update-ref --stdin` is told to take all locks that the push needs, and to let go of them. What comes in the
    /// place of something that goes is left out: git does not let `a` follow `a/b` in one transaction, and our hook makes two.
    pub fn rehearsal(&self) -> String {
        let gone = self.changes().filter(|change| change.new.is_none());
        let gone = gone.map(|change| change.name.clone()).collect();
        let order = |Change { name, new, .. }: &Change| match new {
            None => Some(format!("option no-deref\ndelete {name}\n")),
            Some(_) if clash(&gone, name).is_some() => None,
            Some(id) => Some(format!("update {name} {id}\n")),
        };
        let orders: String = self.changes().filter_map(order).collect();
        format!("start\n{orders}prepare\nabort\n")
    }

    /// What the pusher is told of refs that do not deploy, a line each.
    pub fn remarks(&self, branches: &DeployBranches) -> Vec<String> {
        const TOLD_MAX: usize = 5;
        let (told, remote) = (branches.told(), branches.remote());
        let for_good = |branch: &str| match branches.in_cluster {
            true => {
                format!(
                    ", or for good: flynn config {}",
                    quoted(&format!("deploy-branch={branch}"))
                )
            }
            false => String::new(),
        };
        let line = |change: &Change| match (&change.new, change.name.strip_prefix("refs/tags/")) {
            (None, _) => format!("{} is deleted.", shown(short(&change.name))),
            (Some(_), Some(tag)) if self.deploy.is_some() => {
                format!("The tag {} is kept.", shown(tag))
            }
            // What is no commit cannot be deployed.
            (Some(_), Some(tag)) if self.no_commits.contains(&change.name) => {
                format!(
                    "The tag {} is kept. It is of no commit, so it cannot be deployed.",
                    shown(tag)
                )
            }
            (Some(_), Some(tag)) => format!(
                "The tag {} is kept and not deployed. To deploy it: git push {remote} {}",
                shown(tag),
                refspec(&change.name, "^{commit}", &format!("refs/heads/{}", branches.typed()))
            ),
            (Some(_), None) => format!(
                "{} is kept and not deployed: {told}. To deploy it: git push {remote} {}{}",
                shown(short(&change.name)),
                refspec(&change.name, "", branches.typed()),
                for_good(&shown(short(&change.name)))
            ),
        };
        let mut lines: Vec<String> = self.kept.iter().take(TOLD_MAX).map(line).collect();
        if self.kept.len() > TOLD_MAX {
            lines.push(format!("{} more are kept and not deployed.", self.kept.len() - TOLD_MAX));
        }
        lines
    }
}

/// 40 hex digits, or 64 in a SHA-256 repository.
pub fn is_object_id(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::names::NAME_LEN_MAX;

    const ZERO: &str = "0000000000000000000000000000000000000000";
    const ONE: &str = "1111111111111111111111111111111111111111";
    const TWO: &str = "2222222222222222222222222222222222222222";

    fn judged(updates: &str, branch: Option<&str>) -> Result<Plan, Refusal> {
        judge(updates, &DeployBranches::of_app(branch))
    }

    #[test]
    fn main_and_master_are_deployed_unless_the_app_names_another() {
        for branch in ["main", "master"] {
            let line = format!("{ZERO} {ONE} refs/heads/{branch}\n");
            let deploy = judged(&line, None).unwrap().deploy.unwrap();
            assert_eq!((deploy.old, deploy.new.as_deref()), (None, Some(ONE)));
            let plan = judged(&line, Some("live")).unwrap();
            assert_eq!((plan.deploy.is_some(), plan.kept.len()), (false, 1));
            let said = plan.remarks(&DeployBranches::of_app(Some("live"))).remove(0);
            assert!(said.contains("not deployed: only live is."), "{said}");
        }
        let live = judged(&format!("{ONE} {TWO} refs/heads/live"), Some("live")).unwrap();
        assert_eq!(live.deploy.unwrap().old.as_deref(), Some(ONE));
        let both = format!("{ZERO} {ONE} refs/heads/main\n{ZERO} {ONE} refs/heads/master\n");
        let plan = judged(&both, None).unwrap();
        let names: Vec<&str> = plan.changes().map(|change| change.name.as_str()).collect();
        assert_eq!(names, ["refs/heads/main", "refs/heads/master"]);
        let differ =
            both.replace(&format!("{ONE} refs/heads/main"), &format!("{TWO} refs/heads/main"));
        assert_eq!(judged(&differ, None), Err(Refusal::TwoDeploys("master".into(), "flynn")));
    }

    #[test]
    fn tags_and_other_branches_are_kept_and_the_rest_is_refused() {
        let lines = format!("{ZERO} {ONE} refs/heads/master\n{ZERO} {TWO} refs/tags/v1\n");
        let plan = judged(&lines, None).unwrap();
        assert_eq!(plan.remarks(&DeployBranches::default()), ["The tag v1 is kept."]);
        let branch = judged(&format!("{ZERO} {ONE} refs/heads/x\n{ONE} {ZERO} refs/heads/y"), None);
        let said = branch.unwrap().remarks(&DeployBranches::default());
        assert!(
            said[0].contains("git push flynn x:master") && said[1] == "y is deleted.",
            "{said:?}"
        );
        let note = judged(&format!("{ZERO} {ONE} refs/replace/x"), None).unwrap_err();
        assert!(note.to_string().starts_with("replace/x is neither a branch nor a tag"), "{note}");
        let gone = judged(&format!("{ONE} {ZERO} refs/heads/main\n"), None);
        let gone = gone.unwrap_err().to_string();
        assert!(gone.ends_with("To remove the app: flynn delete"), "{gone}");
        let twice = format!("{ZERO} {ONE} refs/heads/x\n{ONE} {ZERO} refs/heads/x");
        assert_eq!(judged(&twice, None), Err(Refusal::Twice("refs/heads/x".into())));
        assert_eq!(judged("", None), Err(Refusal::Unreadable));
        assert_eq!(judged("x y refs/heads/master", None), Err(Refusal::Unreadable));
    }

    #[test]
    fn what_is_to_be_typed_is_whole_and_works() {
        let long = "b".repeat(200);
        let names =
            [&*format!("refs/heads/{long}"), "refs/heads/-x", "refs/heads/$(x)", "refs/tags/t"];
        let lines: String = names.iter().map(|name| format!("{ZERO} {ONE} {name}\n")).collect();
        let mut plan = judge(&lines, &DeployBranches::alone()).unwrap();
        plan.no_commits.insert("refs/tags/t".into());
        let said = plan.remarks(&DeployBranches::alone());
        for (line, end) in said.iter().zip([
            &*format!(" {long}:master"),
            " refs/heads/-x:master",
            " '$(x):master'",
            "It is of no commit, so it cannot be deployed.",
        ]) {
            assert!(line.ends_with(end), "{line}");
        }
    }

    #[test]
    fn without_a_cluster_nobody_is_told_of_one() {
        let alone = DeployBranches::alone();
        let judged = |lines: &str| judge(lines, &alone);
        let kept =
            judged(&format!("{ZERO} {ONE} refs/heads/x\n{ZERO} {ONE} refs/tags/v1")).unwrap();
        let mut said = kept.remarks(&alone);
        for line in [
            format!("{ONE} {ZERO} refs/heads/main"),
            format!("{ZERO} {ONE} refs/replace/x"),
            format!("{ZERO} {ONE} refs/heads/main\n{ZERO} {TWO} refs/heads/master"),
        ] {
            said.push(judged(&line).unwrap_err().to_string());
        }
        assert_eq!(said.len(), 5);
        assert!(said.iter().all(|line| !line.contains("flynn")), "{said:?}");
    }

    #[test]
    fn what_git_cannot_set_is_refused() {
        let fits = |lines: &str, there: &[&str]| {
            let there = there.iter().map(|name| format!("refs/heads/{name}")).collect();
            judged(lines, None).unwrap().fits(there).map_err(|refusal| refusal.to_string())
        };
        let create = |name: &str| format!("{ZERO} {ONE} refs/heads/{name}\n");
        let delete = |name: &str| format!("{ONE} {ZERO} refs/heads/{name}\n");
        assert!(fits(&create("a/b"), &["a"]).unwrap_err().contains("there is 'refs/heads/a'"));
        assert!(
            fits(&create("a"), &["a/b"]).is_err() && fits(&create("main"), &["main/x"]).is_err()
        );
        assert!(fits(&format!("{}{}", create("a"), create("a/b")), &[]).is_err());
        assert_eq!(fits(&format!("{}{}", delete("a"), create("a/b")), &["a", "c"]), Ok(()));
        assert_eq!(fits(&create("ab"), &["a", "a/b"]), Ok(()));
        let long = "a".repeat(NAME_LEN_MAX);
        assert!(judged(&create(&long), None).is_err() && judged(&delete(&long), None).is_ok());
        let bad = judged(&create("a..b"), None);
        assert_eq!(bad, Err(Refusal::BadName("refs/heads/a..b".into())));
    }

    #[test]
    fn what_comes_in_the_place_of_what_goes_is_not_rehearsed() {
        let lines = format!(
            "{ONE} {ZERO} refs/heads/a\n{ZERO} {ONE} refs/heads/a/b\n{ZERO} {TWO} refs/heads/main\n"
        );
        assert_eq!(
            judged(&lines, None).unwrap().rehearsal(),
            format!(
                "start\noption no-deref\ndelete refs/heads/a\nupdate refs/heads/main {TWO}\nprepare\nabort\n"
            )
        );
    }

    proptest! {
        #[test]
        fn judging_never_panics_and_passes_on_only_object_ids(updates in "([0-9a-f]{40} [0-9a-f]{40} refs/heads/master\n?|.{0,60})") {
            for change in judged(&updates, None).into_iter().flat_map(|plan| plan.kept.into_iter().chain(plan.deploy)) {
                prop_assert!(change.new.iter().chain(&change.old).all(|id| is_object_id(id)));
            }
        }
    }
}
