//! The host manifest: what a host starts before it can run jobs.
//!
//! `args`, the values of `env`, `when` and `ready` are templates (`{{ gateway }}`); an argument that comes out blank is left out.

use std::collections::BTreeMap;

use minijinja::{Environment, UndefinedBehavior};
use serde::{Deserialize, Serialize};

/// The manifest the binary carries.
pub(crate) const BUILT_IN: &str = include_str!("../../../../bootstrap/host.json");

/// A container of layer 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Service {
    /// Its name: the container is `<prefix>-<id>`.
    pub(crate) id: String,
    /// The image; `flynn/<id>` if absent.
    #[serde(default)]
    pub(crate) image: String,
    /// Replaces the image's entrypoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) entrypoint: Vec<String>,
    /// Arguments.
    #[serde(default)]
    pub(crate) args: Vec<String>,
    /// Environment.
    #[serde(default)]
    pub(crate) env: BTreeMap<String, String>,
    /// Folders of the data dir it sees.
    #[serde(default)]
    pub(crate) volumes: Vec<Folder>,
    /// Capabilities added to none.
    #[serde(default)]
    pub(crate) linux_capabilities: Vec<String>,
    /// `false` if it is not to run on this host.
    #[serde(default, skip_serializing)]
    pub(crate) when: String,
    /// A URL that answers 200 when it works.
    #[serde(default)]
    pub(crate) ready: String,
}

/// A folder of the data dir.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Folder {
    /// Below the data dir.
    pub(crate) folder: String,
    /// Where the container sees it.
    pub(crate) path: String,
}

/// The manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadManifest {
    /// It is not of the form.
    #[error("the host manifest is not a JSON array of services")]
    Form(#[source] serde_json::Error),
    /// A template names something unknown, mostly.
    #[error("{template:?} in the host manifest, at service {service}, cannot be filled in")]
    Template {
        /// The service.
        service: String,
        /// The text.
        template: String,
        /// Why.
        #[source]
        source: minijinja::Error,
    },
}

/// The image of a service, wherever it runs.
pub(crate) fn image_of(text: &str, id: &str) -> Result<String, BadManifest> {
    let services: Vec<Service> = serde_json::from_str(text).map_err(BadManifest::Form)?;
    let named = services.into_iter().find(|service| service.id == id).map(|service| service.image);
    Ok(named.filter(|image| !image.is_empty()).unwrap_or_else(|| format!("flynn/{id}")))
}

/// The names of all services, whether they run here or not.
pub(crate) fn ids(text: &str) -> Result<Vec<String>, BadManifest> {
    let services: Vec<Service> = serde_json::from_str(text).map_err(BadManifest::Form)?;
    Ok(services.into_iter().map(|service| service.id).collect())
}

/// The services with every template filled in.
pub(crate) fn render(
    text: &str,
    values: &BTreeMap<&str, String>,
) -> Result<Vec<Service>, BadManifest> {
    let services: Vec<Service> = serde_json::from_str(text).map_err(BadManifest::Form)?;
    let filled = services.into_iter().map(|service| fill(service, values));
    filled.filter(|service| service.as_ref().map_or(true, |one| one.when != "false")).collect()
}

fn fill(mut service: Service, values: &BTreeMap<&str, String>) -> Result<Service, BadManifest> {
    let mut templates = Environment::new();
    templates.set_undefined_behavior(UndefinedBehavior::Strict);
    let id = service.id.clone();
    let fill = |template: &mut String| {
        *template = templates.render_str(template, values).map_err(|source| {
            BadManifest::Template { service: id.clone(), template: template.clone(), source }
        })?;
        Ok(())
    };
    service.args.iter_mut().chain(service.env.values_mut()).try_for_each(&fill)?;
    fill(&mut service.ready)?;
    fill(&mut service.when)?;
    service.args.retain(|arg| !arg.trim().is_empty());
    if service.image.is_empty() {
        service.image = format!("flynn/{}", service.id);
    }
    Ok(service)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values() -> BTreeMap<&'static str, String> {
        let names = [
            "host_id",
            "gateway",
            "etcd_runs",
            "etcd_tls",
            "etcd_port",
            "etcd_client_port",
            "etcd_peer_url",
            "etcd_cluster",
            "etcd_state",
            "etcd_forced",
            "discoverd_port",
            "relay_port",
            "dns_port",
            "discoverd_key",
        ];
        names.into_iter().map(|name| (name, format!("<{name}>"))).collect()
    }

    #[test]
    fn the_built_in_manifest_starts_etcd_and_then_discoverd() {
        let services = render(BUILT_IN, &values()).unwrap();
        let ids: Vec<&str> = services.iter().map(|service| service.id.as_str()).collect();
        assert_eq!(ids, ["etcd", "discoverd"]);
        assert!(services[0].args.iter().all(|arg| !arg.contains("0.0.0.0")));
        assert_eq!(services[1].env["DISCOVERD_KEY"], "<discoverd_key>");
    }

    #[test]
    fn blank_arguments_are_left_out_and_unknown_names_refused() {
        let text = r#"[{"id": "a", "args": ["{{ host_id }}", "{{ '' }}"]}]"#;
        let services = render(text, &values()).unwrap();
        assert_eq!((services[0].image.as_str(), services[0].args.len()), ("flynn/a", 1));
        let err = render(r#"[{"id": "a", "args": ["{{ typo }}"]}]"#, &values()).unwrap_err();
        assert!(err.to_string().contains("{{ typo }}"), "{err}");
        assert!(render(r#"{"id": "a"}"#, &values()).is_err());
    }
}
