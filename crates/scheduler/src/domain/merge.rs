//! One picture out of two: the cluster's state and what a host tells.

use std::{collections::BTreeMap, sync::Arc};

use api::{cluster::HostState, id::JobId};
use jiff::{SignedDuration, Timestamp};
use sampi::Room;

use super::{
    job::{JobView, Phase},
    snapshot::HostView,
    view::View,
};

/// A job in the state of which its host, though it answers, has said nothing for so long was not taken.
const UNTOLD_LIMIT: SignedDuration = SignedDuration::from_secs(10);

/// A host as its part of the state and its own word give it. The host's word on a job wins; the state adds what was
/// ordered and not told of yet. `untold` remembers since when each such job of the host is missing in its word.
pub fn merge(
    state: &HostState,
    view: Option<&View>,
    untold: &mut BTreeMap<JobId, Timestamp>,
    now: Timestamp,
) -> HostView {
    let mut jobs = view.map(|view| view.jobs.clone()).unwrap_or_default();
    let mut room = Room::of(state);
    for (id, job) in jobs.iter() {
        if !state.jobs.contains_key(id) && job.ending().is_none() {
            room.take(&job.limits);
        }
    }
    let connected = view.is_some_and(|view| view.connected);
    untold.retain(|id, _| state.jobs.contains_key(id));
    for (&id, placed) in &state.jobs {
        if jobs.contains_key(&id) {
            untold.remove(&id);
            continue;
        }
        let since = *untold.entry(id).or_insert(now);
        if !connected {
            untold.insert(id, now);
        } else if now.duration_since(since) > UNTOLD_LIMIT {
            continue;
        }
        let ordered = JobView::ordered(&placed.metadata, &placed.limits);
        Arc::make_mut(&mut jobs).insert(id, ordered);
    }
    debug_assert!(jobs.values().all(|job| job.phase != Phase::Ordered || job.created_at.is_none()));
    HostView {
        version: state.version,
        room,
        connected,
        draining: state.is_draining(),
        full: state.is_full(),
        slow: false,
        tags: state.tags.clone(),
        jobs,
    }
}
