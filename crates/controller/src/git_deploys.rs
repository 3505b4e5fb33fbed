//! The job that deploys a git repository by its URL: taffy, with keys that can do what a push can.

use api::{
    controller::{ArtifactType, NewArtifact, NewJob},
    host::Limits,
};

use crate::{
    error::{Error, Result},
    one_off::{self, Planned},
    scope::is_system,
    server::Controller,
    store::{self, Tx},
};

/// The image that does it, of the cluster's own version.
const TAFFY: &str = "docker:///flynn/taffy";
/// Bytes it may write: the repository, its tree as a tar and a pack of its history are there at once.
const DISK: u64 = 12 << 30;
/// Weight when cores are short: apps that serve, which have 1000, go first.
const CPU_WEIGHT: u32 = 250;

/// What the job is given to do its work with.
#[derive(Clone)]
pub(crate) struct DeployKeys {
    /// Opens what a push needs, of the controller.
    controller: String,
    shelf: String,
}

impl std::fmt::Debug for DeployKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DeployKeys")
    }
}

impl DeployKeys {
    /// The keys in use: of several, separated by commas, the first. None where one of the two is missing.
    pub(crate) fn first_of(gitreceive: &str, shelf: Option<&str>) -> Option<Self> {
        let first = |keys: &str| {
            let mut keys = keys.split(',').map(|key| key.trim().to_owned());
            keys.find(|key| !key.is_empty())
        };
        Some(Self { controller: first(gitreceive)?, shelf: first(shelf?)? })
    }
}

/// Works out the job of an app.
pub(crate) async fn plan(controller: &Controller, app: &str) -> Result<(Planned, NewJob)> {
    let keys = controller.deploy_keys.as_ref().ok_or_else(|| {
        Error::Away(
            "this controller was given no keys to deploy a repository with (GITRECEIVE_KEY, SHELF_KEY)".into(),
        )
    })?;
    let mut client = controller.db.client().await?;
    let app = store::apps::find(&client, app).await?;
    if is_system(&app) {
        return Err(Error::Conflict(format!(
            "{} is a part of Flynn, which no repository replaces",
            app.name
        )));
    }
    let image =
        NewArtifact { id: None, kind: ArtifactType::Docker, uri: TAFFY.into(), meta: [].into() };
    let mut tx = Tx::begin(&mut client).await?;
    let image = store::artifacts::put(&mut tx, &image).await?;
    tx.commit().await?;
    let env = [("CONTROLLER_KEY", &keys.controller), ("SHELF_KEY", &keys.shelf)];
    let new = NewJob {
        artifacts: vec![image.id],
        args: vec!["--stdin".into(), app.name.clone()],
        env: env.map(|(name, key)| (name.to_owned(), key.clone())).into(),
        limits: Some(Limits { temp_disk: DISK, cpu: CPU_WEIGHT, ..Limits::default() }),
        ..NewJob::default()
    };
    drop(client);
    let planned = one_off::plan(controller, &app.id.to_string(), &new, true).await?;
    Ok((planned, new))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_in_use_are_the_first_and_are_shown_nowhere() {
        let keys = DeployKeys::first_of(" new-key,old-key", Some("shelf-key")).unwrap();
        assert_eq!((&*keys.controller, &*keys.shelf), ("new-key", "shelf-key"));
        assert_eq!(format!("{keys:?}"), "DeployKeys");
        assert!(DeployKeys::first_of("", Some("x")).is_none());
        assert!(DeployKeys::first_of("x", None).is_none());
    }
}
