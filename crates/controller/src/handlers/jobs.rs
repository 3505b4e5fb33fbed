//! `/apps/:app/jobs`.

use api::{
    controller::{App, Job, JobState},
    discoverd::Term,
    host::{META_APP, TERM_HEADER},
    id::{AppId, ClusterJobId, JobId},
};
use axum::{
    Json,
    extract::{Path, State},
};
use daemon::{Body, Query};
use http::HeaderMap;
use serde::Deserialize;

use super::{
    Answer, done,
    page::{self, Paging},
};
use crate::{
    error::{Error, Result},
    server::Controller,
    store::{self, Tx, jobs::Of},
    unordered,
};

/// Which jobs of an app.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Which {
    /// Only those that have not ended.
    #[serde(deserialize_with = "page::flag")]
    active: bool,
}

/// Jobs of a page of an app's, unless the request says otherwise.
const JOBS: u32 = 2000;

pub(crate) async fn of_app(
    State(controller): State<Controller>,
    Path(app): Path<String>,
    Query(paging): Query<Paging>,
    Query(Which { active }): Query<Which>,
) -> Answer<Vec<Job>> {
    let page = paging.page(JOBS)?;
    let client = controller.db.client().await?;
    let app = store::apps::find(&client, &app).await?;
    if paging.is_first_of_any_size() && !active {
        return Ok(Json(store::jobs::active_first(&client, app.id, page.limit).await?));
    }
    let of = if active { Of::Active } else { Of::All };
    Ok(Json(store::jobs::of_app(&client, app.id, of, page).await?))
}

pub(crate) async fn active(
    State(controller): State<Controller>,
    Query(paging): Query<Paging>,
) -> Answer<Vec<Job>> {
    let page = paging.page(page::MOST)?;
    Ok(Json(store::jobs::active(&controller.db.client().await?, page).await?))
}

pub(crate) async fn show(
    State(controller): State<Controller>,
    Path((app, job)): Path<(String, String)>,
) -> Answer<Job> {
    let client = controller.db.client().await?;
    let app = store::apps::find(&client, &app).await?;
    Ok(Json(store::jobs::find(&client, app.id, job_part(&job)?).await?))
}

/// The job part of `<host id>-<job id>`, or of a bare job id.
pub(crate) fn job_part(id: &str) -> Result<JobId> {
    let whole = id.parse::<ClusterJobId>().map(|id| id.job);
    whole.or_else(|_| id.parse()).map_err(|_| Error::missing("job", id))
}

/// Records what the scheduler saw, unless it leads no more. Jobs of a deleted app end like any other.
pub(crate) async fn put(
    State(controller): State<Controller>,
    Path((app, id)): Path<(String, String)>,
    headers: HeaderMap,
    Body(job): Body<Job>,
) -> Answer<Job> {
    if job_part(&id)? != job.uuid || job_part(&job.id)? != job.uuid {
        return Err(Error::invalid("id", "differs from the job in the path or from uuid"));
    }
    let mut client = controller.db.client().await?;
    let mut tx = Tx::begin(&mut client).await?;
    let term = headers.get(TERM_HEADER).and_then(|term| Term::from_header(term.to_str().ok()?));
    if let Some(term) = term {
        store::terms::obey(&tx, term).await?;
    }
    let known = match app.parse::<AppId>() {
        Ok(app) => app == job.app && store::apps::existed(&*tx, app).await?,
        Err(_) => store::apps::find(&*tx, &app).await?.id == job.app,
    };
    if !known {
        return Err(Error::missing("app", app));
    }
    let job = store::jobs::put(&mut tx, &job).await?;
    tx.commit().await?;
    Ok(Json(job))
}

/// Asks a process to end.
const SIGTERM: u32 = 15;

/// Stops a job. The scheduler starts another where the formation wants one. Of one that was never ordered it is recorded.
pub(crate) async fn stop(
    State(controller): State<Controller>,
    Path((app, id)): Path<(String, String)>,
) -> Answer<()> {
    let (app, known) = {
        let client = controller.db.client().await?;
        let app = store::apps::find(&client, &app).await?;
        let known = store::jobs::find(&client, app.id, job_part(&id)?).await;
        (app, known)
    };
    if let Ok(job) = &known
        && let Some(host) = job.host_id.as_ref().filter(|_| job.state == JobState::Starting)
        && unordered::settle_overdue(&controller, host, job.uuid).await?
    {
        return done();
    }
    let (host_id, job) = match known {
        Ok(Job { host_id: Some(host), uuid, .. }) => (host, uuid),
        Ok(Job { host_id: None, .. }) => {
            return Err(Error::Conflict(format!(
                "the job {id} does not run yet; scale its type down instead"
            )));
        }
        // It may be too new to have been told of.
        Err(Error::Missing { .. }) => {
            let id = id.parse::<ClusterJobId>().map_err(|_| Error::missing("job", &id))?;
            (id.host, id.job)
        }
        Err(err) => return Err(err),
    };
    let host = controller.neighbours.host(&host_id)?;
    let running = host.job(job).await.map_err(Error::neighbour("asking the host for the job"))?;
    check_owner(&app, &running, &id)?;
    // What the cluster cannot heal without ends and is started again by its host: after a stop nobody would.
    let ended = match running.job.resurrect {
        true => host.signal(job, SIGTERM).await,
        false => host.stop_job(job).await,
    };
    ended.map_err(Error::neighbour("stopping the job"))?;
    done()
}

fn check_owner(app: &App, job: &api::host::ActiveJob, id: &str) -> Result<()> {
    let owner = job.job.metadata.get(META_APP);
    if owner.is_some_and(|owner| *owner == app.id.to_string()) {
        Ok(())
    } else {
        Err(Error::missing("job", id))
    }
}
