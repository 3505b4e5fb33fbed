//! The controller: apps, releases, formations, jobs, deployments, keys, resources, events.

mod builds;
mod changes;
mod jobs;
mod resources;
mod wishes;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::{builds::*, changes::*, jobs::*, resources::*, wishes::*};
use crate::{
    host,
    id::{AppId, ArtifactId, DeploymentId, ReleaseId},
};

/// App meta key: `true` for parts of Flynn itself; no default route, and protected.
pub const META_SYSTEM_APP: &str = "flynn-system-app";
/// App meta key: the one branch that is deployed when it is pushed, instead of main and master.
pub const META_DEPLOY_BRANCH: &str = "deploy-branch";
/// App meta key: `true` where the cluster cannot heal without the app; its jobs are resurrected.
pub const META_SYSTEM_CRITICAL: &str = "flynn-system-critical";
/// App meta key, which the controller alone sets: `true` where the volumes are named by the app's name, as all were before
/// they were named by its id. The data that is there stays where it is.
pub const META_VOLUMES_BY_NAME: &str = "flynn-volumes-by-name";
/// App meta key: how many jobs `in-batches` replaces at a time; as many as there are hosts if absent.
pub const META_BATCH_SIZE: &str = "flynn-deploy-batch-size";
/// Release meta key: the build it came from. A push that is asked for again with the same build is the same push.
pub const META_BUILD: &str = "build";
/// Release meta key: the commit it was built from.
pub const META_GIT_COMMIT: &str = "git.commit";

/// How a deployment replaces jobs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// Type by type, one up, then one down.
    #[default]
    OneByOne,
    /// All up, then all down.
    AllAtOnce,
    /// As one by one, in batches.
    InBatches,
    /// One down, then one up: for what holds a port of the host.
    OneDownOneUp,
}

/// Something developers deploy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct App {
    /// Id.
    pub id: AppId,
    /// Name: `^[a-z\d]+(-[a-z\d]+)*$`, at most 30 characters.
    pub name: String,
    /// Facts about it.
    #[serde(default)]
    pub meta: BTreeMap<String, String>,
    /// How it is deployed.
    #[serde(default)]
    pub strategy: Strategy,
    /// The release that serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<ReleaseId>,
    /// Seconds a step of a deployment may take.
    #[serde(default = "default_deploy_timeout")]
    pub deploy_timeout: u32,
    /// Made at.
    pub created_at: Timestamp,
    /// Changed at.
    pub updated_at: Timestamp,
}

fn default_deploy_timeout() -> u32 {
    120
}

/// Body of `POST /apps` (all optional but the name, which is drawn if absent) and of `POST /apps/:app`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewApp {
    /// Only at creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<AppId>,
    /// Only at creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Replaces the meta.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meta: Option<BTreeMap<String, String>>,
    /// How it is deployed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Strategy>,
    /// Seconds a step of a deployment may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deploy_timeout: Option<u32>,
}

/// What runs: artifacts, environment, process types. Never changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Id.
    pub id: ReleaseId,
    /// The app; absent for a release made before its app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_id: Option<AppId>,
    /// The image first, then a slug if there is one.
    #[serde(default)]
    pub artifacts: Vec<ArtifactId>,
    /// Environment of all its processes.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Facts about it.
    #[serde(default)]
    pub meta: BTreeMap<String, String>,
    /// Its process types.
    #[serde(default)]
    pub processes: BTreeMap<String, ProcessType>,
    /// Made at.
    pub created_at: Timestamp,
}

/// Body of `POST /releases`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields of Release")]
pub struct NewRelease {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<ReleaseId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_id: Option<AppId>,
    #[serde(default)]
    pub artifacts: Vec<ArtifactId>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    #[serde(default)]
    pub meta: BTreeMap<String, String>,
    #[serde(default)]
    pub processes: BTreeMap<String, ProcessType>,
}

