//! Which refs of an operator's own repository stand for others.

use std::collections::BTreeSet;

use crate::{
    conversation::Conversation,
    domain::{aliases::Aliases, names::is_ref_name, told::shown},
    git::GitError,
};

/// git follows no more steps.
const STEPS_MAX: usize = 5;

impl Conversation<'_> {
    /// The refs that stand for others, also for such as are not there yet; or the sentence that names one of the push that git
    /// cannot read.
    pub(crate) async fn aliases(&self, updates: &str) -> Result<Aliases, String> {
        let mut aliases = Aliases::default();
        // A copy has none.
        if self.pushes.hosting.keeps_packs() {
            return Ok(aliases);
        }
        let git = &self.pushes.git;
        let listed = git.run(&self.copy.path, &["for-each-ref", "--format=%(refname) %(symref)"]);
        let listed = listed.await.map_err(|err| unreadable(&err))?;
        let listed = String::from_utf8_lossy(&listed);
        let mut there = BTreeSet::new();
        for (name, of) in listed.lines().filter_map(|line| line.split_once(' ')) {
            there.insert(name);
            if !of.is_empty() {
                aliases.insert(name.to_owned(), of.to_owned());
            }
        }
        let pushed: BTreeSet<&str> =
            updates.lines().filter_map(|line| line.splitn(3, ' ').nth(2)).collect();
        let deployed = self.target.branches.names().iter().map(String::as_str);
        let names: BTreeSet<&str> = pushed.iter().copied().chain(deployed).collect();
        for name in names {
            if there.contains(name) || !self.may_stand_for_another(name) {
                continue;
            }
            match git.run(&self.copy.path, &["symbolic-ref", "--quiet", name]).await {
                Ok(of) => {
                    let of = String::from_utf8_lossy(&of).trim().to_owned();
                    aliases.insert(name.to_owned(), of);
                }
                Err(err) if err.is_no() || !pushed.contains(name) => {}
                Err(GitError::Failed { .. }) => return Err(damaged(name)),
                Err(err) => return Err(unreadable(&err)),
            }
        }
        for name in self.target.branches.names() {
            self.note_ways(name, &mut aliases).await;
        }
        Ok(aliases)
    }

    /// Notes by way of which refs a branch that is deployed stands for another.
    async fn note_ways(&self, deployed: &str, aliases: &mut Aliases) {
        let last = aliases.of(deployed).to_owned();
        let mut at = deployed.to_owned();
        // A git that cannot tell the steps apart leaves the last one.
        for _ in 0..STEPS_MAX {
            if at == last {
                break;
            }
            let args = ["symbolic-ref", "--quiet", "--no-recurse", &at];
            let Ok(of) = self.pushes.git.run(&self.copy.path, &args).await else { break };
            at = String::from_utf8_lossy(&of).trim().to_owned();
            aliases.insert_way(at.clone(), deployed);
        }
        if last != deployed {
            aliases.insert_way(last, deployed);
        }
    }

    /// Whether a ref that git does not list may be there all the same. git has such a one in a file, as long as it has no tables
    /// of refs; so most need no question.
    fn may_stand_for_another(&self, name: &str) -> bool {
        let file = self.copy.path.join(name).symlink_metadata();
        is_ref_name(name)
            && (file.is_ok_and(|file| !file.is_dir()) || self.copy.path.join("reftable").is_dir())
    }
}

fn unreadable(err: &GitError) -> String {
    format!("The branches here could not be read: {err}. Nothing was changed; push again.")
}

/// What is said of a ref that git cannot read.
pub(crate) fn damaged(name: &str) -> String {
    let name = shown(name);
    format!(
        "{name} is damaged here: it leads back to itself or holds nothing that git can read. Nothing was changed, and pushing again \
         does not help: whoever runs this server must mend {name} in the repository first."
    )
}
