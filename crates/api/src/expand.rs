//! From a release's process type to the job a host runs: one function for scheduler, controller and bootstrap.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::{
    controller::{
        App, Artifact, ArtifactType, META_SYSTEM_CRITICAL, META_VOLUMES_BY_NAME, NewJob,
        ONE_OFF_SECONDS, ProcessType, Release, VolumeReq,
    },
    host::{
        Job, JobConfig, META_APP, META_APP_NAME, META_OMNI, META_RELEASE, META_RESERVED, META_TYPE,
        Port, Service, Slug, Volume,
    },
    id::{AppId, JobId},
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
    /// Metadata of a one-off job that would make it another's.
    #[error(
        "the key {0:?} of its metadata is Flynn's own: leave out those that begin with flynn-controller."
    )]
    ReservedMeta(String),
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
                        start_path: None,
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
            time_limit_seconds: None,
        },
        limits: process.limits.clone().unwrap_or_default(),
        resurrect: process.resurrect
            || app.meta.get(META_SYSTEM_CRITICAL).is_some_and(|v| v == "true"),
        replaces: None,
        restarts: 0,
    })
}

/// The volumes of a process type.
pub fn volumes(app: &App, kind: &str, process: &ProcessType) -> Vec<Volume> {
    let by_name = app.meta.get(META_VOLUMES_BY_NAME).is_some_and(|value| value == "true");
    let name = |path: &str| match by_name {
        true => format!("{}-{kind}-{}", app.name, path.trim_matches('/').replace('/', "-")),
        false => volume_name(app.id, kind, path),
    };
    let volume =
        |v: &VolumeReq| Volume { name: name(&v.path), path: v.path.clone(), shared: v.shared };
    process.volumes.iter().map(volume).collect()
}

/// Longest escaped path in a volume's name: hosts take names of 200 characters, and an id and a type come first.
const LONGEST_PATH: usize = 100;

/// The name of a volume, `<app id>.<type>.<path>`: no two apps, types or paths have the same, and no later app of the same
/// name has it. Neither an id nor a type holds a dot. Of the path all but letters, digits, dots and dashes is written
/// `_` and two hex digits; a long one is its SHA-256.
pub fn volume_name(app: AppId, kind: &str, path: &str) -> String {
    let path = path.trim_matches('/');
    let mut escaped = String::new();
    for byte in path.bytes() {
        match byte {
            b'.' | b'-' => escaped.push(byte.into()),
            _ if byte.is_ascii_alphanumeric() => escaped.push(byte.into()),
            _ => escaped += &format!("_{byte:02x}"),
        }
    }
    if escaped.len() > LONGEST_PATH {
        escaped = format!("_{}", hex::encode(Sha256::digest(path)));
    }
    format!("{app}.{kind}.{escaped}")
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
    for (key, value) in &new.meta {
        if !key.starts_with(META_RESERVED) {
            metadata.insert(key.clone(), value.clone());
        } else if metadata.get(key) != Some(value) {
            return Err(ExpandError::ReservedMeta(key.clone()));
        }
    }
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
            time_limit_seconds: Some(new.timeout_seconds.unwrap_or(ONE_OFF_SECONDS)),
            ..JobConfig::default()
        },
        limits: new.limits.clone().unwrap_or_default(),
        resurrect: false,
        replaces: None,
        restarts: 0,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(n: u128) -> AppId {
        uuid::Uuid::from_u128(n).into()
    }

    #[test]
    fn a_volume_is_named_by_the_id_of_its_app_and_by_its_name_where_it_was_before() {
        let mut app: App = serde_json::from_value(serde_json::json!({
            "id": id(1), "name": "shop", "created_at": "2026-01-01T00:00:00Z",
            "updated_at": "2026-01-01T00:00:00Z",
        }))
        .unwrap();
        let process: ProcessType = serde_json::from_value(serde_json::json!({
            "volumes": [{ "path": "/data" }, { "path": "/a/b", "shared": true }],
        }))
        .unwrap();
        let names = |app: &App| {
            volumes(app, "web", &process).into_iter().map(|v| v.name).collect::<Vec<_>>()
        };
        let prefix = id(1).to_string();
        assert_eq!(names(&app), [format!("{prefix}.web.data"), format!("{prefix}.web.a_2fb")]);
        assert!(volumes(&app, "web", &process)[1].shared && process.is_exclusive());
        app.meta.insert(META_VOLUMES_BY_NAME.into(), "true".into());
        assert_eq!(names(&app), ["shop-web-data", "shop-web-a-b"]);
    }

    #[test]
    fn a_one_off_job_cannot_be_made_another_s() {
        let (app, release) = (id(1), uuid::Uuid::from_u128(2));
        let at = "2026-01-01T00:00:00Z";
        let app: App = serde_json::from_value(serde_json::json!({
            "id": app, "name": "shop", "created_at": at, "updated_at": at,
        }))
        .unwrap();
        let release: Release =
            serde_json::from_value(serde_json::json!({ "id": release, "created_at": at })).unwrap();
        let image: Artifact = serde_json::from_value(serde_json::json!({
            "id": uuid::Uuid::from_u128(3), "type": "docker", "uri": "docker:///x", "created_at": at,
        }))
        .unwrap();
        let job = |key: &str, value: &str| {
            let meta = [(key.to_owned(), value.to_owned())].into();
            let new = NewJob { meta, ..NewJob::default() };
            one_off_job(JobId::random(), &app, &release, std::slice::from_ref(&image), &new, false)
        };
        assert_eq!(job("a", "b").unwrap().metadata["a"], "b");
        assert!(job(META_APP, &app.id.to_string()).is_ok(), "it is its app's anyway");
        for key in [META_APP, META_TYPE, "flynn-controller.replaces"] {
            assert_eq!(job(key, "x"), Err(ExpandError::ReservedMeta(key.into())));
        }
    }

    proptest! {
        #[test]
        fn no_two_volumes_have_one_name(
            a in ("[a-zA-Z0-9_-]{1,40}", "(/[^/\\x00]{1,60}){1,4}"),
            b in ("[a-zA-Z0-9_-]{1,40}", "(/[^/\\x00]{1,60}){1,4}"),
        ) {
            let name = |(kind, path): &(String, String)| volume_name(id(1), kind, path);
            prop_assert_eq!(name(&a) == name(&b), a == b);
            prop_assert!(name(&a).len() <= 200 && !name(&a).starts_with('.'));
            prop_assert!(name(&a).bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)));
        }
    }
}
