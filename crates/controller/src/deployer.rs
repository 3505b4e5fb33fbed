//! Works deployments. All that matters is in the database: whoever holds the lease goes on where the last one was.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use api::{
    controller::{App, Deployment, DeploymentStatus, Job, Release},
    id::{AppId, DeploymentId},
};
use futures_util::{TryStreamExt, pin_mut};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    domain::{
        deploy::{self, DeployState, Failure, Step},
        volumes,
    },
    error::{Error, Result},
    events::Hints,
    handlers::routes::ensure_default_route,
    in_place::{self, Outcome, Replacement},
    server::Controller,
    store::{self, Counts, Tx, deployments::Work, events::Filter},
};

/// Even if nothing happens, there is a look this often; it also renews the lease.
const SWEEP: Duration = Duration::from_secs(2);
/// Pause after a step that failed because the database was away.
const PAUSE: Duration = Duration::from_millis(300);
/// Longest time the log of a failed job may take.
const LOG_TIMEOUT: Duration = Duration::from_secs(3);
/// Steps the database may refuse before a deployment ends where it is.
const REFUSALS: u32 = 3;

/// Claims what nobody works and works it, until the daemon stops.
pub(crate) async fn keep(controller: Controller, stop: CancellationToken) {
    let mut hints = controller.events.hints(of_deployments());
    loop {
        hints.forget();
        if let Err(err) = claim_all(&controller, &stop).await {
            warn!(error = &err as &dyn std::error::Error, "deployments wait for the database");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            _ = timeout(SWEEP, hints.next()) => {}
        }
    }
}

/// What leaves a deployment without a worker: it was made, or the one before it is over. Whatever else happens in the
/// cluster is no reason to look.
fn of_deployments() -> Filter {
    Filter { types: vec!["deployment".into()], ..Filter::default() }
}

async fn claim_all(controller: &Controller, stop: &CancellationToken) -> Result<()> {
    let unworked = store::deployments::unworked(&controller.db.client().await?).await?;
    for (id, app) in unworked {
        let lease = match claim(controller, id, app).await {
            Ok(Some(lease)) => lease,
            Ok(None) => continue,
            // One app that cannot be had keeps no other from its turn.
            Err(err) => {
                warn!(
                    error = &err as &dyn std::error::Error,
                    app.id = %app, deployment.id = %id, "deployment {id} waits for the database"
                );
                continue;
            }
        };
        let hints = controller.events.hints(Filter { app: Some(app), ..Filter::default() });
        let worker = Arc::new(Worker { controller: controller.clone(), id, app, lease });
        controller.lifetime.spawn_drained(work(worker, hints, stop.clone()));
    }
    Ok(())
}

/// Takes the lease, and begins the deployment if it waited.
async fn claim(controller: &Controller, id: DeploymentId, app: AppId) -> Result<Option<i64>> {
    let mut client = controller.db.client().await?;
    let mut tx = Tx::begin(&mut client).await?;
    let app = match store::apps::lock(&tx, &app.to_string()).await {
        Ok(app) => app,
        // Its deletion has failed its deployments.
        Err(Error::Missing { .. }) => return Ok(None),
        Err(err) => return Err(err),
    };
    let Some((deployment, head)) = store::deployments::claimable(&tx, id).await? else {
        return Ok(None);
    };
    if deployment.status == DeploymentStatus::Pending {
        if let Some(head) = head
            && store::repositories::find(&*tx, app.id).await?.head != head.old
        {
            // Nobody shall see a release come that has to go again.
            let error = Failure::Overtaken.sentence(app.release.is_some());
            store::deployments::finish(&mut tx, id, Some(&error)).await?;
            tx.commit().await?;
            return Ok(None);
        }
        begin(&mut tx, &app, &deployment).await?;
        info!(app.id = %app.id, deployment.id = %id, "deployment {id} of {} begins", app.name);
    } else {
        info!(app.id = %app.id, deployment.id = %id, "deployment {id} of {} goes on", app.name);
    }
    let lease = store::deployments::claim(&tx, id).await?;
    tx.commit().await?;
    Ok(Some(lease))
}

