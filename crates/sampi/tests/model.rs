//! sampi against a model that is too simple to be wrong: which job is where.

#![expect(clippy::unwrap_used, reason = "a failed helper fails its test")]

use std::collections::{BTreeMap, BTreeSet};

use api::{
    cluster::{Capacity, Refusal, Tx},
    discoverd::Term,
    host::{Job, Limits},
    id::JobId,
};
use proptest::prelude::*;
use sampi::{Cluster, HostInfo, placed};

const MEMORY: u64 = 4;
const TERM: Term = Term { epoch: 1, revision: 5 };

fn host(n: u8) -> String {
    format!("host{n}")
}

fn job(n: u8) -> Job {
    let id = JobId::from(uuid(n));
    let mut job: Job =
        serde_json::from_value(serde_json::json!({ "id": id, "image": "i" })).unwrap();
    job.limits = Limits { memory: 1 + u64::from(n % 2), cpu: 100, ..Limits::default() };
    job
}

fn uuid(n: u8) -> uuid::Uuid {
    uuid::Uuid::from_u128(n.into())
}

fn info(jobs: impl IntoIterator<Item = u8>, as_of: u64) -> HostInfo {
    HostInfo {
        addr: "10.0.0.1:1113".into(),
        tags: BTreeMap::new(),
        capacity: Capacity { memory: MEMORY, cpu: 1000, addresses: 3 },
        jobs: jobs.into_iter().map(|n| (job(n).id, placed(&job(n)))).collect(),
        as_of,
    }
}

fn cluster(hosts: u8) -> Cluster {
    let mut cluster = Cluster::new(TERM, 0);
    for n in 0..hosts {
        assert!(cluster.upsert_host(&host(n), info([], 0)).is_empty());
    }
    cluster
}

fn adding(jobs: &[(u8, u8)]) -> Tx {
    let mut tx = Tx { term: TERM, ..Tx::default() };
    for &(on, n) in jobs {
        tx.add.entry(host(on)).or_default().push(job(n));
    }
    tx
}

/// What may happen to a cluster.
#[derive(Debug, Clone)]
enum Step {
    Commit { jobs: Vec<(u8, u8)>, stale: bool },
    Acknowledge,
    Lose,
    End { host: u8, job: u8 },
    Relist { host: u8, with: Vec<u8> },
    HostGone(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let commit = (prop::collection::vec((0u8..4, 0u8..12), 1..4), prop::bool::weighted(0.1))
        .prop_map(|(jobs, stale)| Step::Commit { jobs, stale });
    let step = prop_oneof![
        4 => commit,
        3 => Just(Step::Acknowledge),
        1 => Just(Step::Lose),
        2 => (0u8..4, 0u8..12).prop_map(|(host, job)| Step::End { host, job }),
        2 => (0u8..4, prop::collection::vec(0u8..12, 0..3))
            .prop_map(|(host, with)| Step::Relist { host, with }),
        1 => (0u8..4).prop_map(Step::HostGone),
    ];
    prop::collection::vec(step, 0..60)
}

/// The model: where each job is, and which orders are not yet acknowledged.
#[derive(Debug, Default)]
struct Model {
    places: BTreeMap<JobId, String>,
    under_way: BTreeSet<(String, JobId)>,
    /// Facts hosts reported beyond their capacity.
    overfull: bool,
}

impl Model {
    fn step(&mut self, cluster: &mut Cluster, step: Step) {
        match step {
            Step::Commit { jobs, stale } => self.commit(cluster, &jobs, stale),
            Step::Acknowledge => {
                if let Some((host, id)) = self.under_way.pop_first() {
                    assert!(cluster.taken(&host, id), "an order under way is still wanted");
                }
            }
            Step::Lose => {
                if let Some((host, id)) = self.under_way.pop_first() {
                    assert!(cluster.job_ended(&host, id));
                    self.places.remove(&id);
                }
            }
            Step::End { host: on, job: n } => {
                let (on, id) = (host(on), job(n).id);
                let was_there = self.places.get(&id) == Some(&on);
                assert_eq!(cluster.job_ended(&on, id), was_there);
                if was_there {
                    self.places.remove(&id);
                    self.under_way.remove(&(on, id));
                }
            }
            Step::Relist { host: on, with } => self.relist(cluster, &host(on), &with),
            Step::HostGone(on) => {
                let gone = cluster.remove_host(&host(on));
                assert!(gone.keys().all(|id| self.places.remove(id) == Some(host(on))));
                self.under_way.retain(|(place, _)| *place != host(on));
            }
        }
    }

