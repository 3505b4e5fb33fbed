//! From a release's process type to the job a host runs: one function for scheduler, controller and bootstrap.

use std::collections::BTreeMap;

use crate::{
    controller::{App, Artifact, ArtifactType, META_SYSTEM_CRITICAL, NewJob, ProcessType, Release},
    host::{
        Job, JobConfig, META_APP, META_APP_NAME, META_OMNI, META_RELEASE, META_TYPE, Port, Service,
        Slug, Volume,
    },
    id::JobId,
};

/// A release cannot be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpandError {
    /// The release lacks the type.
    #[error("release {release} has no process type {kind:?}")]
    NoSuchType {
        /// The release.
        release: String,
        /// The type asked for.
        kind: String,
    },
    /// No artifact says which image to run.
    #[error("the release has no image: none of its artifacts is of type docker")]
    NoImage,
    /// An artifact's URI is not of a known form.
    #[error(
        "artifact URI {0:?} cannot be used: expected docker://[registry]/name[?tag=t] or a slug in shelf"
    )]
    BadUri(String),
}

/// The image name an artifact's URI stands for: `docker:///flynn/x` is `flynn/x`, `docker://r/x?tag=1` is `r/x:1`, and
/// `docker:///x?id=sha256:…`, an image that was pushed to the cluster, its id.
pub fn image_of(uri: &str) -> Result<String, ExpandError> {
    let bad = || ExpandError::BadUri(uri.into());
    let rest = uri.strip_prefix("docker://").ok_or_else(bad)?;
    let (name, query) = rest.split_once('?').unwrap_or((rest, ""));
    let name = name.strip_prefix('/').unwrap_or(name);
    if name.is_empty() || name.starts_with('-') || name.contains(char::is_whitespace) {
        return Err(bad());
    }
    if let Some(id) = query.split('&').find_map(|pair| pair.strip_prefix("id=")) {
        let id: crate::image::ImageId = id.parse().map_err(|_| bad())?;
        return Ok(id.to_string());
    }
    Ok(match query.split('&').find_map(|pair| pair.strip_prefix("tag=")) {
        Some(tag) => format!("{name}:{tag}"),
        None => name.into(),
    })
}

fn image_and_slug(artifacts: &[Artifact]) -> Result<(String, Option<Slug>), ExpandError> {
    let image = artifacts.iter().find(|a| a.kind == ArtifactType::Docker);
    let image = image_of(&image.ok_or(ExpandError::NoImage)?.uri)?;
    let slug = artifacts.iter().find(|a| a.kind == ArtifactType::File).map(|a| {
        let bad = || ExpandError::BadUri(a.uri.clone());
        let path = a.uri.strip_prefix("http://shelf.discoverd").ok_or_else(bad)?;
        let sha256 = a.meta.get("sha256").ok_or_else(bad)?;
        Ok(Slug { path: path.into(), sha256: sha256.clone() })
    });
    Ok((image, slug.transpose()?))
}

fn metadata(app: &App, release: &Release, kind: Option<&str>) -> BTreeMap<String, String> {
    let mut metadata = BTreeMap::from([
        (META_APP.to_owned(), app.id.to_string()),
        (META_APP_NAME.to_owned(), app.name.clone()),
        (META_RELEASE.to_owned(), release.id.to_string()),
    ]);
    if let Some(kind) = kind {
        metadata.insert(META_TYPE.into(), kind.into());
    }
    metadata
}

fn identity(app: &App, release: &Release, kind: Option<&str>) -> BTreeMap<String, String> {
    let mut env = BTreeMap::from([
        ("FLYNN_APP_ID".to_owned(), app.id.to_string()),
        ("FLYNN_APP_NAME".to_owned(), app.name.clone()),
        ("FLYNN_RELEASE_ID".to_owned(), release.id.to_string()),
    ]);
    if let Some(kind) = kind {
        env.insert("FLYNN_PROCESS_TYPE".into(), kind.into());
    }
    env
}

/// The process type a slug's release has for a type its Procfile declares, where nothing else is said.
///
/// `web` and `*-web` listen on 8080 and offer `<app>-<type>`; every type runs `start <type>`.
pub fn slug_process(app_name: &str, kind: &str) -> ProcessType {
    let routed = kind == "web" || kind.ends_with("-web");
    ProcessType {
        args: vec!["start".into(), kind.into()],
        ports: routed
            .then(|| Port {
                port: 8080,
                proto: "http".into(),
                service: Some(Service {
                    name: format!("{app_name}-{kind}"),
                    check: Some(crate::host::HealthCheck {
                        kind: "tcp".into(),
                        path: None,
                        status: None,
                        kill_down: false,
                        start_timeout: 0,
                    }),
                }),
            })
            .into_iter()
            .collect(),
        ..ProcessType::default()
    }
}

/// The job that runs one process of a release.
pub fn process_job(
    id: JobId,
    app: &App,
    release: &Release,
    artifacts: &[Artifact],
    kind: &str,
) -> Result<Job, ExpandError> {
    let process = release.processes.get(kind).ok_or_else(|| ExpandError::NoSuchType {
        release: release.id.to_string(),
        kind: kind.into(),
    })?;
    let (image, slug) = image_and_slug(artifacts)?;
    let mut env = release.env.clone();
    env.extend(process.env.clone());
    env.extend(identity(app, release, Some(kind)));
    let mut metadata = metadata(app, release, Some(kind));
    if process.omni {
        metadata.insert(META_OMNI.into(), "true".into());
    }
    Ok(Job {
        id,
        image,
        slug,
        metadata,
        config: JobConfig {
            entrypoint: process.entrypoint.clone(),
            args: process.args.clone(),
            env,
            tty: false,
            stdin: false,
            ports: process.ports.clone(),
            volumes: volumes(app, kind, process),
            host_network: process.host_network,
            linux_capabilities: process.linux_capabilities.clone(),
            stop_timeout_seconds: process.stop_timeout_seconds.unwrap_or(30),
        },
        limits: process.limits.clone().unwrap_or_default(),
        resurrect: process.resurrect
            || app.meta.get(META_SYSTEM_CRITICAL).is_some_and(|v| v == "true"),
        restarts: 0,
    })
}

fn volumes(app: &App, kind: &str, process: &ProcessType) -> Vec<Volume> {
    let named = |path: &String| {
        let slug = path.trim_matches('/').replace('/', "-");
        Volume { name: format!("{}-{kind}-{slug}", app.name), path: path.clone() }
    };
    process.volumes.iter().map(|v| named(&v.path)).collect()
}

/// The job that runs something once with an app's release.
pub fn one_off_job(
    id: JobId,
    app: &App,
    release: &Release,
    artifacts: &[Artifact],
    new: &NewJob,
    attached: bool,
) -> Result<Job, ExpandError> {
    let (image, slug) = image_and_slug(artifacts)?;
    let mut env = if new.release_env { release.env.clone() } else { BTreeMap::new() };
    env.extend(new.env.clone());
    env.extend(identity(app, release, None));
    let mut metadata = metadata(app, release, None);
    metadata.extend(new.meta.clone());
    Ok(Job {
        id,
        image,
        slug,
        metadata,
        config: JobConfig {
            entrypoint: new.entrypoint.clone(),
            args: new.args.clone(),
            env,
            tty: new.tty,
            stdin: attached,
            stop_timeout_seconds: 10,
            ..JobConfig::default()
        },
        limits: new.limits.clone().unwrap_or_default(),
        resurrect: false,
        restarts: 0,
    })
}
