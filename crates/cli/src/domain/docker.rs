//! Images as `docker image inspect` tells of them, and the release that runs one.

use std::collections::BTreeMap;

use api::{
    controller::{ArtifactType, NewArtifact, NewRelease, ProcessType, Release},
    expand::slug_process,
    image::{ImageId, InvalidImageId},
};
use serde::Deserialize;

/// The process type of an image that is an app of its own.
const WEB: &str = "web";
/// Port of an image that does not say one.
const DEFAULT_PORT: u16 = 8080;

/// What is read of `docker image inspect`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Inspected {
    id: String,
    #[serde(default)]
    config: Option<Config>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    #[serde(default)]
    exposed_ports: Option<BTreeMap<String, serde_json::Value>>,
}

impl Inspected {
    /// The image's id.
    pub(crate) fn id(&self) -> Result<ImageId, InvalidImageId> {
        self.id.parse()
    }

    /// The lowest TCP port it says it listens on.
    pub(crate) fn port(&self) -> Option<u16> {
        let ports = self.config.as_ref()?.exposed_ports.as_ref()?;
        let tcp = |name: &String| name.strip_suffix("/tcp").unwrap_or(name).parse().ok();
        ports.keys().filter_map(tcp).min()
    }
}

/// What was typed names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no image: expected name, registry.example.com/name or either with :tag or @sha256:… (64 hex digits)"
)]
pub(crate) struct InvalidImage(String);

/// The artifact of an image that the hosts fetch from its registry.
pub(crate) fn registry_artifact(
    image: &str,
    tag: Option<&str>,
) -> Result<NewArtifact, InvalidImage> {
    let wrong = || InvalidImage(image.into());
    let (named, digest) = match image.split_once('@') {
        Some((_, _)) if tag.is_some() => return Err(wrong()),
        Some((named, digest)) => (named, Some(digest.parse::<ImageId>().map_err(|_| wrong())?)),
        None => (image, None),
    };
    let (name, own_tag) = match named.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (named, None),
    };
    let letter = |c: char| c.is_ascii_alphanumeric() || "._-/:".contains(c);
    let fits = |text: &str| !text.is_empty() && text.chars().all(letter) && !text.starts_with('-');
    if !fits(name) || !tag.or(own_tag).is_none_or(fits) {
        return Err(wrong());
    }
    let is_registry = |first: &str| first.contains(['.', ':']) || first == "localhost";
    let host = name.split_once('/').is_some_and(|(first, _)| is_registry(first));
    let slash = if host { "" } else { "/" };
    // A digest says more than a tag.
    let which = match (digest, tag.or(own_tag)) {
        (Some(digest), _) => format!("@{digest}"),
        (None, Some(tag)) => format!("?tag={tag}"),
        (None, None) => String::new(),
    };
    let uri = format!("docker://{slash}{name}{which}");
    Ok(NewArtifact { id: None, kind: ArtifactType::Docker, uri, meta: BTreeMap::new() })
}

/// The artifact of an image that was pushed.
pub(crate) fn pushed_artifact(id: &ImageId, name: &str) -> NewArtifact {
    let letter = |c: char| c.is_ascii_alphanumeric() || "._-/:".contains(c);
    let name: String = name.chars().filter(|c| letter(*c)).collect();
    let meta = BTreeMap::from([("image".to_owned(), id.to_string())]);
    NewArtifact { id: None, kind: ArtifactType::Docker, uri: id.artifact_uri(&name), meta }
}

/// The release that runs an image as an app: with the environment there was; with the process types there were, if they
/// were of an image too, else one of them, which listens on the port the image says.
pub(crate) fn release_of(
    app: &str,
    current: Option<&Release>,
    was_image: bool,
    port: Option<u16>,
) -> NewRelease {
    let mut processes =
        current.filter(|_| was_image).map(|release| release.processes.clone()).unwrap_or_default();
    if processes.is_empty() {
        let mut web = ProcessType { args: Vec::new(), ..slug_process(app, WEB) };
        web.ports.iter_mut().for_each(|known| known.port = port.unwrap_or(DEFAULT_PORT));
        processes.insert(WEB.into(), web);
    } else if let Some(port) = port {
        let web = processes.get_mut(WEB).into_iter().flat_map(|web| &mut web.ports);
        web.take(1).for_each(|known| known.port = port);
    }
    NewRelease {
        env: current.map(|release| release.env.clone()).unwrap_or_default(),
        processes,
        ..NewRelease::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inspected(ports: &str) -> Inspected {
        let hex = "ab".repeat(32);
        let text = format!(r#"{{"Id": "sha256:{hex}", "Config": {{"ExposedPorts": {ports}}}}}"#);
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn the_port_of_an_image_is_the_lowest_it_exposes() {
        assert_eq!(inspected(r#"{"443/tcp": {}, "80/tcp": {}, "53/udp": {}}"#).port(), Some(80));
        assert_eq!(inspected("null").port(), None);
        assert_eq!(inspected("{}").id().unwrap().hex(), "ab".repeat(32));
    }

    #[test]
    fn names_of_images_become_artifacts_or_are_refused() {
        let uri = |image: &str, tag: Option<&str>| {
            registry_artifact(image, tag).map(|artifact| artifact.uri)
        };
        assert_eq!(uri("nginx", None).unwrap(), "docker:///nginx");
        assert_eq!(uri("nginx", Some("1.27")).unwrap(), "docker:///nginx?tag=1.27");
        assert_eq!(
            uri("r.example.com:5000/a/b:2", None).unwrap(),
            "docker://r.example.com:5000/a/b?tag=2"
        );
        let digest = format!("sha256:{}", "ab".repeat(32));
        for name in ["r.example.com/a", "r.example.com/a:2"] {
            let uri = uri(&format!("{name}@{digest}"), None).unwrap();
            assert_eq!(uri, format!("docker://r.example.com/a@{digest}"));
            let image = api::expand::image_of(&uri).unwrap();
            assert_eq!(image, format!("r.example.com/a@{digest}"));
        }
        uri(&format!("a@{digest}"), Some("1")).unwrap_err();
        for wrong in ["", "-v", "a b", "a\n", "a@sha256:1", "a@1", "@"] {
            uri(wrong, None).unwrap_err();
        }
        uri("a", Some("b c")).unwrap_err();
    }

    #[test]
    fn an_image_keeps_the_processes_of_an_image_and_not_those_of_a_slug() {
        let first = release_of("shop", None, false, Some(80));
        assert_eq!(first.processes["web"].ports[0].port, 80);
        assert_eq!(first.processes["web"].ports[0].service.as_ref().unwrap().name, "shop-web");
        assert!(first.processes["web"].args.is_empty());
        let current = Release {
            id: api::id::ReleaseId::random(),
            app_id: None,
            artifacts: vec![],
            env: BTreeMap::from([("A".into(), "1".into())]),
            meta: BTreeMap::new(),
            processes: BTreeMap::from([("worker".into(), ProcessType::default())]),
            created_at: jiff::Timestamp::UNIX_EPOCH,
        };
        let kept = release_of("shop", Some(&current), true, Some(80));
        assert_eq!(kept.processes.keys().collect::<Vec<_>>(), ["worker"]);
        let replaced = release_of("shop", Some(&current), false, None);
        assert_eq!(replaced.processes.keys().collect::<Vec<_>>(), ["web"]);
        assert_eq!(replaced.env, current.env);
    }
}
