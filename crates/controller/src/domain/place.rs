//! Where a one-off job goes.

use api::{cluster::State, host::Job};

/// Hosts that have room for a job, the one with the fewest jobs first.
pub(crate) fn order(state: &State, job: &Job) -> Vec<String> {
    let mut hosts: Vec<_> = state
        .hosts
        .iter()
        .filter(|(_, host)| {
            let used: u64 = host.jobs.values().map(|placed| placed.limits.memory).sum();
            !host.is_draining() && used.saturating_add(job.limits.memory) <= host.capacity.memory
        })
        .collect();
    hosts.sort_by_key(|(id, host)| (host.jobs.len(), (*id).clone()));
    hosts.into_iter().map(|(id, _)| id.clone()).collect()
}
