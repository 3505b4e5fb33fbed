//! Repositories, and the push that changes one.

use api::controller::{
    App, ArtifactType, Deployment, META_BUILD, NewDeployment, NewPush, RefsChange, Release,
    Repository, RepositoryLease,
};
use axum::{
    Json,
    extract::{Path, State},
};
use daemon::Body;

use super::{Answer, artifacts, done};
use crate::{
    domain::{push, release},
    error::{Error, Result},
    server::Controller,
    store::{self, Tx},
    wishes,
};

/// Longest time the right to push is lent for.
const LONGEST: u32 = 3600;

pub(crate) async fn show(
    State(controller): State<Controller>,
    Path(app): Path<String>,
) -> Answer<Repository> {
    let client = controller.db.client().await?;
    let app = store::apps::find(&client, &app).await?;
    Ok(Json(store::repositories::find(&client, app.id).await?))
}

pub(crate) async fn lease(
    State(controller): State<Controller>,
    Path(app): Path<String>,
    Body(lease): Body<RepositoryLease>,
) -> Answer<RepositoryLease> {
    if lease.holder.len() < 16 {
        return Err(Error::invalid("holder", "must be a random token of at least 16 characters"));
    }
    if !(1..=LONGEST).contains(&lease.ttl_seconds) {
        return Err(Error::invalid("ttl_seconds", format!("must be from 1 to {LONGEST}")));
    }
    let client = controller.db.client().await?;
    let app = store::apps::find(&client, &app).await?;
    store::repositories::lease(&client, app.id, &lease).await?;
    Ok(Json(lease))
}

pub(crate) async fn give_back(
    State(controller): State<Controller>,
    Path(app): Path<String>,
    Body(lease): Body<RepositoryLease>,
) -> Answer<()> {
    let client = controller.db.client().await?;
    let app = store::apps::find(&client, &app).await?;
    store::repositories::give_back(&client, app.id, &lease.holder).await?;
    done()
}

/// Branches and tags that are kept and not deployed.
pub(crate) async fn change_refs(
    State(controller): State<Controller>,
    Path(app): Path<String>,
    Body(change): Body<RefsChange>,
) -> Answer<Repository> {
    let mut client = controller.db.client().await?;
    let tx = Tx::begin(&mut client).await?;
    let app = store::apps::lock(&tx, &app).await?;
    store::repositories::change_refs(&tx, app.id, &change).await?;
    let repository = store::repositories::find(&*tx, app.id).await?;
    tx.commit().await?;
    Ok(Json(repository))
}

/// Artifacts, release and deployment of a push: all of it or nothing.
pub(crate) async fn push(
    State(controller): State<Controller>,
    Path(app): Path<String>,
    Body(push): Body<NewPush>,
) -> Answer<Deployment> {
    check(&push)?;
    let mut client = controller.db.client().await?;
    let mut tx = Tx::begin(&mut client).await?;
    let app = store::apps::lock(&tx, &app).await?;
    // The same build again: its answer was lost.
    if let Some(build) = push.meta.get(META_BUILD)
        && let Some(there) = store::deployments::of_build(&*tx, app.id, build).await?
    {
        return Ok(Json(there));
    }
    if let Some(head) = wishes::expected_head(&tx, app.id).await? {
        return Err(Error::Conflict(format!(
            "an earlier push, of {}, is being deployed: wait until that has ended (`flynn \
             deployments` shows it) and push again",
            head.new
        )));
    }
    let repository = store::repositories::find(&*tx, app.id).await?;
    if repository.head != push.head.old {
        return Err(Error::Conflict(
            "another push changed the repository meanwhile: fetch, merge and push again".into(),
        ));
    }
    let base = base(&tx, &app).await?;
    let image = store::artifacts::put(&mut tx, &push.image).await?;
    let slug = store::artifacts::put(&mut tx, &push.slug).await?;
    let new = push::release(&app, base.as_ref(), &push, vec![image.id, slug.id]);
    release::check(&new)?;
    let release = store::releases::insert(&mut tx, &new).await?;
    let new = NewDeployment { head: Some(push.head), ..NewDeployment::of(release.id) };
    let deployment = wishes::deploy(&mut tx, &app, &new, &release).await?;
    tx.commit().await?;
    Ok(Json(deployment))
}

fn check(push: &NewPush) -> Result<()> {
    artifacts::check(&push.image)?;
    artifacts::check(&push.slug)?;
    if push.image.kind != ArtifactType::Docker {
        return Err(Error::invalid("image", "must be of type docker"));
    }
    if push.slug.kind != ArtifactType::File {
        return Err(Error::invalid("slug", "must be of type file"));
    }
    if push.head.new.is_empty() {
        return Err(Error::invalid("head", "must name the new commit"));
    }
    Ok(())
}

/// The release a push builds upon: the one that waits or is being deployed, for the push comes after it; else the one that
/// serves.
async fn base(tx: &Tx<'_>, app: &App) -> Result<Option<Release>> {
    let wish = store::deployments::newest_wish(tx, app.id).await?;
    let base = wish.map(|(wish, _)| wish.new_release).or(app.release);
    match base {
        Some(base) => Ok(Some(store::releases::find(&**tx, base).await?)),
        None => Ok(None),
    }
}
