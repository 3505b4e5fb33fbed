//! Where repositories are kept, and who may push to one now: a cluster's controller and shelf, or a folder.

use std::time::Duration;

use api::{
    controller::{App, META_DEPLOY_BRANCH, META_SYSTEM_APP, PacksChange, RefsChange, Repository},
    id::AppId,
};
use controller_client::Controller;
use shelf_client::Shelf;
use tracing::warn;

use crate::{
    alone::Alone,
    domain::{
        command::{Names, RepoName},
        reach::Reach,
        update::{Change, DeployBranches},
    },
    failure::nothing_changed,
    git::with_causes,
    lease::Lease,
    pack::Pack,
    repos::{Copy, Repos},
    right::{self, Right},
};

/// Longest wait for somebody else's push.
pub(crate) const TURN_TIMEOUT: Duration = Duration::from_secs(60);

/// Where repositories are kept.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one of it")]
pub(crate) enum Hosting {
    /// The truth is the head at the controller and the packs in shelf.
    Cluster { controller: Controller, shelf: Shelf, repos: Repos },
    /// The truth is the folder.
    Alone(Alone),
}

/// A repository that is pushed to.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) name: RepoName,
    pub(crate) branches: DeployBranches,
    /// Its app, in a cluster.
    app: Option<AppId>,
}

/// The right to push, held.
#[derive(Debug)]
pub(crate) enum Held {
    Lease(Lease),
    Right(Right),
}

/// Why something about a repository could not be done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeepError {
    #[error(transparent)]
    Controller(#[from] api_client::Error),
    #[error("the pack could not be stored: {0}")]
    Shelf(#[from] shelf_client::Error),
    #[error("shelf stored something else than was sent")]
    Damaged,
    #[error(transparent)]
    Git(#[from] crate::git::GitError),
}

impl Held {
    /// Keeps it until it is lost to another holder; never ends otherwise.
    pub(crate) async fn keep(&self) {
        match self {
            Self::Lease(lease) => lease.keep().await,
            Self::Right(_) => std::future::pending().await,
        }
    }

    pub(crate) async fn end(self) {
        match self {
            Self::Lease(lease) => lease.end().await,
            Self::Right(right) => drop(right),
        }
    }
}

impl Hosting {
    /// What its repositories are called.
    pub(crate) fn names(&self) -> Names {
        if self.keeps_packs() { Names::Apps } else { Names::Paths }
    }

    /// Finds what is pushed to; or the sentence that says why there is nothing.
    pub(crate) async fn find(&self, name: &RepoName, reach: &Reach) -> Result<Target, String> {
        let Self::Cluster { controller, .. } = self else {
            return Ok(Target { name: name.clone(), branches: DeployBranches::alone(), app: None });
        };
        let app = controller.app(name.as_str()).await.map_err(|err| {
            if err.is_not_found() {
                format!("There is no app {name}. To create it: flynn create {name}")
            } else {
                warn!(error = &err as &dyn std::error::Error, "app {name} could not be looked up");
                format!("The controller could not be asked about {name}. Push again in a minute.")
            }
        })?;
        if !reach.opens(app.id) {
            return Err(format!(
                "Your SSH key may not push to {name}: it is bound to other apps. `flynn keys` shows to which."
            ));
        }
        if app.meta.get(META_SYSTEM_APP).is_some_and(|system| system == "true") {
            return Err(format!(
                "{name} is a part of Flynn itself and is not deployed by git push."
            ));
        }
        Ok(Target { name: name.clone(), branches: branches(&app), app: Some(app.id) })
    }

    /// A local repository that is up to date.
    pub(crate) async fn prepare(&self, target: &Target) -> Result<Copy, String> {
        let failed = |err: &(dyn std::error::Error + 'static)| {
            let name = &target.name;
            warn!(error = err, app.name = %name, "the repository of {name} could not be restored");
            format!(
                "The repository of {name} could not be fetched: {err}. Nothing was changed; push again in a minute."
            )
        };
        match (self, target.app) {
            (Self::Cluster { controller, repos, .. }, Some(app)) => {
                let repository = controller.repository(target.name.as_str()).await;
                let repository = repository.map_err(|err| failed(&err))?;
                let copy = repos.prepare(app, &repository, &target.branches).await;
                copy.map_err(|err| failed(&err))
            }
            (Self::Alone(alone), _) => {
                alone.check()?;
                alone.prepare(&target.name).await.map_err(|err| {
                    let name = &target.name;
                    warn!(
                        error = &err as &dyn std::error::Error,
                        "the repository of {name} could not be made"
                    );
                    nothing_changed(&format!(
                        "The repository of {name} could not be made: {}.",
                        with_causes(&err)
                    ))
                })?
            }
            (Self::Cluster { .. }, None) => Err("This is no app.".into()),
        }
    }

    /// Takes the right to push; calls `busy` once if it has to wait.
    pub(crate) async fn take(
        &self,
        target: &Target,
        copy: &Copy,
        busy: impl AsyncFnOnce(),
    ) -> Result<Held, String> {
        let name = &target.name;
        match self {
            Self::Cluster { controller, .. } => {
                let lease = Lease::take(controller, name.as_str(), busy).await;
                lease.map(Held::Lease).map_err(|err| err.to_string())
            }
            Self::Alone(alone) => {
                let right = right::take(alone.turn(copy), &copy.path, name, busy).await?;
                // Another gitreceived may have the folder by now.
                alone.check()?;
                Ok(Held::Right(right))
            }
        }
    }

    /// What the repository is at this moment; `branch` is the one that is to be deployed.
    pub(crate) async fn current(
        &self,
        target: &Target,
        copy: &Copy,
        branch: Option<&str>,
    ) -> Result<Repository, KeepError> {
        match self {
            Self::Cluster { controller, .. } => {
                Ok(controller.repository(target.name.as_str()).await?)
            }
            Self::Alone(alone) => Ok(alone.current(copy, branch).await?),
        }
    }

    /// Whether packs are kept elsewhere than in the repository.
    pub(crate) fn keeps_packs(&self) -> bool {
        matches!(self, Self::Cluster { .. })
    }

    /// Keeps a pack where every other gitreceived finds it; its path there.
    pub(crate) async fn keep_pack(
        &self,
        target: &Target,
        pack: &Pack,
    ) -> Result<Option<String>, KeepError> {
        let (Self::Cluster { shelf, .. }, Some(app)) = (self, target.app) else { return Ok(None) };
        let path = format!("/repos/{app}/{}.pack", pack.sha256);
        if shelf.put_file(&path, pack.file.path()).await? != pack.sha256 {
            return Err(KeepError::Damaged);
        }
        Ok(Some(path))
    }

    /// Keeps branches and tags that are not deployed.
    pub(crate) async fn keep_refs(
        &self,
        target: &Target,
        kept: &[Change],
        packs: Option<PacksChange>,
    ) -> Result<(), KeepError> {
        if let Self::Cluster { controller, .. } = self
            && !kept.is_empty()
        {
            let refs = kept.iter().map(|change| (change.name.clone(), change.new.clone()));
            let change = RefsChange { refs: refs.collect(), packs };
            controller.change_refs(target.name.as_str(), &change).await?;
        }
        Ok(())
    }
}

fn branches(app: &App) -> DeployBranches {
    DeployBranches::of_app(app.meta.get(META_DEPLOY_BRANCH).map(String::as_str))
}
