//! How a wish for other counts, or for another release, meets what an app is on its way to. The caller has locked the app.

use std::collections::BTreeMap;

use api::{
    controller::{
        App, Base, Deployment, Formation, META_SYSTEM_CRITICAL, NewDeployment, NewHead, Release,
        Tags,
    },
    id::{AppId, ReleaseId},
};
use jiff::Timestamp;

use crate::{
    domain::{
        deploy::{self, Change, patched, retarget},
        formation, locks,
    },
    error::{Error, Result},
    store::{self, Counts, Tx, deployments::Work},
};

/// What a scale did.
pub(crate) struct Scaled {
    /// The counts before.
    pub(crate) before: Counts,
    /// The counts after.
    pub(crate) after: Counts,
    /// The formation was made at.
    created_at: Timestamp,
    /// And changed at.
    pub(crate) updated_at: Timestamp,
}

impl Scaled {
    /// As a formation.
    pub(crate) fn formation(self, app: AppId, release: ReleaseId, tags: Tags) -> Formation {
        let Self { after, created_at, updated_at, .. } = self;
        Formation { app, release, processes: after, tags, created_at, updated_at }
    }
}

/// Whether a deployment is about this release.
pub(crate) fn concerns(deployment: &Deployment, release: ReleaseId) -> bool {
    deployment.new_release == release || deployment.old_release == Some(release)
}

/// A formation as people see it: of a release that is being replaced, what shall run when that is done.
pub(crate) fn shown(formation: Formation, running: Option<&Work>) -> Formation {
    let Some(work) = running.filter(|w| w.deployment.old_release == Some(formation.release)) else {
        return formation;
    };
    Formation { processes: aim(work).clone(), ..formation }
}

/// What a deployment ends with, as far as is known now.
fn aim(work: &Work) -> &Counts {
    if work.going_back.is_some() { &work.original } else { &work.deployment.processes }
}

/// Changes how many processes run. During a deployment the change is for what it ends with, whichever of its releases
/// was named, and for the old release should it fail.
pub(crate) async fn scale(
    tx: &mut Tx<'_>,
    app: &App,
    release: &Release,
    change: &Change,
    expected: Option<&Counts>,
) -> Result<Scaled> {
    let there = store::formations::find_opt(&**tx, app.id, release.id).await?;
    let now = Timestamp::now();
    let created_at = there.as_ref().map_or(now, |there| there.created_at);
    let running = store::deployments::running(&**tx, app.id).await?;
    if let Some(work) = running.filter(|work| concerns(&work.deployment, release.id)) {
        let before = aim(&work).clone();
        compare(&before, expected)?;
        let after = scale_deployment(tx, app, &work, change).await?;
        return Ok(Scaled { before, after, created_at, updated_at: now });
    }
    let before = there.map(|there| there.processes).unwrap_or_default();
    compare(&before, expected)?;
    // Checked as it was asked for: a type that is unknown is told even if its count is 0.
    let (Change::Some(counts) | Change::All(counts)) = change;
    formation::check_types(release, counts)?;
    let after = patched(&before, change);
    formation::check(app, release, &before, &after)?;
    let formation = store::formations::put(tx, app.id, release.id, &after).await?;
    let Formation { created_at, updated_at, .. } = formation;
    Ok(Scaled { before, after, created_at, updated_at })
}

async fn scale_deployment(
    tx: &mut Tx<'_>,
    app: &App,
    work: &Work,
    change: &Change,
) -> Result<Counts> {
    let deployment = &work.deployment;
    let new = store::releases::find(&**tx, deployment.new_release).await?;
    let old = match deployment.old_release.filter(|old| *old != new.id) {
        Some(old) => Some(store::releases::find(&**tx, old).await?),
        None => None,
    };
    let (Change::All(counts) | Change::Some(counts)) = change;
    let of_old = |kind: &str| old.as_ref().is_some_and(|old| old.processes.contains_key(kind));
    let strange: Counts = counts
        .iter()
        .filter(|(kind, _)| !of_old(kind))
        .map(|(kind, count)| (kind.clone(), *count))
        .collect();
    formation::check_types(&new, &strange)?;
    let target = &deployment.processes;
    let wanted = retarget(target, &work.original, (old.as_ref(), &new), change);
    formation::check(app, &new, target, &wanted.target)?;
    if let Some(old) = &old {
        formation::check(app, old, &work.original, &wanted.original)?;
    }
    store::deployments::retarget(tx, deployment.id, &wanted.target, &wanted.original).await?;
    Ok(if work.going_back.is_some() { wanted.original } else { wanted.target })
}

