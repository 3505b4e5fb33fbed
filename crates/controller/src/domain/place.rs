//! Where a one-off job goes.

use api::{cluster::State, host::Job};

/// Hosts that have room for a job, the one with the fewest jobs first.
pub(crate) fn order(state: &State, job: &Job) -> Vec<String> {
    let mut hosts: Vec<_> = state
        .hosts
        .iter()
        .filter(|(_, host)| {
            let used: u64 = host.jobs.values().map(|placed| placed.limits.memory).sum();
            let takes = !host.is_draining() && !host.is_full();
            takes && used.saturating_add(job.limits.memory) <= host.capacity.memory
        })
        .collect();
    hosts.sort_by_key(|(id, host)| (host.jobs.len(), (*id).clone()));
    hosts.into_iter().map(|(id, _)| id.clone()).collect()
}

/// Hosts whose disk is full.
pub(crate) fn full(state: &State) -> Vec<&str> {
    let full = state.hosts.iter().filter(|(_, host)| host.is_full());
    full.map(|(id, _)| id.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use api::{
        cluster::{Capacity, HostState, TAG_FULL},
        id::JobId,
    };

    use super::*;

    #[test]
    fn a_host_whose_disk_is_full_is_passed_over_and_named() {
        let host = |tags: &[&str]| HostState {
            version: 1,
            addr: String::new(),
            tags: tags.iter().map(|tag| ((*tag).to_owned(), "yes".to_owned())).collect(),
            capacity: Capacity { memory: 4 << 30, cpu: 4000, addresses: 9 },
            jobs: [].into(),
        };
        let hosts = [("a", host(&[TAG_FULL])), ("b", host(&[]))];
        let hosts = hosts.map(|(id, host)| (id.to_owned(), host.into()));
        let state = State { hosts: hosts.into(), ..State::default() };
        let job = serde_json::json!({ "id": JobId::random(), "image": "flynn/test" });
        let job: Job = serde_json::from_value(job).expect("a job");
        assert_eq!(order(&state, &job), ["b"]);
        assert_eq!(full(&state), ["a"]);
    }
}
