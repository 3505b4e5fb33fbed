//! Releases that differ from the current one in something: the commands `limit-set`, `check-set` and `restart`.

use anyhow::Context;
use api::controller::{NewRelease, ProcessType, Release};

use super::deploy;
use crate::{
    args::Listing,
    domain::suggest::nearest,
    output,
    session::{AppSession, Session},
};

/// The release that is this one again, under an id of its own.
pub(crate) fn copy_of(release: &Release) -> NewRelease {
    NewRelease {
        id: None,
        app_id: release.app_id,
        artifacts: release.artifacts.clone(),
        env: release.env.clone(),
        meta: release.meta.clone(),
        processes: release.processes.clone(),
    }
}

/// Makes the release that an edit makes of the current one, and deploys it.
pub(crate) async fn change_release(
    target: &AppSession,
    listing: Listing,
    edit: impl Fn(&mut NewRelease) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    deploy::change(target, listing, async |app, current| {
        let current = current.with_context(|| crate::session::no_release(&app.name))?;
        let mut new = copy_of(&current);
        edit(&mut new)?;
        if new == copy_of(&current) {
            output::say("Nothing changes: it is so already.");
            return Ok(None);
        }
        let made = target.controller.create_release(&new).await?;
        output::say(&format!("Created release {}.", made.id));
        Ok(Some(made.id))
    })
    .await
}

/// The process type of a release, or a sentence with the nearest there is.
pub(crate) fn process_of<'a>(
    release: &'a mut NewRelease,
    kind: &str,
) -> anyhow::Result<&'a mut ProcessType> {
    let near = nearest(kind, release.processes.keys().map(String::as_str)).map(str::to_owned);
    let near = near.map(|name| format!("; did you mean {name:?}?")).unwrap_or_default();
    let process = release.processes.get_mut(kind);
    process.with_context(|| format!("the release has no process type {kind:?}{near}"))
}

/// Meta key of a release that was made to start every process anew.
const META_RESTARTED: &str = "restarted";

pub(crate) async fn restart(session: &Session, listing: Listing) -> anyhow::Result<()> {
    let target = session.app()?;
    let now = jiff::Timestamp::now().to_string();
    change_release(&target, listing, |release| {
        release.meta.insert(META_RESTARTED.into(), now.clone());
        Ok(())
    })
    .await
}
