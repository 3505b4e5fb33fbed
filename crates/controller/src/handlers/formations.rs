//! `/formations`.

use api::{
    controller::{Formation, NewFormation, Release, ScaleRequest, ScaleState, Tags},
    id::{AppId, ScaleRequestId},
};
use axum::{
    Json,
    extract::{Path, State},
    response::IntoResponse,
};
use daemon::{Body, Query};
use http::HeaderMap;
use jiff::Timestamp;
use serde::Deserialize;

use super::{
    Answer, Either, done, id,
    page::{self, Paging, flag},
    releases::of_this_app,
};
use crate::{
    domain::{deploy::Change, formation},
    error::Error,
    formations,
    server::Controller,
    store::{self, Counts, Tx},
    wishes,
};

#[derive(Debug, Deserialize)]
pub(crate) struct Since {
    #[serde(default)]
    since: Option<String>,
    /// Of those as they are now, only those with processes.
    #[serde(default, deserialize_with = "flag")]
    active: bool,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Expansion {
    /// With the app, the release and its artifacts.
    #[serde(default, deserialize_with = "flag")]
    expand: bool,
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
    Query(Since { since, active }): Query<Since>,
    Query(paging): Query<Paging>,
    headers: HeaderMap,
) -> Either {
    let parse = |text: String| {
        text.parse::<Timestamp>()
            .map_err(|_| Error::invalid("since", "is not a time: expected RFC 3339"))
    };
    let since = since.map(parse).transpose()?;
    if daemon::events::wanted(&headers) {
        let formations = formations::follow(&controller.events, since).await?;
        return Ok(daemon::events::response(formations));
    }
    let client = controller.db.client().await?;
    let page = paging.page_of_formations()?;
    let keys = store::formations::page_of_keys(&client, since, active, page).await?;
    Ok(Json(store::formations::expand_all(&client, &keys).await?).into_response())
}

pub(crate) async fn of_app(
    State(controller): State<Controller>,
    Path(app): Path<String>,
    Query(paging): Query<Paging>,
) -> Answer<Vec<Formation>> {
    let page = paging.page(page::MOST)?;
    let client = controller.db.client().await?;
    let app = store::apps::find(&client, &app).await?;
    let formations = store::formations::page_of_app(&client, app.id, page).await?;
    let running = store::deployments::running(&client, app.id).await?;
    Ok(Json(formations.into_iter().map(|one| wishes::shown(one, running.as_ref())).collect()))
}

/// What shall run of a release; of one that is being replaced, what shall run when it has been.
pub(crate) async fn show(
    State(controller): State<Controller>,
    Path((app, release)): Path<(String, String)>,
    Query(Expansion { expand }): Query<Expansion>,
) -> Either {
    let client = controller.db.client().await?;
    let app = store::apps::find(&client, &app).await?;
    let release = id("release", &release)?;
    let formation = store::formations::find(&client, app.id, release).await?;
    let running = store::deployments::running(&client, app.id).await?;
    let formation = wishes::shown(formation, running.as_ref());
    if !expand {
        return Ok(Json(formation).into_response());
    }
    let expanded = store::formations::expand(&client, (app.id, release)).await?;
    let expanded = expanded.ok_or_else(|| Error::missing("formation of release", release))?;
    Ok(Json(expanded).into_response())
}

/// Says how many of each type shall run. What is being deployed gets another target instead.
pub(crate) async fn put(
    State(controller): State<Controller>,
    Path((app, release)): Path<(String, String)>,
    Body(NewTagged { formation: NewFormation { processes }, tags }): Body<NewTagged>,
) -> Answer<Formation> {
    let release = id("release", &release)?;
    let mut client = controller.db.client().await?;
    let mut tx = Tx::begin(&mut client).await?;
    let app = store::apps::lock(&tx, &app).await?;
    let release = of_this_app(&tx, app.id, release).await?;
    let scaled = wishes::scale(&mut tx, &app, &release, &Change::All(processes), None).await?;
    let tags = retag(&mut tx, app.id, &release, &tags, None).await?;
    tx.commit().await?;
    Ok(Json(scaled.formation(app.id, release.id, tags.after)))
}

/// Changes how many of some types shall run; what is not named stays.
pub(crate) async fn scale(
    State(controller): State<Controller>,
    Path((app, release)): Path<(String, String)>,
    Body(request): Body<ScaleRequest>,
) -> Answer<ScaleRequest> {
    let release = id("release", &release)?;
    if request.state != ScaleState::Pending {
        let message =
            "must be pending: a change is complete at once, so there is nothing to cancel";
        return Err(Error::invalid("state", message));
    }
    let change = Change::Some(request.new_processes.unwrap_or_default());
    let mut client = controller.db.client().await?;
    let mut tx = Tx::begin(&mut client).await?;
    let app = store::apps::lock(&tx, &app).await?;
    let release = of_this_app(&tx, app.id, release).await?;
    let expected = request.old_processes.as_ref();
    let scaled = wishes::scale(&mut tx, &app, &release, &change, expected).await?;
    let (new, expected) = (request.new_tags.unwrap_or_default(), request.old_tags.as_ref());
    let tags = retag(&mut tx, app.id, &release, &new, expected).await?;
    tx.commit().await?;
    Ok(Json(ScaleRequest {
        id: Some(request.id.unwrap_or_else(ScaleRequestId::random)),
        app: Some(app.id),
        release: Some(release.id),
        state: ScaleState::Complete,
        old_processes: Some(scaled.before),
        new_processes: Some(scaled.after),
        old_tags: Some(tags.before),
        new_tags: Some(tags.after),
        created_at: Some(scaled.updated_at),
        updated_at: Some(scaled.updated_at),
    }))
}

/// Which hosts the processes of an app's types may run on.
struct Retagged {
    before: Tags,
    after: Tags,
}

/// Changes it for some types. A change that was made from other tags than these would undo somebody else's.
async fn retag(
    tx: &mut Tx<'_>,
    app: AppId,
    release: &Release,
    tags: &Tags,
    expected: Option<&Tags>,
) -> Result<Retagged, Error> {
    formation::check_tags(release, tags)?;
    let before = store::formations::tags(&**tx, app).await?;
    let of = |kind: &String| before.get(kind).cloned().unwrap_or_default();
    if let Some((kind, _)) = expected.into_iter().flatten().find(|(kind, tags)| of(kind) != **tags)
    {
        let message = format!("{kind} has other tags now: look again and repeat the change");
        return Err(Error::Conflict(message));
    }
    if tags.is_empty() {
        return Ok(Retagged { after: before.clone(), before });
    }
    store::formations::set_tags(tx, app, tags).await?;
    let after = store::formations::tags(&**tx, app).await?;
    Ok(Retagged { before, after })
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
    if let Some(work) = store::deployments::running(&*tx, app.id).await?
        && wishes::concerns(&work.deployment, release)
    {
        return Err(Error::Conflict(format!(
            "{} is being deployed, and release {release} is a part of it: wait until the \
             deployment has ended, or cancel it (DELETE /deployments/{})",
            app.name, work.deployment.id
        )));
    }
    store::formations::delete(&mut tx, app.id, release).await?;
    tx.commit().await?;
    done()
}
