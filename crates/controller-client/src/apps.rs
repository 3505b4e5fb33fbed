//! Apps, releases, artifacts, formations, repositories.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use api::{
    controller::{
        App, AppChange, Artifact, Deployment, Formation, NewApp, NewArtifact, NewFormation,
        NewPush, NewRelease, RefsChange, Release, Repository, RepositoryLease, ScaleRequest,
    },
    id::{ArtifactId, ReleaseId},
};
use api_client::Error;

use crate::{Controller, escape};

/// Longest wait for one answer about the deletion of an app.
const DELETE_TIMEOUT: Duration = Duration::from_secs(90);
/// Longest wait for the deletion: a process may have an hour to stop.
const DELETE_LIMIT: Duration = Duration::from_secs(3900);

/// Pause before it is asked again.
const DELETE_PAUSE: Duration = Duration::from_secs(1);

impl Controller {
    /// All apps, newest first.
    pub async fn apps(&self) -> Result<Vec<App>, Error> {
        self.whole("/apps", |app: &App| app.id.to_string()).await
    }

    /// An app by id or name.
    pub async fn app(&self, app: &str) -> Result<App, Error> {
        self.client.get(&format!("/apps/{}", escape(app))).await
    }

    /// Makes an app. Without a name the controller draws one.
    pub async fn create_app(&self, app: &NewApp) -> Result<App, Error> {
        self.client.post("/apps", app).await
    }

    /// Changes meta, strategy or deploy timeout.
    pub async fn update_app(&self, app: &str, change: &NewApp) -> Result<App, Error> {
        self.client.post(&format!("/apps/{}", escape(app)), change).await
    }

    /// Changes settings of an app one by one; what is absent stays, and a fact of its meta that becomes `None` goes.
    pub async fn change_app(&self, app: &str, change: &AppChange) -> Result<App, Error> {
        self.client.post(&format!("/apps/{}", escape(app)), change).await
    }

    /// Sets facts of an app's meta, and removes those that become `None`; the others stay. Answers the app.
    pub async fn change_meta(
        &self,
        app: &str,
        changes: &BTreeMap<String, Option<String>>,
    ) -> Result<App, Error> {
        let meta = Some(changes.clone());
        self.change_app(app, &AppChange { meta, ..AppChange::default() }).await
    }

    /// Deletes a release that runs nowhere and that nothing goes back to.
    pub async fn delete_release(&self, app: &str, release: ReleaseId) -> Result<(), Error> {
        let path = format!("/apps/{}/releases/{release}", escape(app));
        self.client.delete::<serde_json::Value>(&path).await.map(drop)
    }

    /// Deletes an app: its formations stop, its routes go, and when its processes have ended its name is free. The
    /// deletion goes on by itself however long this waits.
    pub async fn delete_app(&self, app: &str) -> Result<(), Error> {
        let client = self.client.with_timeout(DELETE_TIMEOUT).without_retries();
        let path = format!("/apps/{}", escape(app));
        let begin = Instant::now();
        let mut asked = false;
        loop {
            match client.delete::<serde_json::Value>(&path).await {
                Ok(_) => return Ok(()),
                Err(err) if err.is_not_found() && asked => return Ok(()),
                Err(err) if err.is_retryable() && begin.elapsed() < DELETE_LIMIT => {
                    // What certainly reached nobody, or nobody who could begin, is given up sooner.
                    if !asked && begin.elapsed() > DELETE_TIMEOUT {
                        return Err(err);
                    }
                    asked |= matches!(err, Error::Lost { .. } | Error::Api { .. });
                    tokio::time::sleep(DELETE_PAUSE).await;
                }
                Err(err) => return Err(err),
            }
        }
    }

    /// The releases of an app, newest first.
    pub async fn releases(&self, app: &str) -> Result<Vec<Release>, Error> {
        self.whole(&format!("/apps/{}/releases", escape(app)), |release: &Release| {
            release.id.to_string()
        })
        .await
    }

    /// A release.
    pub async fn release(&self, id: ReleaseId) -> Result<Release, Error> {
        self.client.get(&format!("/releases/{id}")).await
    }

    /// The release that serves; not found before the first deployment has completed.
    pub async fn current_release(&self, app: &str) -> Result<Release, Error> {
        self.client.get(&format!("/apps/{}/release", escape(app))).await
    }

