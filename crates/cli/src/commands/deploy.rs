//! Deploying a release and watching it, for the commands that change one.

use std::time::{Duration, Instant};

use anyhow::bail;
use api::{
    controller::{App, Base, Deployment, DeploymentStatus, NewDeployment, Release},
    error::ErrorCode,
    id::{DeploymentId, ReleaseId},
};
use controller_client::{Error, Progress};

use crate::{
    args::Listing,
    domain::{scale::change as line, time::took},
    output,
    session::AppSession,
};

/// Times a change is made again because another one came first, or an answer was lost.
const ATTEMPTS: u32 = 20;
/// Pause before a controller that did not answer is asked again.
const PAUSE: Duration = Duration::from_millis(500);

/// Times the watch over a deployment may be lost and taken up again: with the pauses, half a minute without an answer.
const LOST_MAX: u32 = 60;

/// Waits until no deployment of the app is under way, so that a change builds on what then serves.
pub(crate) async fn settle(target: &AppSession) -> anyhow::Result<()> {
    let deployments = target.controller.deployments(&target.name).await;
    let deployments = deployments.map_err(|err| target.explained(err))?;
    let open =
        |d: &&Deployment| matches!(d.status, DeploymentStatus::Pending | DeploymentStatus::Running);
    for deployment in deployments.iter().filter(open) {
        output::say(&format!(
            "Waiting for the deployment of release {} to end.",
            deployment.new_release
        ));
        target.controller.wait_deployment(deployment.id, |_| {}).await?;
    }
    Ok(())
}

/// Changes what serves: `make` makes a release from the one that does, or finds one, or none if nothing changes. If
/// something else was deployed meanwhile, it is asked again with that, so that no change undoes another. The release that then
/// serves is shown as JSON, if that is wanted.
pub(crate) async fn change(
    target: &AppSession,
    listing: Listing,
    mut make: impl AsyncFnMut(&App, Option<Release>) -> anyhow::Result<Option<ReleaseId>>,
) -> anyhow::Result<()> {
    for _ in 0..ATTEMPTS {
        let (app, current) = serving(target).await?;
        let before = current.clone();
        let Some(release) = make(&app, current).await? else {
            return if listing.json { output::json(&before) } else { Ok(()) };
        };
        match replace(target, listing, &app, release).await? {
            Turn::Taken => return Ok(()),
            Turn::Overtaken => {
                output::say("Another change came first; this one is made again, from that.");
            }
        }
    }
    bail!(
        "other changes came first {ATTEMPTS} times; `flynn deployments` shows them, then try again"
    )
}

/// The app and what serves, when nothing is being deployed.
pub(crate) async fn serving(target: &AppSession) -> anyhow::Result<(App, Option<Release>)> {
    settle(target).await?;
    let app = target.app().await?;
    let current = match app.release {
        Some(id) => Some(target.controller.release(id).await?),
        None => None,
    };
    Ok((app, current))
}

/// Whether a change came before all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It serves.
    Taken,
    /// What it was to replace serves no longer.
    Overtaken,
}

/// Deploys a release in the place of the one that the app was seen with, and shows it as JSON, if that is wanted.
pub(crate) async fn replace(
    target: &AppSession,
    listing: Listing,
    app: &App,
    release: ReleaseId,
) -> anyhow::Result<Turn> {
    let wanted = NewDeployment {
        base: Some(Base::of(app.release)),
        deployment: Some(DeploymentId::random()),
        ..NewDeployment::of(release)
    };
    match queue(target, &wanted).await {
        Ok(deployment) => watch(target, deployment).await?,
        Err(err) if err.code() == Some(ErrorCode::Conflict) => return Ok(Turn::Overtaken),
        Err(err) => return Err(err.into()),
    }
    if listing.json {
        output::json(&target.controller.release(release).await?)?;
    }
    Ok(Turn::Taken)
}

/// Queues a deployment. Asked again because an answer was lost, it is the same one.
async fn queue(target: &AppSession, wanted: &NewDeployment) -> Result<Deployment, Error> {
    for _ in 1..ATTEMPTS {
        match target.controller.deploy(&target.name, wanted).await {
            Err(err) if err.is_retryable() => tokio::time::sleep(PAUSE).await,
            answer => return answer,
        }
    }
    target.controller.deploy(&target.name, wanted).await
}

/// Tells what happens to the jobs of a deployment, and returns when the new release serves.
async fn watch(target: &AppSession, deployment: Deployment) -> anyhow::Result<()> {
    let (began, release) = (Instant::now(), deployment.new_release);
    let mut last = String::new();
    let tell = |progress| {
        if let Progress::Job(job) = progress {
            let line = line(&job);
            if !job.kind.is_empty() && line != last {
                output::say(&line);
                last = line;
            }
        }
    };
    // The router or the controller itself may be what is replaced: then nothing answers for a moment.
    let mut tell = tell;
    let mut lost = 0;
    let ended = loop {
        match target.controller.wait_deployment(deployment.id, &mut tell).await {
            Err(err) if err.is_retryable() && lost < LOST_MAX => {
                lost += 1;
                tokio::time::sleep(PAUSE).await;
            }
            ended => break ended,
        }
    };
    let has_failed = ended.as_ref().map_or_else(controller_client::Error::is_not_found, |ended| {
        ended.status == DeploymentStatus::Failed
    });
    if has_failed && target.is_gone(deployment.app).await {
        bail!("release {release} was not deployed: the app was deleted");
    }
    let ended = ended?;
    if ended.status == DeploymentStatus::Failed {
        let why = ended.error.unwrap_or_else(|| "the controller does not say why".into());
        let before = match ended.old_release {
            Some(_) => "the one before serves as before",
            None => "nothing serves, as before",
        };
        bail!("release {release} could not be deployed; {before}.\n{}", why.trim_end());
    }
    output::say(&format!("deployed in {}", took(began.elapsed())));
    Ok(())
}