/// A change that was made from other counts than these would undo somebody else's.
fn compare(present: &Counts, expected: Option<&Counts>) -> Result<()> {
    let of = |kind: &String| present.get(kind).copied().unwrap_or_default();
    let other = expected.into_iter().flatten().find(|(kind, count)| of(kind) != **count);
    match other {
        None => Ok(()),
        Some((kind, count)) => Err(Error::Conflict(format!(
            "{kind} is {} now, no longer {count}: look again and repeat the change",
            of(kind)
        ))),
    }
}

/// Queues a deployment, if it was made from what the app has or is on its way to. The same again is the same one.
pub(crate) async fn deploy(
    tx: &mut Tx<'_>,
    app: &App,
    new: &NewDeployment,
    release: &Release,
) -> Result<Deployment> {
    if let Some(id) = new.deployment
        && let Some(there) = store::deployments::find_opt(&**tx, id).await?
    {
        if there.app == app.id && there.new_release == new.id {
            return Ok(there);
        }
        return Err(Error::Exists(format!("there is another deployment with the id {id}")));
    }
    let wish = store::deployments::newest_wish(tx, app.id).await?;
    let present = wish.as_ref().map(|(wish, _)| wish.new_release).or(app.release);
    if new.base.is_some_and(|base| base != Base::of(present)) {
        let present = present.map_or("none".into(), |present| present.to_string());
        return Err(Error::Conflict(format!(
            "release {} was made from another release than the one {} has now ({present}): read \
             that one and repeat the change",
            new.id, app.name
        )));
    }
    check_keys(tx, app, release).await?;
    let target = expected_target(tx, app, release).await?;
    store::deployments::insert(tx, app, new, &target).await
}

/// A part of Flynn must go on to open to the others.
async fn check_keys(tx: &Tx<'_>, app: &App, release: &Release) -> Result<()> {
    let is_part = |app: &App| app.meta.get(META_SYSTEM_CRITICAL).is_some_and(|part| part == "true");
    if !is_part(app) {
        return Ok(());
    }
    let mut others = BTreeMap::new();
    for name in locks::holders(&app.name) {
        let holder = match store::apps::find(&**tx, name).await {
            Ok(holder) => holder,
            Err(Error::Missing { .. }) => continue,
            Err(err) => return Err(err),
        };
        if let Some(serves) = holder.release.filter(|_| is_part(&holder)) {
            others.insert(name, store::releases::find(&**tx, serves).await?.env);
        }
    }
    match locks::locked_out(&app.name, &release.env, &others) {
        Some(why) => Err(Error::invalid("env", why)),
        None => Ok(()),
    }
}

/// What the deployment of a release will end with when it begins, if nothing is scaled until then.
async fn expected_target(tx: &Tx<'_>, app: &App, release: &Release) -> Result<Counts> {
    let running = store::deployments::running(&**tx, app.id).await?;
    let (old, counts) = match (&running, app.release) {
        (Some(work), _) if work.going_back.is_none() => {
            (Some(work.deployment.new_release), work.deployment.processes.clone())
        }
        (Some(work), old) => (old, work.original.clone()),
        (None, Some(old)) => {
            let formation = store::formations::find_opt(&**tx, app.id, old).await?;
            (Some(old), formation.map(|formation| formation.processes).unwrap_or_default())
        }
        (None, None) => (None, Counts::new()),
    };
    let old = match old {
        Some(old) => Some(store::releases::find(&**tx, old).await?),
        None => None,
    };
    let already = store::formations::find_opt(&**tx, app.id, release.id).await?;
    let already = already.map(|already| already.processes).unwrap_or_default();
    Ok(deploy::target(old.as_ref(), &counts, release, &already))
}

/// The head an app's repository has, or will have when what is under way has ended.
pub(crate) async fn expected_head(tx: &Tx<'_>, app: AppId) -> Result<Option<NewHead>> {
    Ok(store::deployments::newest_wish(tx, app).await?.and_then(|(_, head)| head))
}
