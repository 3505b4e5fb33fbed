//! Deployments, and waiting for one.

use std::time::Duration;

use api::{
    controller::{Deployment, DeploymentStatus, NewDeployment},
    id::{DeploymentId, ReleaseId},
};
use api_client::Error;
use futures_util::{StreamExt, pin_mut};

use crate::{Controller, EventQuery, escape};

/// Even if no event comes, the deployment is looked at this often.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// Pause before a stream that could not be opened is tried again.
const PAUSE: Duration = Duration::from_millis(500);

/// What [`Controller::wait_deployment`] tells while it waits.
#[derive(Debug, Clone, PartialEq)]
pub enum Progress {
    /// The deployment changed its status.
    Deployment(Deployment),
    /// A job of the app changed its state.
    Job(api::controller::Job),
}

impl Controller {
    /// Deploys a release; a deployment of the same app that still waits is replaced.
    pub async fn deploy(&self, app: &str, deployment: &NewDeployment) -> Result<Deployment, Error> {
        self.client.post(&format!("/apps/{}/deploy", escape(app)), deployment).await
    }

    /// Deploys a release that moves no repository head.
    pub async fn deploy_release(&self, app: &str, id: ReleaseId) -> Result<Deployment, Error> {
        self.deploy(app, &NewDeployment::of(id)).await
    }

    /// A deployment.
    pub async fn deployment(&self, id: DeploymentId) -> Result<Deployment, Error> {
        self.client.get(&format!("/deployments/{id}")).await
    }

    /// Takes a deployment back: one that waits never begins, one that runs goes back. A conflict if it is over.
    pub async fn cancel_deployment(&self, id: DeploymentId) -> Result<Deployment, Error> {
        self.client.delete(&format!("/deployments/{id}")).await
    }

    /// The deployments of an app, newest first.
    pub async fn deployments(&self, app: &str) -> Result<Vec<Deployment>, Error> {
        self.whole(&format!("/apps/{}/deployments", escape(app)), |deployment: &Deployment| {
            deployment.id.to_string()
        })
        .await
    }

    /// Waits until a deployment is complete or has failed, and answers with it, log lines and all. `tell` hears of every change of it and of
    /// the app's jobs. Goes on through restarts of the controller; the controller itself bounds a deployment.
    pub async fn wait_deployment(
        &self,
        id: DeploymentId,
        mut tell: impl FnMut(Progress),
    ) -> Result<Deployment, Error> {
        let mut deployment = self.deployment(id).await?;
        let app = deployment.app.to_string();
        let mut since = None;
        // Events do not tell what the failed job wrote.
        let mut whole = true;
        while !(is_over(deployment.status) && whole) {
            if is_over(deployment.status) {
                match self.deployment(id).await {
                    Ok(end) => (deployment, whole) = (end, true),
                    Err(err) if err.is_retryable() => tokio::time::sleep(PAUSE).await,
                    Err(err) => return Err(err),
                }
                continue;
            }
            let query = EventQuery { app: Some(app.clone()), types: &["deployment", "job"], since };
            match self.events(&query).await {
                Ok(events) => {
                    // What changed before the stream began is not in it.
                    deployment = self.deployment(id).await?;
                    whole = true;
                    pin_mut!(events);
                    while !is_over(deployment.status) {
                        match tokio::time::timeout(LOOK_AGAIN, events.next()).await {
                            Err(_) => deployment = self.deployment(id).await?,
                            Ok(Some(Ok(event))) => {
                                since = Some(event.id);
                                if let Some(progress) = progress(event, id) {
                                    if let Progress::Deployment(changed) = &progress {
                                        deployment = changed.clone();
                                        whole = false;
                                    }
                                    tell(progress);
                                }
                            }
                            Ok(Some(Err(_)) | None) => break,
                        }
                    }
                }
                Err(err) if err.is_retryable() => {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(err) => return Err(err),
            }
        }
        Ok(deployment)
    }
}

fn is_over(status: DeploymentStatus) -> bool {
    matches!(status, DeploymentStatus::Complete | DeploymentStatus::Failed)
}

fn progress(event: api::controller::Event, id: DeploymentId) -> Option<Progress> {
    match event.object_type.as_str() {
        "deployment" => {
            let deployment: Deployment = serde_json::from_value(event.data).ok()?;
            (deployment.id == id).then_some(Progress::Deployment(deployment))
        }
        "job" => serde_json::from_value(event.data).ok().map(Progress::Job),
        _ => None,
    }
}