    /// Records the release that serves, for an app that has none: what bootstrap started runs already. Any other change
    /// of release is a deployment.
    pub async fn set_release(&self, app: &str, release: ReleaseId) -> Result<Release, Error> {
        let body = serde_json::json!({ "id": release });
        self.client.put(&format!("/apps/{}/release", escape(app)), &body).await
    }

    /// Makes a release. It runs only once it is deployed.
    pub async fn create_release(&self, release: &NewRelease) -> Result<Release, Error> {
        self.client.post("/releases", release).await
    }

    /// Makes an artifact; the same type and URI again is the same artifact.
    pub async fn create_artifact(&self, artifact: &NewArtifact) -> Result<Artifact, Error> {
        self.client.post("/artifacts", artifact).await
    }

    /// All artifacts, newest first.
    pub async fn artifacts(&self) -> Result<Vec<Artifact>, Error> {
        self.whole("/artifacts", |artifact: &Artifact| artifact.id.to_string()).await
    }

    /// An artifact.
    pub async fn artifact(&self, id: ArtifactId) -> Result<Artifact, Error> {
        self.client.get(&format!("/artifacts/{id}")).await
    }

    /// The formations of an app, newest first.
    pub async fn formations(&self, app: &str) -> Result<Vec<Formation>, Error> {
        self.whole(&format!("/apps/{}/formations", escape(app)), |formation: &Formation| {
            formation.release.to_string()
        })
        .await
    }

    /// How many processes of a release shall run.
    pub async fn formation(&self, app: &str, release: ReleaseId) -> Result<Formation, Error> {
        self.client.get(&formation_path(app, release)).await
    }

    /// Says how many processes of a release shall run; during a deployment of the app this changes its target.
    pub async fn put_formation(
        &self,
        app: &str,
        release: ReleaseId,
        formation: &NewFormation,
    ) -> Result<Formation, Error> {
        self.client.put(&formation_path(app, release), formation).await
    }

    /// Changes how many processes of some types run; what is not named stays. A conflict if `old_processes` are no longer
    /// what there is.
    pub async fn scale(
        &self,
        app: &str,
        release: ReleaseId,
        change: &ScaleRequest,
    ) -> Result<ScaleRequest, Error> {
        self.client.put(&format!("/apps/{}/scale/{release}", escape(app)), change).await
    }

    /// Stops all processes of a release.
    pub async fn delete_formation(&self, app: &str, release: ReleaseId) -> Result<(), Error> {
        let path = formation_path(app, release);
        self.client.delete::<serde_json::Value>(&path).await.map(drop)
    }

    /// The head and the packs of an app's repository.
    pub async fn repository(&self, app: &str) -> Result<Repository, Error> {
        self.client.get(&format!("/apps/{}/repository", escape(app))).await
    }

    /// Moves branches and tags that are kept and not deployed.
    pub async fn change_refs(&self, app: &str, change: &RefsChange) -> Result<Repository, Error> {
        self.client.put(&format!("/apps/{}/repository/refs", escape(app)), change).await
    }

    /// Takes or renews the right to push; a conflict while another holder has it.
    pub async fn lease_repository(
        &self,
        app: &str,
        lease: &RepositoryLease,
    ) -> Result<RepositoryLease, Error> {
        self.client.put(&lease_path(app), lease).await
    }

    /// Gives the right to push back.
    pub async fn release_repository(
        &self,
        app: &str,
        lease: &RepositoryLease,
    ) -> Result<(), Error> {
        let path = lease_path(app);
        let gone =
            self.client.json::<serde_json::Value>(reqwest::Method::DELETE, &path, Some(lease));
        gone.await.map(drop)
    }

    /// Artifacts, release and deployment of a push, in one transaction.
    pub async fn push(&self, app: &str, push: &NewPush) -> Result<Deployment, Error> {
        self.client.post(&format!("/apps/{}/push", escape(app)), push).await
    }
}

fn formation_path(app: &str, release: ReleaseId) -> String {
    format!("/apps/{}/formations/{release}", escape(app))
}

fn lease_path(app: &str) -> String {
    format!("/apps/{}/repository/lease", escape(app))
}