async fn begin(tx: &mut Tx<'_>, app: &App, deployment: &Deployment) -> Result<()> {
    let new = store::releases::find(&**tx, deployment.new_release).await?;
    let old = match app.release {
        Some(release) => Some(store::releases::find(&**tx, release).await?),
        None => None,
    };
    let original = match &old {
        Some(old) => processes(tx, app.id, old).await?,
        None => Counts::new(),
    };
    let already = processes(tx, app.id, &new).await?;
    let target = deploy::target(old.as_ref(), &original, &new, &already);
    store::deployments::begin(tx, deployment.id, app.release, &target, &original).await
}

async fn processes(tx: &Tx<'_>, app: AppId, release: &Release) -> Result<Counts> {
    let formation = store::formations::find_opt(&**tx, app, release.id).await?;
    Ok(formation.map(|formation| formation.processes).unwrap_or_default())
}

struct Worker {
    controller: Controller,
    id: DeploymentId,
    app: AppId,
    lease: i64,
}

/// What came of a step.
enum Stepped {
    /// It is over, or another's.
    Over,
    /// The next one can be taken at once.
    Again,
    /// Something has to happen first.
    Wait,
    /// It cannot succeed.
    Failed(Failure),
}

async fn work(worker: Arc<Worker>, mut hints: Hints, stop: CancellationToken) {
    let mut refusals = 0;
    loop {
        hints.forget();
        let stepped = match worker.step().await {
            Ok(Stepped::Failed(failure)) => worker.turn_back(&failure).await,
            Err(Error::Db(err)) if !err.is_unavailable() => {
                refusals += 1;
                worker.refused(&err, refusals).await
            }
            stepped => stepped,
        };
        match stepped {
            Ok(Stepped::Over) => return,
            Ok(Stepped::Again) => {}
            Ok(Stepped::Wait | Stepped::Failed(_)) => {
                tokio::select! {
                    () = stop.cancelled() => {}
                    _ = timeout(SWEEP, hints.next()) => {}
                }
            }
            Err(err) => {
                warn!(
                    error = &err as &dyn std::error::Error,
                    deployment.id = %worker.id,
                    "a step of deployment {} is tried again", worker.id
                );
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = sleep(PAUSE) => {}
                }
            }
        }
        if stop.is_cancelled() {
            worker.give_up().await;
            return;
        }
    }
}

/// Everything a step is decided on, read in the transaction that takes it.
struct Sight {
    app: App,
    work: Work,
    old: Option<Release>,
    new: Release,
    state: DeployState,
}

impl Sight {
    /// The types that are to be replaced in place.
    fn in_place(&self) -> BTreeSet<String> {
        let (running, target) = (&self.state.old, &self.state.target);
        in_place::pending(&self.app, self.old.as_ref(), &self.new, running, target)
    }
}

impl Worker {
    async fn step(&self) -> Result<Stepped> {
        let mut client = self.controller.db.client().await?;
        let mut tx = Tx::begin(&mut client).await?;
        let Some(sight) = self.look(&tx).await? else { return Ok(Stepped::Over) };
        let in_place = sight.in_place();
        let stepped = match in_place::next_step(&sight.state, &in_place) {
            Step::Wait => Stepped::Wait,
            Step::Scale { old, new } => {
                scale(&mut tx, &sight, &old, &new).await?;
                Stepped::Again
            }
            Step::Complete if !in_place.is_empty() => {
                tx.commit().await?;
                drop(client);
                return self.replace_in_place(&sight, &in_place).await;
            }
            Step::Complete => return self.complete(tx, &sight).await,
            Step::Fail(failure) => return Ok(Stepped::Failed(failure)),
            Step::WentBack => {
                restore(&mut tx, &sight).await?;
                let why = sight.work.going_back.as_deref().unwrap_or("it went back");
                return self.finish(tx, &sight, Some(why)).await;
            }
        };
        tx.commit().await?;
        drop(client);
        if matches!(stepped, Stepped::Again) {
            self.first_steps(&sight).await;
        }
        Ok(stepped)
    }

