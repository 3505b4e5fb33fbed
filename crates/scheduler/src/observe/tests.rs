//! What is remembered between rounds.

use std::sync::Arc;

use api::{
    cluster::{Capacity, HostState},
    host::{ActiveJob, EventKind, META_APP, META_RELEASE, META_TYPE, Status},
};

use super::*;

fn formation(app: u128, updated: i64) -> ExpandedFormation {
    let id = |n| Uuid::from_u128(n);
    let at = Timestamp::from_second(updated).unwrap();
    serde_json::from_value(serde_json::json!({
        "app": { "id": id(app), "name": "a", "created_at": at, "updated_at": at },
        "release": { "id": id(100 + app), "created_at": at },
        "artifacts": [],
        "processes": { "web": updated },
        "updated_at": at,
    }))
    .unwrap()
}

fn web(observed: &Observed, app: u128) -> Option<u32> {
    let known = observed.known();
    let releases = known.formations.as_ref()?.get(&Uuid::from_u128(app).into())?;
    releases.values().next().map(|formation| formation.processes["web"])
}

fn job(n: u128, status: Status) -> ActiveJob {
    let metadata = [(META_APP, 1u128), (META_RELEASE, 101)]
        .map(|(key, n)| (key, Uuid::from_u128(n).to_string()));
    let mut metadata: BTreeMap<&str, String> = metadata.into();
    metadata.insert(META_TYPE, "web".into());
    serde_json::from_value(serde_json::json!({
        "job": { "id": Uuid::from_u128(n), "image": "i", "metadata": metadata },
        "host_id": "host0",
        "status": status,
        "created_at": Timestamp::UNIX_EPOCH,
    }))
    .unwrap()
}

fn tell(observed: &Observed, event: EventKind, job: Option<ActiveJob>) {
    observed.told("host0", Event { event, job }, Timestamp::UNIX_EPOCH);
}

fn state() -> State {
    let host = HostState {
        version: 1,
        addr: "10.0.0.1:1113".into(),
        tags: BTreeMap::new(),
        capacity: Capacity { memory: 1 << 40, cpu: 1000, addresses: 100 },
        jobs: BTreeMap::new(),
    };
    State { hosts: [("host0".into(), Arc::new(host))].into(), ..State::default() }
}

fn snapshot(observed: &Observed) -> Option<Snapshot> {
    observed.snapshot(&state(), Uuid::nil(), Timestamp::UNIX_EPOCH)
}

#[test]
fn the_last_word_on_a_formation_counts_whatever_its_clock_says() {
    let observed = Observed::default();
    observed.listed(vec![formation(1, 5)]).unwrap();
    observed.changed(formation(1, 4));
    assert_eq!(web(&observed, 1), Some(4));
}

#[test]
fn a_release_that_runs_nothing_leaves_nothing_behind() {
    let observed = Observed::default();
    observed.listed(vec![formation(1, 5)]).unwrap();
    let mut over = formation(1, 6);
    over.processes.clear();
    observed.changed(over);
    let known = observed.known();
    let app = Uuid::from_u128(1).into();
    assert!(known.formations.as_ref().unwrap()[&app].is_empty(), "its jobs are not foreign");
}

#[test]
fn jobs_of_an_app_the_controller_does_not_list_are_left_over_after_ten_minutes() {
    let observed = Observed::default();
    let at = |minutes| Timestamp::UNIX_EPOCH + SignedDuration::from_mins(minutes);
    let job = JobId::from(Uuid::from_u128(1));
    let left_over = |minutes| {
        observed.foreign(&[job].into(), at(minutes));
        observed.snapshot(&state(), Uuid::nil(), at(minutes)).unwrap().left_over
    };
    observed.listed(Vec::new()).unwrap();
    observed.opened("host0");
    tell(&observed, EventKind::Synced, None);
    left_over(0);
    assert!(left_over(10).is_empty(), "a controller that lists nothing is not believed");
    observed.listed(vec![formation(2, 5)]).unwrap();
    assert_eq!(left_over(10), [job].into());
    observed.formations_lost();
    assert!(left_over(11).is_empty(), "its listing may be old");
    observed.listed(vec![formation(2, 5)]).unwrap();
    assert_eq!(left_over(12), [job].into());
    observed.foreign(&BTreeSet::new(), at(13));
    assert!(left_over(14).is_empty(), "it was gone, and counts anew");
}

#[test]
fn what_is_ordered_counts_until_a_state_was_read_that_holds_it() {
    let observed = Observed::default();
    observed.listed(Vec::new()).unwrap();
    observed.opened("host0");
    tell(&observed, EventKind::Synced, None);
    let ordered = job(1, Status::Starting).job;
    let id = ordered.id;
    observed.begin_look();
    assert!(observed.begin_order("host0", &[ordered], &[], Timestamp::UNIX_EPOCH));
    let seen = || snapshot(&observed).unwrap().hosts["host0"].jobs.contains_key(&id);
    assert!(seen());
    observed.end_order("host0", &[id].into(), false, Timestamp::UNIX_EPOCH);
    assert!(seen(), "the state that was read may be older than the order");
    observed.begin_look();
    assert!(!seen());
    let later = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(2);
    observed.begin_order("host0", &[], &[], Timestamp::UNIX_EPOCH);
    let slow = observed.snapshot(&state(), Uuid::nil(), later).unwrap();
    assert!(slow.hosts["host0"].slow);
}