    fn commit(&mut self, cluster: &mut Cluster, jobs: &[(u8, u8)], stale: bool) {
        let before = cluster.state();
        let mut tx = adding(jobs);
        tx.based_on = before.hosts.iter().map(|(id, host)| (id.clone(), host.version)).collect();
        if stale {
            tx.term.revision -= 1;
        }
        match cluster.commit(tx) {
            Ok(commit) => {
                assert!(!stale, "an old term is refused");
                for &(on, n) in jobs {
                    assert!(self.places.insert(job(n).id, host(on)).is_none());
                    self.under_way.insert((host(on), job(n).id));
                    assert!(commit.dispatch[&host(on)].start.contains(&job(n)));
                }
            }
            Err(rejected) => {
                assert!(!rejected.hosts.is_empty(), "a refusal has a reason");
                assert_eq!(cluster.state(), before, "a refused transaction changes nothing");
            }
        }
    }

    /// A listing that lacks what the host ended silently and has `with` besides.
    fn relist(&mut self, cluster: &mut Cluster, on: &str, with: &[u8]) {
        let elsewhere = |id: &JobId| self.places.get(id).is_some_and(|place| place != on);
        let foreign: Vec<JobId> = with.iter().map(|&n| job(n).id).filter(elsewhere).collect();
        let foreign: BTreeSet<JobId> = foreign.into_iter().collect();
        let refused = cluster.upsert_host(on, info(with.iter().copied(), cluster.moment()));
        assert_eq!(refused.into_iter().collect::<BTreeSet<_>>(), foreign);
        let under_way = &self.under_way;
        self.places.retain(|id, place| place != on || under_way.contains(&(on.into(), *id)));
        for &n in with {
            let id = job(n).id;
            if !foreign.contains(&id) {
                self.places.insert(id, on.into());
                self.under_way.remove(&(on.into(), id));
            }
        }
        self.overfull = true;
    }

