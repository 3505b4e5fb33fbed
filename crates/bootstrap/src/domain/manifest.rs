//! The manifest: a JSON array of steps, carried out strictly in order.

use std::collections::{BTreeMap, BTreeSet};

use api::{
    controller::{ArtifactType, ProcessType, Strategy},
    host::Job,
};
use serde::Deserialize;
use serde_json::Value;

/// One step, its templates not filled in yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Names it and its result: `{{ steps["<id>"].… }}`.
    pub id: String,
    /// Which action; see [`Action`].
    pub action: String,
    /// The whole object.
    pub body: Value,
}

/// A manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or not an array of objects.
    #[error("the manifest is not a JSON array of steps")]
    Syntax(#[source] serde_json::Error),
    /// A step lacks its id or action.
    #[error("step {0} of the manifest has no {1:?}")]
    Missing(usize, &'static str),
    /// Two steps have one id.
    #[error("two steps of the manifest have the id {0:?}")]
    Duplicate(String),
    /// There is no such action.
    #[error("step {id:?} has the action {action:?}; known are: {}", ACTIONS.join(", "))]
    UnknownAction {
        /// The step.
        id: String,
        /// What it says.
        action: String,
    },
}

/// Every action there is.
pub const ACTIONS: [&str; 11] = [
    "run-app",
    "add-app",
    "deploy-app",
    "scale-app",
    "run-job",
    "add-route",
    "gen-random",
    "gen-ssh-key",
    "gen-tls-cert",
    "wait",
    "log",
];

/// Reads a manifest. Everything that can be wrong before anything is started is found here.
pub fn parse(text: &str) -> Result<Vec<Step>, ManifestError> {
    let bodies: Vec<serde_json::Map<String, Value>> =
        serde_json::from_str(text).map_err(ManifestError::Syntax)?;
    let mut ids = BTreeSet::new();
    let step = |(at, body): (usize, serde_json::Map<String, Value>)| {
        let field = |name| {
            let value = body.get(name).and_then(Value::as_str);
            value.map(str::to_owned).ok_or(ManifestError::Missing(at + 1, name))
        };
        let (id, action) = (field("id")?, field("action")?);
        if !ACTIONS.contains(&action.as_str()) {
            return Err(ManifestError::UnknownAction { id, action });
        }
        if !ids.insert(id.clone()) {
            return Err(ManifestError::Duplicate(id));
        }
        Ok(Step { id, action, body: Value::Object(body) })
    };
    bodies.into_iter().enumerate().map(step).collect()
}

/// What a step does, its templates filled in.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
pub enum Action {
    /// Starts an app's processes on hosts, before there is a controller.
    RunApp(Box<RunApp>),
    /// Tells the controller of an app that runs already.
    AddApp(AddApp),
    /// Creates an app through the controller and waits until it runs.
    DeployApp(Box<RunApp>),
    /// Sets how many processes an app has.
    ScaleApp(ScaleApp),
    /// Starts one job.
    RunJob {
        /// The job; its id is drawn if it has none.
        job: Value,
    },
    /// Creates a route through the controller.
    AddRoute(Box<AddRoute>),
    /// Draws a secret.
    GenRandom(GenRandom),
    /// Makes an SSH host key.
    GenSshKey {},
    /// Makes a self-signed certificate.
    GenTlsCert {
        /// Names and addresses it is for.
        hosts: Vec<String>,
    },
    /// Waits until a URL answers with a status.
    Wait {
        /// `http://…` or `discoverd+http://<service>/…`.
        url: String,
        /// The status, 200 if absent.
        #[serde(default = "ok")]
        status: u16,
    },
    /// Prints a text.
    Log {
        /// The text.
        output: String,
    },
}

fn ok() -> u16 {
    200
}

/// An app to run.
#[derive(Debug, Clone, Deserialize)]
pub struct RunApp {
    /// The app.
    pub app: AppSpec,
    /// What it runs.
    pub artifact: ArtifactSpec,
    /// Its release.
    pub release: ReleaseSpec,
    /// How many of each type.
    pub processes: BTreeMap<String, u32>,
    /// What it needs.
    #[serde(default)]
    pub resources: Vec<ResourceSpec>,
}

/// Fields of an app.
#[derive(Debug, Clone, Deserialize)]
pub struct AppSpec {
    /// Name.
    pub name: String,
    /// Meta.
    #[serde(default)]
    pub meta: BTreeMap<String, String>,
    /// How it is deployed.
    #[serde(default)]
    pub strategy: Strategy,
}

/// Fields of an artifact.
#[derive(Debug, Clone, Deserialize)]
pub struct ArtifactSpec {
    /// Kind.
    #[serde(rename = "type")]
    pub kind: ArtifactType,
    /// Where it is.
    pub uri: String,
}

/// Fields of a release.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct ReleaseSpec {
    /// Environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Process types.
    #[serde(default)]
    pub processes: BTreeMap<String, ProcessType>,
}

/// A resource an app needs: its environment is added to the release's.
#[derive(Debug, Clone, Deserialize)]
pub struct ResourceSpec {
    /// Name of the provider.
    pub name: String,
    /// `discoverd+http://<service>/<path>`.
    pub url: String,
}

/// An app that runs already.
#[derive(Debug, Clone, Deserialize)]
pub struct AddApp {
    /// The `run-app` step that started it.
    pub from_step: String,
}

/// New counts for an app.
#[derive(Debug, Clone, Deserialize)]
pub struct ScaleApp {
    /// The step that made the app.
    pub app_step: String,
    /// How many of each type.
    pub processes: BTreeMap<String, u32>,
}

/// A route.
#[derive(Debug, Clone, Deserialize)]
pub struct AddRoute {
    /// The step that made the app it belongs to.
    pub app_step: String,
    /// The route, flat or with 2014's `config`.
    #[serde(flatten)]
    pub route: api::route::NewRoute,
    /// The `gen-tls-cert` step of its certificate.
    #[serde(default)]
    pub cert_step: Option<String>,
}

/// A secret.
#[derive(Debug, Clone, Deserialize)]
pub struct GenRandom {
    /// Bytes.
    #[serde(default = "sixteen")]
    pub length: usize,
    /// Use this instead, unless it is empty.
    #[serde(default)]
    pub data: String,
    /// It is the controller's key.
    #[serde(default)]
    pub controller_key: bool,
}

fn sixteen() -> usize {
    16
}

/// A job out of a `run-job` step.
pub fn job(mut body: Value, id: api::id::JobId) -> Result<Job, serde_json::Error> {
    if let Some(fields) = body.as_object_mut() {
        fields.entry("id").or_insert_with(|| id.to_string().into());
    }
    serde_json::from_value(body)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_wrong_with_a_manifest_is_said_before_anything_starts() {
        let said = |text: &str| parse(text).unwrap_err().to_string();
        assert!(said("{}").contains("array"));
        assert_eq!(said(r#"[{"action":"log"}]"#), r#"step 1 of the manifest has no "id""#);
        assert!(said(r#"[{"id":"a","action":"fly"}]"#).contains("known are: run-app"));
        let twice = r#"[{"id":"a","action":"log"},{"id":"a","action":"log"}]"#;
        assert!(said(twice).contains("two steps"));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in ".{0,200}") {
            let _ = parse(&text);
        }
    }
}
