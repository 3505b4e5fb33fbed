//! Whether git can set the refs of a push: asked before anything of it is stored or deployed.

use api::controller::Repository;

use crate::{
    conversation::{Conversation, meanwhile},
    domain::update::{Change, Plan},
    pack::Quarantine,
};

impl Conversation<'_> {
    /// A push with the commits its branches will be at: what is pushed to one may be a tag. Or why it cannot be.
    pub(crate) async fn peeled(
        &self,
        mut plan: Plan,
        quarantine: &Quarantine,
    ) -> Result<Plan, String> {
        let branches = plan.kept.iter_mut().filter(|kept| kept.name.starts_with("refs/heads/"));
        for Change { name, new, .. } in branches {
            let Some(id) = new else { continue };
            let wanted = format!("{id}^{{commit}}");
            let args = ["rev-parse", "--verify", "--quiet", "--end-of-options", &wanted];
            let Ok(commit) = self.git(&args, quarantine).await else {
                return Err(format!(
                    "Cannot update '{name}': {id} is no commit, and a branch is at nothing else. Nothing was changed."
                ));
            };
            *id = String::from_utf8_lossy(&commit).trim().to_owned();
        }
        Ok(plan)
    }

    /// Whether the refs of a push can be set in the repository as it is now; or why not.
    pub(crate) fn check(&self, plan: &Plan, repository: &Repository) -> Result<(), String> {
        let left_out = &self.copy.left_out;
        // What no copy can have stands in nobody's way.
        let is_there = |name: &str| left_out.get(name) != repository.refs.get(name);
        let at = |name: &str| repository.refs.get(name).filter(|_| is_there(name));
        let moved = |change: &&Change| change.old.as_ref() != at(&change.name);
        if let Some(change) = plan.kept.iter().find(moved) {
            return Err(meanwhile(&change.name));
        }
        let there = repository.refs.keys().filter(|name| is_there(name));
        let there = there.chain(self.target.branches.names()).cloned().collect();
        plan.fits(there).map_err(|refusal| refusal.to_string())
    }
}
