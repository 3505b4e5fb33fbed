//! What hosts tell, and how it joins the cluster's state.

use api::{
    cluster::{Capacity, HostState, Placed},
    host::{ActiveJob, Event, EventKind, Job, META_APP, META_RELEASE, META_TYPE, Status},
};

use super::*;

fn active(n: u128, status: Status) -> ActiveJob {
    let metadata = [(META_APP, app(0).to_string()), (META_RELEASE, id(100).to_string())];
    let mut metadata: BTreeMap<String, String> =
        metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    metadata.insert(META_TYPE.into(), "web".into());
    let job: Job = serde_json::from_value(
        serde_json::json!({ "id": id(n), "image": "flynn/slugrunner", "metadata": metadata }),
    )
    .unwrap();
    let ended = !status.is_active();
    ActiveJob {
        job,
        host_id: "host0".into(),
        container_id: String::new(),
        internal_ip: None,
        status,
        created_at: ago(10),
        started_at: Some(ago(9)),
        ended_at: ended.then(|| ago(1)),
        exit_status: ended.then_some(1),
        error: None,
        end_reason: None,
        host_restarts: 0,
    }
}

fn tell(view: &mut View, event: EventKind, job: Option<ActiveJob>) {
    view.apply(Event { event, job }, |_| false, now());
}

fn listed(jobs: impl IntoIterator<Item = ActiveJob>) -> View {
    let mut view = View::default();
    relist(&mut view, jobs);
    view
}

fn relist(view: &mut View, jobs: impl IntoIterator<Item = ActiveJob>) {
    view.opened();
    for job in jobs {
        tell(view, EventKind::Current, Some(job));
    }
    tell(view, EventKind::Synced, None);
}

fn state(jobs: impl IntoIterator<Item = u128>) -> HostState {
    HostState {
        version: 3,
        addr: "10.0.0.1:1113".into(),
        tags: BTreeMap::new(),
        capacity: Capacity { memory: 8 << 30, cpu: 4000, addresses: 100 },
        jobs: jobs
            .into_iter()
            .map(|n| {
                let metadata = active(n, Status::Running).job.metadata;
                (id(n), Placed { metadata, limits: Limits::default() })
            })
            .collect(),
    }
}

#[test]
fn an_ending_after_a_stop_is_asked_for_and_any_other_is_not() {
    let mut view = listed([active(1, Status::Running), active(2, Status::Running)]);
    tell(&mut view, EventKind::Stopping, Some(active(1, Status::Stopping)));
    tell(&mut view, EventKind::Stop, Some(active(1, Status::Crashed)));
    tell(&mut view, EventKind::Stop, Some(active(2, Status::Done)));
    let ending = |n| view.jobs[&id(n)].ending().unwrap().clone();
    assert!(ending(1).asked && !ending(1).crashed);
    assert!(!ending(2).asked && !ending(2).crashed, "it left by itself, with status 0");
}

#[test]
fn what_ended_while_nobody_listened_is_seen_in_the_next_listing() {
    let mut view = listed([active(1, Status::Running), active(2, Status::Running)]);
    view.lost();
    assert!(!view.connected && view.jobs[&id(1)].phase == Phase::Up, "what was told stands");
    relist(&mut view, [active(1, Status::Crashed)]);
    assert!(view.connected);
    assert!(view.jobs[&id(1)].ending().unwrap().crashed);
    assert!(view.jobs[&id(2)].ending().unwrap().forgotten);
}

#[test]
fn what_happens_while_a_host_lists_belongs_to_the_listing() {
    let mut view = View::default();
    view.opened();
    tell(&mut view, EventKind::Create, Some(active(1, Status::Starting)));
    tell(&mut view, EventKind::Synced, None);
    assert_eq!(view.jobs[&id(1)].phase, Phase::Starting);
}

#[test]
fn a_crash_is_remembered_although_its_host_forgets_it() {
    let mut view = listed([active(1, Status::Crashed)]);
    tell(&mut view, EventKind::Cleanup, Some(active(1, Status::Crashed)));
    assert!(view.jobs[&id(1)].ending().unwrap().crashed);
    view.prune(now() + SignedDuration::from_mins(11));
    assert!(view.jobs.is_empty());
}

#[test]
fn a_job_in_the_state_counts_before_its_host_tells_of_it_but_not_for_ever() {
    let (view, mut untold) = (listed([]), BTreeMap::new());
    let mut at = |now| merge(&state([1]), Some(&view), &mut untold, now).jobs.len();
    assert_eq!(at(now()), 1);
    assert_eq!(at(now() + SignedDuration::from_secs(9)), 1);
    assert_eq!(at(now() + SignedDuration::from_secs(11)), 0);
}

#[test]
fn a_job_on_a_host_that_does_not_answer_counts_for_as_long_as_the_host_is_there() {
    let mut view = listed([]);
    view.lost();
    let mut untold = BTreeMap::new();
    let mut at = |now| merge(&state([1]), Some(&view), &mut untold, now).jobs.len();
    assert_eq!(at(now()), 1);
    assert_eq!(at(now() + SignedDuration::from_secs(60)), 1);
}

#[test]
fn the_hosts_word_on_a_job_wins_and_its_room_is_counted_once() {
    let view = listed([active(1, Status::Crashed), active(2, Status::Running)]);
    let host = merge(&state([1]), Some(&view), &mut BTreeMap::new(), now());
    assert!(host.jobs[&id(1)].ending().is_some());
    assert_eq!(host.room.memory, 6 << 30, "one in the state, and one the state does not have");
}