    /// Renews the lease and looks; `None` if the deployment is over, or another's.
    async fn look(&self, tx: &Tx<'_>) -> Result<Option<Sight>> {
        let app = match store::apps::lock(tx, &self.app.to_string()).await {
            Ok(app) => app,
            Err(Error::Missing { .. }) => return Ok(None),
            Err(err) => return Err(err),
        };
        let Some(work) = store::deployments::renew(tx, self.id, self.lease).await? else {
            return Ok(None);
        };
        let deployment = &work.deployment;
        let new = store::releases::find(&**tx, deployment.new_release).await?;
        let old = match deployment.old_release.filter(|old| *old != new.id) {
            Some(old) => Some(store::releases::find(&**tx, old).await?),
            None => None,
        };
        let releases: Vec<_> = old.iter().map(|old| old.id).chain([new.id]).collect();
        let jobs = store::jobs::of_releases(&**tx, app.id, &releases, work.started_at).await?;
        let old_counts = match &old {
            Some(old) => processes(tx, app.id, old).await?,
            None => Counts::new(),
        };
        let hosts = self.controller.neighbours.host_count();
        let target = &deployment.processes;
        let state = DeployState {
            strategy: volumes::strategy(deployment.strategy, old.as_ref(), &new),
            target: target.clone(),
            original: work.original.clone(),
            has_old: old.is_some(),
            over_itself: app.release == Some(new.id),
            going_back: work.going_back.is_some(),
            old: old_counts,
            new: processes(tx, app.id, &new).await?,
            seen: deploy::seen(&jobs, (old.as_ref(), &new), work.started_at, work.stopped, target),
            omni: DeployState::omni_of(&new, old.as_ref()),
            hosts,
            batch: deploy::batch(&app, hosts.unwrap_or(1)),
            now: work.now,
            began: work.started_at,
            step_at: work.step_at,
            limit: Duration::from_secs(deployment.deploy_timeout.into()),
        };
        Ok(Some(Sight { app, work, old, new, state }))
    }

    /// The first deployment of an app brings its default route, should that have been missed when the app was made.
    async fn first_steps(&self, sight: &Sight) {
        if sight.app.release.is_some() || !sight.new.processes.contains_key("web") {
            return;
        }
        if let Err(err) = ensure_default_route(&self.controller, &sight.app).await {
            warn!(
                error = &err as &dyn std::error::Error,
                app.id = %sight.app.id,
                "{} has no default route yet", sight.app.name
            );
        }
    }

    /// Has hosts replace what this daemon stands on, one type after the other.
    async fn replace_in_place(&self, sight: &Sight, kinds: &BTreeSet<String>) -> Result<Stepped> {
        let (Some(kind), Some(old)) = (kinds.first(), &sight.old) else { return Ok(Stepped::Wait) };
        let Sight { app, new, work, .. } = sight;
        let (deployment, began) = (self.id, work.started_at);
        let replacement = Replacement { app, old, new, kind, deployment, began };
        match in_place::replace(&self.controller, &replacement).await? {
            Outcome::Waits => Ok(Stepped::Wait),
            Outcome::Failed(job) => Ok(Stepped::Failed(Failure::NeverServed(job))),
            Outcome::Taken => {
                let mut client = self.controller.db.client().await?;
                let mut tx = Tx::begin(&mut client).await?;
                let Some(sight) = self.look(&tx).await? else { return Ok(Stepped::Over) };
                let (mut before, mut after) = (sight.state.old.clone(), sight.state.new.clone());
                before.insert(kind.clone(), 0);
                after.extend(sight.state.target.get_key_value(kind).map(|(k, n)| (k.clone(), *n)));
                scale(&mut tx, &sight, &before, &after).await?;
                tx.commit().await?;
                Ok(Stepped::Again)
            }
        }
    }

    async fn complete(&self, mut tx: Tx<'_>, sight: &Sight) -> Result<Stepped> {
        if let Some(head) = &sight.work.head
            && !store::repositories::move_head(&tx, sight.app.id, head).await?
        {
            return Ok(Stepped::Failed(Failure::Overtaken));
        }
        // The old release's, and those of others that somebody scaled by hand: one release serves.
        for formation in store::formations::of_app(&*tx, sight.app.id).await? {
            if formation.release != sight.new.id {
                store::formations::delete(&mut tx, sight.app.id, formation.release).await?;
            }
        }
        // An app that runs nothing has a formation too: it says so.
        if store::formations::find_opt(&*tx, sight.app.id, sight.new.id).await?.is_none() {
            store::formations::put(&mut tx, sight.app.id, sight.new.id, &sight.state.new).await?;
        }
        store::apps::set_release(&mut tx, sight.app.id, sight.new.id).await?;
        self.finish(tx, sight, None).await
    }

