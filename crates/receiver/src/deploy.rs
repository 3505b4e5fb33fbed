//! The release and its deployment.

use std::{collections::BTreeMap, sync::atomic::Ordering, time::Duration};

use api::{
    controller::{App, Deployment, DeploymentStatus, NewHead, NewPush},
    slug::BuildResult,
};
use api_client::Error;
use controller_client::Progress;
use tokio::time::{Instant, sleep};

use crate::{Failure, domain, receive::Push};

/// Longest absence of the controller that is waited out.
const AWAY_MAX: Duration = Duration::from_secs(120);
/// Pause between two tries while it is away.
const PAUSE: Duration = Duration::from_secs(1);
/// Deployments looked through for ours.
const RECENT: usize = 10;

/// Makes the release and follows its deployment to the end.
pub(crate) async fn deploy(
    push: &Push<'_>,
    app: &App,
    result: BuildResult,
    head: NewHead,
) -> Result<(), Failure> {
    let Push { console, .. } = push;
    console.step("Creating release...");
    let running = running(push, app).await?;
    let new = domain::push(result, head, &push.id, &push.args.pusher);
    push.taken.store(true, Ordering::SeqCst);
    let deployment = create(push, app, &new).await?;
    console.step(&match &domain::scale(&running, &deployment.processes)[..] {
        // It waits for its turn, and what it is to reach is decided then.
        "" => "Deploying...".to_owned(),
        scale => format!("Deploying: {scale}"),
    });
    let deployment = follow(push, &deployment).await?;
    match deployment.status {
        DeploymentStatus::Complete => {
            console.done("Application deployed");
            show_routes(push, app).await;
            Ok(())
        }
        _ => Err(Failure::Deployment(
            deployment.error.unwrap_or_else(|| "its processes did not start.".into()),
        )),
    }
}

/// How many processes of each type run now.
async fn running(push: &Push<'_>, app: &App) -> Result<BTreeMap<String, u32>, Failure> {
    let current = async {
        let release = push.controller.current_release(&app.name).await?;
        push.controller.formation(&app.name, release.id).await
    };
    match current.await {
        Ok(formation) => Ok(formation.processes),
        Err(err) if err.is_not_found() => Ok(BTreeMap::new()),
        Err(err) => Err(Failure::controller("Looking up what runs")(err)),
    }
}

/// Asks for release and deployment. A request whose answer was lost may have been carried out: then it is looked for
/// before it is repeated.
async fn create(push: &Push<'_>, app: &App, new: &NewPush) -> Result<Deployment, Failure> {
    loop {
        let err = match push.controller.push(&app.name, new).await {
            Ok(deployment) => return Ok(deployment),
            Err(err) => err,
        };
        if !err.is_retryable() {
            push.taken.store(false, Ordering::SeqCst);
            return Err(Failure::Refused(err.to_string()));
        }
        let found = until_back(async || find(push, app).await).await.map_err(Failure::Unknown)?;
        if let Some(deployment) = found {
            return Ok(deployment);
        }
    }
}

/// Asks until the controller answers, or has been away for too long.
async fn until_back<T>(mut ask: impl AsyncFnMut() -> Result<T, Error>) -> Result<T, Error> {
    let deadline = Instant::now() + AWAY_MAX;
    loop {
        sleep(PAUSE).await;
        match ask().await {
            Err(err) if err.is_retryable() && Instant::now() < deadline => {}
            answer => return answer,
        }
    }
}

/// The deployment of this very build, if there is one.
async fn find(push: &Push<'_>, app: &App) -> Result<Option<Deployment>, Error> {
    let deployments = push.controller.deployments(&app.name).await?;
    for deployment in deployments.into_iter().take(RECENT) {
        let release = push.controller.release(deployment.new_release).await?;
        if release.meta.get(domain::META_BUILD) == Some(&push.id) {
            return Ok(Some(deployment));
        }
    }
    Ok(None)
}

/// Follows a deployment, through absences of the controller too.
async fn follow(push: &Push<'_>, deployment: &Deployment) -> Result<Deployment, Failure> {
    let mut last_line = None;
    let mut tell = |progress| {
        if let Progress::Job(job) = progress {
            let line = domain::job_line(&job, deployment.new_release);
            if line.is_some() && line != last_line {
                push.console.line(line.as_deref().unwrap_or_default());
                last_line = line;
            }
        }
    };
    loop {
        match push.controller.wait_deployment(deployment.id, &mut tell).await {
            Ok(deployment) => return Ok(deployment),
            Err(err) if err.is_retryable() => {
                let there = until_back(async || push.controller.deployment(deployment.id).await);
                there.await.map_err(Failure::Unfollowed)?;
            }
            Err(err) => return Err(Failure::Unfollowed(err)),
        }
    }
}

/// Says where the app is; that it cannot be said is no failure of a push.
async fn show_routes(push: &Push<'_>, app: &App) {
    let routes = push.controller.routes(&app.name).await.unwrap_or_default();
    for route in routes.iter().filter(|route| !route.domain.is_empty()) {
        push.console.line(&format!("http://{}/", route.domain));
    }
}