    fn check(&self, cluster: &Cluster) {
        let mut got = BTreeMap::new();
        for (id, host) in cluster.state().hosts {
            let memory: u64 = host.jobs.values().map(|job| job.limits.memory).sum();
            assert!(self.overfull || memory <= MEMORY, "{id} is over its capacity");
            for job in host.jobs.keys() {
                assert!(got.insert(*job, id.clone()).is_none(), "{job} is on two hosts");
            }
        }
        assert_eq!(got, self.places);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_acknowledged_job_is_in_the_state_exactly_once(steps in steps()) {
        let (mut cluster, mut model) = (cluster(3), Model::default());
        for step in steps {
            model.step(&mut cluster, step);
            model.check(&cluster);
        }
    }

    #[test]
    fn no_commit_goes_over_capacity(jobs in prop::collection::vec((0u8..3, any::<u8>()), 0..40)) {
        let mut cluster = cluster(3);
        for one in jobs {
            let _ = cluster.commit(adding(&[one]));
            for host in cluster.state().hosts.values() {
                let memory: u64 = host.jobs.values().map(|job| job.limits.memory).sum();
                prop_assert!(memory <= MEMORY && host.jobs.len() <= 3);
            }
        }
    }
}

#[test]
fn each_refusal_names_its_host_and_reason() {
    let refusal = |cluster: &mut Cluster, tx: Tx| cluster.commit(tx).unwrap_err().hosts;
    let mut cluster = cluster(2);
    let version = cluster.version("host0");
    cluster.commit(adding(&[(0, 1)])).unwrap();
    assert_eq!(refusal(&mut cluster, adding(&[(7, 2)])), [(host(7), Refusal::Gone)].into());
    assert_eq!(refusal(&mut cluster, adding(&[(1, 1)])), [(host(1), Refusal::Duplicate)].into());
    assert_eq!(
        refusal(&mut cluster, adding(&[(1, 2), (1, 2)])),
        [(host(1), Refusal::Duplicate)].into()
    );
    assert_eq!(
        refusal(&mut cluster, adding(&[(0, 3), (0, 5)])),
        [(host(0), Refusal::NoRoom)].into()
    );
    let stale = Tx { based_on: [(host(0), version)].into(), ..adding(&[(0, 2)]) };
    assert_eq!(refusal(&mut cluster, stale), [(host(0), Refusal::Changed)].into());
    let old = Tx { term: Term { epoch: 1, revision: 4 }, ..adding(&[(0, 2)]) };
    assert_eq!(refusal(&mut cluster, old), [(String::new(), Refusal::OldTerm)].into());
}

#[test]
fn a_host_without_room_leaves_the_other_hosts_part_undone_too() {
    let mut cluster = cluster(2);
    cluster.commit(adding(&[(0, 1), (0, 3), (1, 0), (0, 5)])).unwrap_err();
    assert!(cluster.state().hosts.values().all(|host| host.jobs.is_empty()));
}

#[test]
fn a_deposed_planner_is_not_obeyed() {
    let mut cluster = cluster(1);
    cluster.obey(Term { epoch: 1, revision: 9 }).unwrap();
    cluster.obey(Term { epoch: 1, revision: 9 }).unwrap();
    cluster.obey(Term { epoch: 1, revision: 8 }).unwrap_err();
}

#[test]
fn a_listing_begun_before_an_acknowledgement_does_not_remove_the_job() {
    let mut cluster = cluster(1);
    let before = cluster.moment();
    cluster.commit(adding(&[(0, 1)])).unwrap();
    cluster.upsert_host("host0", info([], before));
    assert!(cluster.taken("host0", job(1).id), "the order is under way");
    cluster.upsert_host("host0", info([], before));
    assert_eq!(cluster.state().hosts["host0"].jobs.len(), 1, "the listing is older than the job");
    cluster.upsert_host("host0", info([], cluster.moment()));
    assert!(cluster.state().hosts["host0"].jobs.is_empty(), "this listing is not");
}

#[test]
fn a_stopping_job_holds_its_room_until_it_ended() {
    let mut cluster = cluster(1);
    cluster.commit(adding(&[(0, 1), (0, 3)])).unwrap();
    let stop = Tx { remove: [(host(0), vec![job(1).id])].into(), term: TERM, ..Tx::default() };
    assert_eq!(cluster.commit(stop).unwrap().dispatch["host0"].stop, [job(1).id]);
    cluster.commit(adding(&[(0, 5)])).unwrap_err();
    assert!(cluster.job_ended("host0", job(1).id));
    cluster.commit(adding(&[(0, 5)])).unwrap();
}

#[test]
fn a_listing_that_says_nothing_new_leaves_the_version_alone() {
    let mut cluster = cluster(1);
    let version = cluster.version("host0");
    cluster.upsert_host("host0", info([], cluster.moment()));
    assert_eq!(cluster.version("host0"), version);
    cluster.upsert_host("host0", info([1], cluster.moment()));
    assert!(cluster.version("host0") > version);
}

#[test]
fn a_host_that_comes_back_has_a_version_nobody_has_seen() {
    let mut cluster = cluster(1);
    cluster.commit(adding(&[(0, 1)])).unwrap();
    let seen = cluster.version("host0");
    cluster.remove_host("host0");
    for _ in 0..3 {
        cluster.upsert_host("host0", info([], cluster.moment()));
        assert!(cluster.version("host0") > seen);
        cluster.remove_host("host0");
    }
}