#[test]
fn an_app_that_is_not_listed_any_more_is_deleted_and_not_foreign() {
    let observed = Observed::default();
    observed.deleted(vec![Uuid::from_u128(3).into()]);
    observed.listed(vec![formation(1, 5), formation(2, 5)]).unwrap();
    observed.listed(vec![formation(2, 5)]).unwrap();
    let known = observed.known();
    let formations = Arc::clone(known.formations.as_ref().unwrap());
    let counts: Vec<usize> = formations.values().map(BTreeMap::len).collect();
    assert_eq!(counts, [0, 1, 0]);
}

#[test]
fn a_controller_that_suddenly_lists_nothing_is_not_believed() {
    let observed = Observed::default();
    observed.listed(vec![formation(1, 5)]).unwrap();
    observed.listed(Vec::new()).unwrap_err();
    assert_eq!(web(&observed, 1), Some(5));
}

#[test]
fn nothing_is_decided_before_formations_and_jobs_were_listed() {
    let observed = Observed::default();
    assert!(snapshot(&observed).is_none());
    observed.listed(Vec::new()).unwrap();
    assert!(snapshot(&observed).is_none(), "the host has not listed its jobs");
    observed.opened("host0");
    tell(&observed, EventKind::Synced, None);
    assert!(snapshot(&observed).is_some());
}

#[test]
fn a_host_that_never_answers_holds_the_others_up_for_ten_seconds_only() {
    let observed = Observed::default();
    observed.listed(Vec::new()).unwrap();
    assert!(snapshot(&observed).is_none());
    let later = Timestamp::UNIX_EPOCH + SYNC_LIMIT;
    let snapshot = observed.snapshot(&state(), Uuid::nil(), later);
    assert!(!snapshot.unwrap().hosts["host0"].connected);
}

#[test]
fn an_ordered_stop_is_remembered_until_its_host_tells_of_it() {
    let observed = Observed::default();
    observed.listed(Vec::new()).unwrap();
    observed.opened("host0");
    tell(&observed, EventKind::Current, Some(job(1, Status::Running)));
    tell(&observed, EventKind::Synced, None);
    let id = JobId::from(Uuid::from_u128(1));
    observed.stopping(&[id], Timestamp::UNIX_EPOCH);
    assert!(snapshot(&observed).unwrap().stops.contains(&id));
    tell(&observed, EventKind::Stop, Some(job(1, Status::Crashed)));
    let after = snapshot(&observed).unwrap();
    assert!(after.stops.is_empty());
    assert!(after.hosts["host0"].jobs[&id].ending().unwrap().asked, "it was told to");
}

#[test]
fn of_the_jobs_a_host_may_not_have_taken_those_in_the_state_were() {
    let observed = Observed::default();
    observed.listed(Vec::new()).unwrap();
    observed.opened("host0");
    tell(&observed, EventKind::Synced, None);
    let (taken, lost) = (job(1, Status::Starting).job, job(2, Status::Starting).job);
    let both = [taken.clone(), lost.clone()];
    observed.not_taken("host0", &both, |_| "no room", Timestamp::UNIX_EPOCH);
    assert!(snapshot(&observed).unwrap().hosts["host0"].jobs.is_empty(), "it may be older");
    observed.begin_look();
    let mut state = state();
    let host = state.hosts.get_mut("host0").unwrap();
    Arc::make_mut(host).jobs.insert(taken.id, sampi::placed(&taken));
    let snapshot = observed.snapshot(&state, Uuid::nil(), Timestamp::UNIX_EPOCH).unwrap();
    let jobs = &snapshot.hosts["host0"].jobs;
    assert_eq!(jobs[&taken.id].phase, Phase::Ordered);
    assert_eq!(jobs[&lost.id].error.as_deref(), Some("no room"));
}

#[test]
fn what_was_replaced_stays_so_although_the_replacement_s_host_is_gone() {
    let observed = Observed::default();
    observed.listed(Vec::new()).unwrap();
    observed.opened("host0");
    tell(&observed, EventKind::Synced, None);
    let mut replacement = job(2, Status::Starting).job;
    let ended = JobId::from(Uuid::from_u128(1));
    replacement.metadata.insert(META_REPLACES.into(), ended.to_string());
    observed.taken(&[replacement], Timestamp::UNIX_EPOCH);
    assert_eq!(snapshot(&observed).unwrap().replaced, [ended].into());
    let later = Timestamp::UNIX_EPOCH + REPLACED_KEPT + SignedDuration::from_secs(1);
    let later = observed.snapshot(&state(), Uuid::nil(), later).unwrap();
    assert!(later.replaced.is_empty());
}

#[test]
fn a_host_that_lists_its_jobs_before_the_state_names_it_is_heard() {
    let observed = Observed::default();
    observed.listed(Vec::new()).unwrap();
    observed.opened("host0");
    let nobody = State::default();
    observed.snapshot(&nobody, Uuid::nil(), Timestamp::UNIX_EPOCH).unwrap();
    tell(&observed, EventKind::Current, Some(job(1, Status::Running)));
    tell(&observed, EventKind::Synced, None);
    let snapshot = snapshot(&observed).unwrap();
    assert!(snapshot.hosts["host0"].connected && snapshot.hosts["host0"].jobs.len() == 1);
}
