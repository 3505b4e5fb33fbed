//! All that a plan is made from: plain data, one instant.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use api::{
    controller::{ExpandedFormation, META_SYSTEM_APP},
    discoverd::Term,
    id::{AppId, JobId, ReleaseId},
};
use jiff::Timestamp;
use sampi::Room;
use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{
    job::{JobView, Kind},
    plan::Waiting,
};

/// Formations by app and release. An app whose formations were all deleted is still there: what runs of it is to stop,
/// while a job of an app that was never listed is none of our business.
pub type Formations = BTreeMap<AppId, BTreeMap<ReleaseId, Arc<ExpandedFormation>>>;

/// The cluster at one instant.
#[derive(Debug, Clone, Serialize)]
pub struct Snapshot {
    /// The instant.
    pub now: Timestamp,
    /// Ids of new jobs are derived from it.
    pub seed: Uuid,
    /// Names this scheduler's life: ids of replacements are derived from it.
    pub life: Uuid,
    /// Term of the leader that served the state.
    pub term: Term,
    /// Hosts by id.
    pub hosts: BTreeMap<String, HostView>,
    /// What should run.
    #[serde(serialize_with = "without_env")]
    pub formations: Arc<Formations>,
    /// Jobs that were told to stop, which their hosts may not have said yet.
    pub stops: BTreeSet<JobId>,
    /// What the last plan let wait: it keeps its ids.
    pub waited: Vec<Waiting>,
    /// Ended jobs that were replaced, also where the replacement is on a host that is gone.
    pub replaced: BTreeSet<JobId>,
    /// Times an ended job's replacement was ordered without a certain answer: perhaps it was taken.
    pub attempts: BTreeMap<JobId, u32>,
    /// The host that has the data of each volume, also where it is away.
    pub volumes: BTreeMap<String, String>,
    /// Jobs whose order is under way: they count, and nothing is known of them yet.
    pub ordering: BTreeSet<JobId>,
    /// Jobs of apps that the controller has not known for long: left over from an app that was deleted.
    pub left_over: BTreeSet<JobId>,
    /// Jobs that were let take another's place, as the last plan found them.
    pub places: BTreeMap<JobId, Place>,
}

/// What has become of the place of another that a job was let take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// The other is still wanted.
    Taking,
    /// Since then neither is wanted.
    Unconfirmed(Timestamp),
    /// A formation has wanted the job.
    Confirmed,
}

/// A host at one instant.
#[derive(Debug, Clone, Serialize)]
pub struct HostView {
    /// Version of its part of the state.
    pub version: u64,
    /// What is free on it.
    #[serde(serialize_with = "room")]
    pub room: Room,
    /// Whether it tells of its jobs at present. If not, nothing is placed on it.
    pub connected: bool,
    /// Whether it is to be emptied.
    pub draining: bool,
    /// Whether its disk is full.
    pub full: bool,
    /// Whether it has had an order for longer than most take: others get what can run elsewhere.
    pub slow: bool,
    /// Tags that placement may ask for.
    pub tags: BTreeMap<String, String>,
    /// Its jobs, and those that ended lately.
    pub jobs: Arc<BTreeMap<JobId, JobView>>,
}

/// Environments hold secrets: a snapshot that was saved does not.
fn without_env<S: Serializer>(formations: &Formations, serializer: S) -> Result<S::Ok, S::Error> {
    let stripped = formations.values().flat_map(BTreeMap::values).map(|formation| {
        let mut formation = ExpandedFormation::clone(formation);
        formation.release.env.values_mut().for_each(String::clear);
        for process in formation.release.processes.values_mut() {
            process.env.values_mut().for_each(String::clear);
        }
        formation
    });
    serializer.collect_seq(stripped)
}

fn room<S: Serializer>(room: &Room, serializer: S) -> Result<S::Ok, S::Error> {
    (room.memory, room.cpu, room.addresses).serialize(serializer)
}

impl Snapshot {
    /// The id of the `n`th new job of a kind, of an omni one on that host.
    pub fn new_id(&self, kind: &Kind, only: Option<&str>, n: usize) -> JobId {
        let Kind { app, release, name, .. } = kind;
        let only = only.unwrap_or_default();
        derived(&format!("{} {app} {release} {name} {only} {n}", self.seed))
    }

    /// The id of the job that replaces an ended one: the same in each of a scheduler's plans, so that it waits under one
    /// id, until it was ordered. No id may be on two hosts: after an order that was perhaps carried out the next one has
    /// another, and so has another scheduler's, which may not know of a replacement on a host that is away.
    pub fn replacement_id(&self, ended: JobId) -> JobId {
        let attempt = self.attempts.get(&ended).copied().unwrap_or(0);
        derived(&format!("{} replaces {ended} {attempt}", self.life))
    }

    /// Whether an app is a part of Flynn itself.
    pub fn is_system(&self, app: AppId) -> bool {
        let mut formations = self.formations.get(&app).into_iter().flat_map(BTreeMap::values);
        formations.any(|it| it.app.meta.get(META_SYSTEM_APP).is_some_and(|part| part == "true"))
    }

    /// The formation of a kind, if there is one with processes.
    pub fn formation(&self, kind: &Kind) -> Option<&Arc<ExpandedFormation>> {
        self.formations.get(&kind.app)?.get(&kind.release)
    }
}

fn derived(from: &str) -> JobId {
    let digest = Sha256::digest(from);
    let bytes = digest.first_chunk().expect("SHA-256 has 32 bytes");
    uuid::Builder::from_random_bytes(*bytes).into_uuid().into()
}