    /// Notes why the deployment goes back: from here on every worker takes it back.
    async fn turn_back(&self, failure: &Failure) -> Result<Stepped> {
        let log = match failure.job() {
            Some(job) => deploy::last_lines(&self.last_lines(job).await),
            None => None,
        };
        let mut client = self.controller.db.client().await?;
        let mut tx = Tx::begin(&mut client).await?;
        let Some(sight) = self.look(&tx).await? else { return Ok(Stepped::Over) };
        let why = failure.sentence(sight.old.is_some());
        store::deployments::go_back(&mut tx, self.id, &why, log.as_deref()).await?;
        tx.commit().await?;
        Ok(Stepped::Again)
    }

    /// What the database refuses once it refuses again: the deployment goes back, and if that is refused too, it ends.
    async fn refused(&self, err: &pg::Error, times: u32) -> Result<Stepped> {
        error!(
            error = err as &dyn std::error::Error,
            app.id = %self.app, deployment.id = %self.id,
            "the database refuses a step of deployment {}", self.id
        );
        if times < REFUSALS {
            return self.turn_back(&Failure::Refused).await;
        }
        let mut client = self.controller.db.client().await?;
        let mut tx = Tx::begin(&mut client).await?;
        if store::deployments::renew(&tx, self.id, self.lease).await?.is_some() {
            let why = Failure::Refused.sentence(false);
            store::deployments::finish(&mut tx, self.id, Some(&why)).await?;
            tx.commit().await?;
        }
        Ok(Stepped::Over)
    }

    async fn finish(&self, mut tx: Tx<'_>, sight: &Sight, error: Option<&str>) -> Result<Stepped> {
        store::deployments::finish(&mut tx, self.id, error).await?;
        tx.commit().await?;
        let outcome = if error.is_some() { "failed" } else { "is complete" };
        info!(
            app.id = %self.app,
            deployment.id = %self.id,
            "deployment {} of {} {outcome}", self.id, sight.app.name
        );
        Ok(Stepped::Over)
    }

    /// The last lines a job wrote, as far as its host tells them in time.
    async fn last_lines(&self, job: &Job) -> Vec<String> {
        let mut told = Vec::new();
        let read = async {
            let host = self.controller.neighbours.host(job.host_id.as_deref()?).ok()?;
            // A host says that a process ended a moment before it has written down the last of its words.
            let to_the_end = job.state.is_over();
            let lines = host.log(job.uuid, Some(deploy::LINES), to_the_end).await.ok()?;
            pin_mut!(lines);
            while let Some(line) = lines.try_next().await.ok()? {
                told.push(line.msg);
            }
            Some(())
        };
        // What came until then is told.
        let _ = timeout(LOG_TIMEOUT, read).await;
        told
    }

    async fn give_up(&self) {
        let given = async {
            let client = self.controller.db.client().await?;
            store::deployments::give_up(&client, self.id, self.lease).await
        };
        if let Err(err) = given.await {
            // The lease runs out by itself.
            warn!(error = &err as &dyn std::error::Error, "a deployment's lease was not given up");
        }
    }
}

async fn scale(tx: &mut Tx<'_>, sight: &Sight, old: &Counts, new: &Counts) -> Result<()> {
    if let Some(release) = sight.old.as_ref().filter(|_| *old != sight.state.old) {
        store::formations::put(tx, sight.app.id, release.id, old).await?;
    }
    if *new != sight.state.new {
        store::formations::put(tx, sight.app.id, sight.new.id, new).await?;
    }
    let fewer = |(kind, before): (&String, &u32)| {
        before.saturating_sub(new.get(kind).copied().unwrap_or_default())
    };
    let stopped = sight.state.new.iter().map(fewer).sum();
    store::deployments::stepped(tx, sight.work.deployment.id, stopped).await
}

/// Puts the old release back to what it ran, and removes the new one.
async fn restore(tx: &mut Tx<'_>, sight: &Sight) -> Result<()> {
    if let Some(old) = &sight.old {
        store::formations::put(tx, sight.app.id, old.id, &sight.work.original).await?;
    }
    // A release deployed over itself is what serves.
    if sight.app.release != Some(sight.new.id) {
        store::formations::delete(tx, sight.app.id, sight.new.id).await?;
    }
    Ok(())
}