/// One kind of process of a release.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessType {
    /// Arguments to the image's entrypoint.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Replaces the image's entrypoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Added to the release's environment.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Ports, with the services they offer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<host::Port>,
    /// Directories that outlive the container on its host.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeReq>,
    /// One on every host, instead of a count.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub omni: bool,
    /// Use the host's network.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub host_network: bool,
    /// Restarted by its host.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub resurrect: bool,
    /// Capabilities it needs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub linux_capabilities: Vec<String>,
    /// Limits, where they differ from the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<host::Limits>,
    /// Seconds between SIGTERM and SIGKILL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout_seconds: Option<u32>,
}

impl ProcessType {
    /// Whether only one process of the type can run at a time, because it alone writes to its volumes.
    pub fn is_exclusive(&self) -> bool {
        self.volumes.iter().any(|volume| !volume.shared)
    }
}

/// A volume a process type asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeReq {
    /// Where the job sees it.
    pub path: String,
    /// Whether several processes of the type may have it at once. If not, one process of the type runs at a time, and a
    /// deployment stops it before its successor starts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
}

/// What an artifact is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ArtifactType {
    /// An image: `docker:///flynn/slugrunner`, `docker://registry/name?tag=t`.
    Docker,
    /// A slug in shelf: `http://shelf.discoverd/slugs/<sha256>.tgz`.
    File,
}

/// Something to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Id.
    pub id: ArtifactId,
    /// Kind.
    #[serde(rename = "type")]
    pub kind: ArtifactType,
    /// Where it is. (type, uri) is unique: posting it again answers the same artifact.
    pub uri: String,
    /// For a slug `sha256` and `size`.
    #[serde(default)]
    pub meta: BTreeMap<String, String>,
    /// Made at.
    pub created_at: Timestamp,
}

/// Body of `POST /artifacts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields of Artifact")]
pub struct NewArtifact {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<ArtifactId>,
    #[serde(rename = "type")]
    pub kind: ArtifactType,
    pub uri: String,
    #[serde(default)]
    pub meta: BTreeMap<String, String>,
}

/// By process type, the tags that a host must have for its processes, each with its value.
pub type Tags = BTreeMap<String, BTreeMap<String, String>>;

/// How many processes of each type of a release shall run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Formation {
    /// App.
    pub app: AppId,
    /// Release.
    pub release: ReleaseId,
    /// Counts by type; never negative, never a type the release lacks.
    #[serde(default)]
    pub processes: BTreeMap<String, u32>,
    /// Which hosts the processes may run on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: Tags,
    /// Made at.
    pub created_at: Timestamp,
    /// Changed at.
    pub updated_at: Timestamp,
}

/// Body of `PUT /apps/:app/formations/:release`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewFormation {
    /// Counts by type; a type left out is 0.
    #[serde(default)]
    pub processes: BTreeMap<String, u32>,
}

/// A formation with all that is needed to run it. On the stream `GET /formations` (Accept: text/event-stream) the
/// backlog ends with `null`; a deleted formation comes with no processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpandedFormation {
    /// App.
    pub app: App,
    /// Release.
    pub release: Release,
    /// The release's artifacts, in its order.
    pub artifacts: Vec<Artifact>,
    /// Counts by type.
    pub processes: BTreeMap<String, u32>,
    /// Which hosts the processes may run on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: Tags,
    /// Changed at.
    pub updated_at: Timestamp,
}

/// State of a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeploymentStatus {
    /// Waits for its turn.
    Pending,
    /// Is being worked.
    Running,
    /// The new release serves.
    Complete,
    /// The old release serves; `error` says why.
    Failed,
}

/// The replacement of one release by another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// Id.
    pub id: DeploymentId,
    /// App.
    pub app: AppId,
    /// What served before, if anything did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_release: Option<ReleaseId>,
    /// What shall serve.
    pub new_release: ReleaseId,
    /// How.
    pub strategy: Strategy,
    /// State.
    pub status: DeploymentStatus,
    /// Target counts by type.
    #[serde(default)]
    pub processes: BTreeMap<String, u32>,
    /// Seconds a step may take.
    pub deploy_timeout: u32,
    /// Why it failed, as a sentence for the developer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Made at.
    pub created_at: Timestamp,
    /// Ended at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
}

