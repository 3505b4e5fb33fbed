//! `/formations`.

use api::controller::{ExpandedFormation, Formation, NewFormation, Tags};
use axum::{
    Json,
    extract::{Path, Query, State},
    response::IntoResponse,
};
use daemon::Body;
use http::HeaderMap;
use jiff::Timestamp;
use serde::Deserialize;

use super::{Answer, Either, done, id, releases::of_this_app};
use crate::{
    domain::formation,
    error::{Error, Result},
    server::Controller,
    store::{self, Counts, Tx},
};

#[derive(Debug, Deserialize)]
pub(crate) struct Since {
    #[serde(default)]
    since: Option<String>,
}

/// A formation, and which hosts the processes of some types may run on: no tags for any. A type left out keeps its own.
#[derive(Debug, Deserialize)]
pub(crate) struct NewTagged {
    #[serde(flatten)]
    formation: NewFormation,
    #[serde(default)]
    tags: Tags,
}

/// All formations, expanded: as a stream that goes on, or as they are now.
pub(crate) async fn all(
    State(controller): State<Controller>,
    Query(Since { since }): Query<Since>,
    headers: HeaderMap,
) -> Either {
    let parse = |text: String| {
        text.parse::<Timestamp>()
            .map_err(|_| Error::invalid("since", "is not a time: expected RFC 3339"))
    };
    let since = since.map(parse).transpose()?;
    if daemon::events::wanted(&headers) {
        return Ok(daemon::events::response(controller.events.formations(since).await?));
    }
    let client = controller.db.client().await?;
    let mut formations: Vec<ExpandedFormation> = Vec::new();
    for key in store::formations::keys(&client, since).await? {
        formations.extend(store::formations::expand(&client, key).await?);
    }
    Ok(Json(formations).into_response())
}

pub(crate) async fn of_app(
    State(controller): State<Controller>,
    Path(app): Path<String>,
) -> Answer<Vec<Formation>> {
    let client = controller.db.client().await?;
    let app = store::apps::find(&client, &app).await?;
    Ok(Json(store::formations::of_app(&client, app.id).await?))
}

pub(crate) async fn show(
    State(controller): State<Controller>,
    Path((app, release)): Path<(String, String)>,
) -> Answer<Formation> {
    let client = controller.db.client().await?;
    let app = store::apps::find(&client, &app).await?;
    let release = id("release", &release)?;
    Ok(Json(store::formations::find(&client, app.id, release).await?))
}

/// Says how many shall run. What is being deployed gets another target instead.
pub(crate) async fn put(
    State(controller): State<Controller>,
    Path((app, release)): Path<(String, String)>,
    Body(NewTagged { formation: NewFormation { mut processes }, tags }): Body<NewTagged>,
) -> Answer<Formation> {
    let release = id("release", &release)?;
    let mut client = controller.db.client().await?;
    let mut tx = Tx::begin(&mut client).await?;
    let app = store::apps::lock(&tx, &app).await?;
    let release = of_this_app(&tx, app.id, release).await?;
    let before = store::formations::find_opt(&*tx, app.id, release.id).await?;
    let counts = before.as_ref().map(|before| before.processes.clone()).unwrap_or_default();
    formation::check(&app, &release, &counts, &processes)?;
    formation::check_tags(&release, &tags)?;
    processes.retain(|_, count| *count > 0);
    let formation = match store::deployments::running(&tx, app.id).await? {
        Some(work) if concerns(&work.deployment, release.id) => {
            retarget(&mut tx, &work, &processes).await?;
            let now = Timestamp::now();
            let (created_at, updated_at) =
                before.map_or((now, now), |before| (before.created_at, now));
            let tags = Tags::new();
            Formation { app: app.id, release: release.id, processes, tags, created_at, updated_at }
        }
        _ => store::formations::put(&mut tx, app.id, release.id, &processes).await?,
    };
    if !tags.is_empty() {
        store::formations::set_tags(&mut tx, app.id, &tags).await?;
    }
    let now = store::formations::find_opt(&*tx, app.id, release.id).await?;
    let tags = now.map(|now| now.tags).unwrap_or_default();
    let formation = Formation { tags, ..formation };
    tx.commit().await?;
    Ok(Json(formation))
}

fn concerns(deployment: &api::controller::Deployment, release: api::id::ReleaseId) -> bool {
    deployment.new_release == release || deployment.old_release == Some(release)
}

/// A scale during a deployment is for the new release, and for the old one should the deployment fail.
async fn retarget(tx: &mut Tx<'_>, work: &store::deployments::Work, wanted: &Counts) -> Result<()> {
    let of = |release: api::controller::Release| -> Counts {
        let known = |(kind, _): &(&String, &u32)| release.processes.contains_key(*kind);
        wanted.iter().filter(known).map(|(kind, count)| (kind.clone(), *count)).collect()
    };
    let target = of(store::releases::find(&**tx, work.deployment.new_release).await?);
    let original = match work.deployment.old_release {
        Some(old) => of(store::releases::find(&**tx, old).await?),
        None => Counts::new(),
    };
    store::deployments::retarget(tx, work.deployment.id, &target, &original).await
}

pub(crate) async fn delete(
    State(controller): State<Controller>,
    Path((app, release)): Path<(String, String)>,
) -> Answer<()> {
    let release = id("release", &release)?;
    let mut client = controller.db.client().await?;
    let mut tx = Tx::begin(&mut client).await?;
    let app = store::apps::lock(&tx, &app).await?;
    let there = store::formations::find(&*tx, app.id, release).await?;
    let of_release = store::releases::find(&*tx, release).await?;
    formation::check(&app, &of_release, &there.processes, &Counts::new())?;
    store::formations::delete(&mut tx, app.id, release).await?;
    tx.commit().await?;
    done()
}
