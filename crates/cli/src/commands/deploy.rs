//! Deploying a release and watching it, for the commands that change one.

use std::time::Instant;

use anyhow::bail;
use api::{
    controller::{Deployment, DeploymentStatus},
    id::ReleaseId,
};
use controller_client::Progress;

use crate::{
    domain::{scale::change, time::took},
    output,
    session::AppSession,
};

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

/// Deploys a release, tells what happens to the jobs, and returns when it serves.
pub(crate) async fn deploy(target: &AppSession, release: ReleaseId) -> anyhow::Result<()> {
    let began = Instant::now();
    let deployment = target.controller.deploy_release(&target.name, release).await?;
    let mut last = String::new();
    let tell = |progress| {
        if let Progress::Job(job) = progress {
            let line = change(&job);
            if !job.kind.is_empty() && line != last {
                output::say(&line);
                last = line;
            }
        }
    };
    let ended = target.controller.wait_deployment(deployment.id, tell).await?;
    if ended.status == DeploymentStatus::Failed {
        let why = ended.error.unwrap_or_else(|| "the controller does not say why".into());
        bail!(
            "release {release} could not be deployed; the one before serves as before.\n{}",
            why.trim_end()
        );
    }
    output::say(&format!("deployed in {}", took(began.elapsed())));
    Ok(())
}