/// Body of `POST /apps/:app/deploy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewDeployment {
    /// The release to deploy.
    pub id: ReleaseId,
    /// Set by a push: the repository head that becomes current when the deployment completes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<NewHead>,
    /// What the release was made from: 409 if something else serves or is being deployed. Not compared if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Base>,
    /// The id the deployment gets, drawn by who asks: asked again, because the answer was lost, it is the same one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<DeploymentId>,
}

impl NewDeployment {
    /// Deploys a release, whatever served before.
    pub fn of(id: ReleaseId) -> Self {
        Self { id, head: None, base: None, deployment: None }
    }
}

/// Body of `POST /apps/:app/push`: step 3 of a push, one transaction. Answers the [`Deployment`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewPush {
    /// The slug.
    pub slug: NewArtifact,
    /// The image that runs it.
    pub image: NewArtifact,
    /// Process types the build declares; what the previous release says of a type (ports, env, limits) is kept.
    pub types: Vec<String>,
    /// Defaults for variables the app does not set, from the buildpack.
    #[serde(default)]
    pub config_vars: BTreeMap<String, String>,
    /// Meta of the release (`git`, `git.commit`, `buildpack`, `pusher`).
    #[serde(default)]
    pub meta: BTreeMap<String, String>,
    /// The new head.
    pub head: NewHead,
}

/// A change of a repository's head, by compare-and-set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewHead {
    /// Commit that is head now, if the caller saw it right; absent for an empty repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old: Option<String>,
    /// Commit to become head.
    pub new: String,
    /// Shelf paths of all packs the repository then consists of, oldest first.
    pub packs: Vec<String>,
    /// And of those it had, as the caller saw them: what came since stays. Callers before this say nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packs_old: Option<Vec<String>>,
}

/// Answer of `GET /apps/:app/repository`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repository {
    /// The deployed commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<String>,
    /// Shelf paths of its packs, oldest first.
    #[serde(default)]
    pub packs: Vec<String>,
    /// Branches and tags that are kept and not deployed, by their full names: the object each is at.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub refs: BTreeMap<String, String>,
}

/// Body of `PUT /apps/:app/repository/refs`: a push of what is kept and not deployed. Answers the [`Repository`]. 409 if
/// its packs are not what the caller saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefsChange {
    /// Full names of branches and tags: the object each is at from now on, or nothing for one that goes.
    pub refs: BTreeMap<String, Option<String>>,
    /// What it does to the packs; absent if nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packs: Option<PacksChange>,
}

/// A change of the packs of a repository, by compare-and-set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacksChange {
    /// Shelf paths of all its packs, as the caller saw them.
    pub old: Vec<String>,
    /// And as they are from now on.
    pub new: Vec<String>,
}

/// Body of `PUT /apps/:app/repository/lease` and of its `DELETE`. 409 while another holder has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryLease {
    /// Who pushes: a random token.
    pub holder: String,
    /// For how long; the holder renews at a third of it.
    pub ttl_seconds: u32,
}

/// Something that happened, kept for ever and in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Counts up; becomes visible in order.
    pub id: i64,
    /// The app concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<AppId>,
    /// `app app_deletion app_release deployment job scale_request release artifact key key_deletion route
    /// route_deletion provider provider_deletion resource release_deletion sink sink_deletion`. An `app_deletion` whose
    /// data has an `error` is one that was given up.
    pub object_type: String,
    /// Id of the object.
    pub object_id: String,
    /// The object after the change.
    #[serde(default)]
    pub data: serde_json::Value,
    /// Happened at.
    pub created_at: Timestamp,
}
