//! Single rules, by example.

use api::controller::JobState;

use super::*;
use crate::domain::reports;

/// Of a scheduler's first attempt.
fn replacement_id(ended: JobId) -> JobId {
    snapshot([], []).replacement_id(ended)
}

fn one_host(
    jobs: impl IntoIterator<Item = (JobId, JobView)>,
    formations: impl IntoIterator<Item = Arc<ExpandedFormation>>,
) -> Snapshot {
    snapshot([("host0".into(), host(50, jobs))], formations)
}

fn stops(snapshot: &Snapshot) -> Vec<JobId> {
    plan(snapshot).stop.into_values().flatten().collect()
}

#[test]
fn what_does_not_serve_yet_is_stopped_first_then_the_newest() {
    let web = || kind(0, "web");
    let aged = |seconds| JobView { created_at: Some(ago(seconds)), ..job(web(), Phase::Up) };
    let jobs = || {
        let starting = JobView { created_at: Some(ago(500)), ..job(web(), Phase::Starting) };
        [(id(1), aged(300)), (id(2), aged(100)), (id(3), aged(200)), (id(4), starting)]
    };
    let to = |count| stops(&one_host(jobs(), [formation(0, &[("web", count, false)])]));
    assert_eq!(to(3), [id(4)]);
    assert_eq!(to(2), [id(4), id(2)]);
    assert_eq!(to(1), [id(4), id(2), id(3)]);
}

#[test]
fn a_job_told_to_stop_is_not_told_again_and_not_missed() {
    let jobs = (1..=3).map(|n| (id(n), job(kind(0, "web"), Phase::Up)));
    let mut snapshot = one_host(jobs, [formation(0, &[("web", 2, false)])]);
    snapshot.stops.insert(id(3));
    assert!(plan(&snapshot).is_empty());
    // Nor is one that has crashed and that its host would restart.
    let failed = JobView { resurrect: true, ..job(kind(0, "web"), crashed(ago(5))) };
    let mut unwanted = one_host([(id(1), failed)], [formation(0, &[("web", 0, false)])]);
    assert_eq!(stops(&unwanted), [id(1)]);
    unwanted.stops.insert(id(1));
    assert!(plan(&unwanted).is_empty());
}

#[test]
fn the_jobs_of_a_deleted_formation_and_of_an_unknown_release_are_stopped() {
    let other = Kind::new(kind(0, "web").app, uuid(999).into(), "web");
    let jobs = [(id(1), job(kind(0, "web"), Phase::Up)), (id(2), job(other, Phase::Up))];
    let deleted = formation(0, &[]);
    assert_eq!(stops(&one_host(jobs, [deleted])), [id(1), id(2)]);
}

#[test]
fn a_foreign_job_is_left_alone_and_named() {
    let snapshot = one_host([(id(1), job(kind(9, "web"), Phase::Up))], [formation(0, &[])]);
    let plan = plan(&snapshot);
    assert!(plan.is_empty());
    assert_eq!(plan.foreign, [id(1)].into());
    assert!(reports(&snapshot, &plan).is_empty());
}

#[test]
fn a_one_off_job_is_only_reported() {
    let mut one_off = job(kind(0, ""), Phase::Up);
    one_off.owner = Owner::OneOff { app: app(9), release: uuid(5).into() };
    let snapshot = one_host([(id(1), one_off)], [formation(0, &[])]);
    let plan = plan(&snapshot);
    assert!(plan.is_empty() && plan.foreign.is_empty());
    let report = reports(&snapshot, &plan)[&id(1)].clone().unwrap();
    assert_eq!((report.kind.as_str(), report.state), ("", JobState::Up));
    assert_eq!(report.id, format!("host0-{}", id(1)));
}

#[test]
fn the_first_crash_is_mended_at_once() {
    let web = kind(0, "web");
    let snapshot =
        one_host([(id(1), job(web, crashed(now())))], [formation(0, &[("web", 1, false)])]);
    let started = &plan(&snapshot).start["host0"];
    assert_eq!(started[0].id, replacement_id(id(1)));
    assert_eq!(started[0].restarts, 1);
}

#[test]
fn a_crash_loop_waits_and_says_so() {
    let looping = JobView { restarts: 3, ..job(kind(0, "web"), crashed(ago(1))) };
    let snapshot = one_host([(id(1), looping)], [formation(0, &[("web", 1, false)])]);
    let plan = plan(&snapshot);
    assert!(plan.is_empty());
    assert_eq!(plan.wake_at, Some(now() + SignedDuration::from_secs(3)));
    let report = reports(&snapshot, &plan)[&replacement_id(id(1))].clone().unwrap();
    assert_eq!((report.state, report.run_at), (JobState::Pending, plan.wake_at));
    assert_eq!(
        report.host_error.as_deref(),
        Some(
            "it ended 4 times, the last time with exit status 1; see its log. \
             It is tried again at 2026-01-01T00:00:03Z"
        )
    );
}

#[test]
fn one_looping_process_does_not_hold_up_the_replacement_of_another() {
    let looping = JobView { restarts: 6, ..job(kind(0, "web"), crashed(ago(5))) };
    let jobs = [(id(1), looping), (id(2), job(kind(0, "web"), crashed(now())))];
    let first = one_host(jobs, [formation(0, &[("web", 2, false)])]);
    let planned = plan(&first);
    assert_eq!(planned.start["host0"][0].id, replacement_id(id(2)));
    let second = plan(&first.apply(&planned));
    assert!(second.is_empty(), "the other one waits on: {second:?}");
    assert_eq!(second.waiting[0].id, replacement_id(id(1)));
}

#[test]
fn crashes_are_forgiven_after_five_minutes_up() {
    let mut recovered = JobView { restarts: 9, ..job(kind(0, "web"), crashed(now())) };
    if let Phase::Ended(ending) = &mut recovered.phase {
        ending.started_at = Some(ago(301));
    }
    let snapshot = one_host([(id(1), recovered)], [formation(0, &[("web", 1, false)])]);
    assert_eq!(plan(&snapshot).start["host0"][0].restarts, 1);
}

#[test]
fn a_resurrected_job_is_left_to_its_host_for_as_long_as_that_may_take() {
    let ended = |at: Timestamp, forgotten| {
        let mut job = JobView { resurrect: true, ..job(kind(0, "web"), crashed(at)) };
        if let Phase::Ended(ending) = &mut job.phase {
            ending.forgotten = forgotten;
        }
        let wanted = formation(0, &[("web", 1, false)]);
        plan(&one_host([(id(1), job)], [wanted])).start.len()
    };
    assert_eq!(ended(ago(60), false), 0);
    assert_eq!(ended(ago(200), false), 1);
    assert_eq!(ended(ago(9), true), 0);
    assert_eq!(ended(ago(11), true), 1);
}

#[test]
fn what_finds_no_room_waits_under_one_id_and_says_why() {
    let wanted = || [formation(0, &[("web", 2, false)])];
    let full = snapshot([("host0".into(), host(1, []))], wanted());
    let first = plan(&full);
    assert_eq!(first.start["host0"].len(), 1);
    let reason = &first.waiting[0].reason;
    assert!(
        reason.contains("host0 has less than the 1024 MiB of memory free that it needs"),
        "{reason}"
    );
    let after = full.apply(&first);
    assert_eq!(plan(&after).waiting, first.waiting);
    let report = reports(&after, &first)[&first.waiting[0].id].clone().unwrap();
    assert_eq!((report.state, report.host_id.as_ref()), (JobState::Pending, None));
}

#[test]
fn what_waited_and_is_started_now_is_not_reported_as_gone() {
    let looping = JobView { restarts: 3, ..job(kind(0, "web"), crashed(ago(60))) };
    let snapshot = one_host([(id(1), looping)], [formation(0, &[("web", 1, false)])]);
    let plan = plan(&snapshot);
    assert_eq!(plan.start["host0"][0].id, replacement_id(id(1)));
    assert_eq!(reports(&snapshot, &plan)[&replacement_id(id(1))], None, "nothing new is known");
}

#[test]
fn a_release_that_cannot_be_run_waits_and_says_why() {
    let mut broken = ExpandedFormation::clone(&formation(0, &[("web", 1, false)]));
    broken.artifacts.clear();
    let plan = plan(&one_host([], [Arc::new(broken)]));
    assert!(plan.waiting[0].reason.contains("has no image"), "{:?}", plan.waiting);
}

#[test]
fn without_hosts_everything_waits() {
    let plan = plan(&snapshot([], [formation(0, &[("web", 1, false)])]));
    assert_eq!(plan.waiting[0].reason, "there is no host to run it on");
}

#[test]
fn what_runs_on_a_host_that_is_drained_stops_when_something_serves_in_its_place() {
    let drained = |jobs: Vec<(JobId, JobView)>| HostView { draining: true, ..host(5, jobs) };
    let up = |n| (id(n), job(kind(0, "web"), Phase::Up));
    let formation = || [formation(0, &[("web", 2, false)])];
    let here = || ("a".to_owned(), drained(vec![up(1), up(2)]));
    let first = plan(&snapshot([here(), ("b".into(), host(5, []))], formation()));
    assert_eq!(first.start["b"].len(), 2);
    assert!(first.stop.is_empty(), "{first:?}");
    let starting = (id(4), job(kind(0, "web"), Phase::Starting));
    let half = plan(&snapshot([here(), ("b".into(), host(5, [up(3), starting]))], formation()));
    assert_eq!((half.stop["a"].len(), half.start.len()), (1, 0));
    let done = plan(&snapshot([here(), ("b".into(), host(5, [up(3), up(4)]))], formation()));
    assert_eq!(done.stop["a"].len(), 2);
    // Nobody has room: everything goes on where it is, and says why.
    let alone = plan(&snapshot([here()], formation()));
    assert!(alone.is_empty());
    assert!(alone.waiting[0].reason.contains("a is being drained"), "{alone:?}");
    // What keeps data stays where the data is.
    let bound = (id(1), bound(kind(0, "web"), Phase::Up));
    let hosts = [("a".to_owned(), drained(vec![bound])), ("b".into(), host(5, [up(2)]))];
    assert!(plan(&snapshot(hosts, formation())).is_empty());
}

#[test]
fn a_host_whose_disk_is_full_keeps_what_it_has_and_gets_nothing_but_what_is_critical() {
    let full = |jobs: Vec<(JobId, JobView)>| HostView { full: true, ..host(5, jobs) };
    let here = || ("a".to_owned(), full(vec![(id(1), job(kind(0, "web"), Phase::Up))]));
    let wanted = || formation(0, &[("web", 2, false)]);
    let first = plan(&snapshot([here(), ("b".into(), host(5, []))], [wanted()]));
    assert_eq!((first.start["b"].len(), first.start.len(), first.stop.len()), (1, 1, 0));
    let alone = plan(&snapshot([here()], [wanted()]));
    assert!(alone.is_empty());
    assert!(alone.waiting[0].reason.contains("a has no disk free"), "{alone:?}");
    let fewer = plan(&snapshot([here()], [formation(0, &[("web", 0, false)])]));
    assert_eq!(fewer.stop["a"], [id(1)], "scaling down needs no disk");
    let mut critical = ExpandedFormation::clone(&wanted());
    critical.release.processes.values_mut().for_each(|process| process.resurrect = true);
    assert_eq!(plan(&snapshot([here()], [Arc::new(critical)])).start["a"].len(), 1);
}

#[test]
fn an_omni_process_runs_once_on_every_host() {
    let hosts = (0..3).map(|n| (format!("host{n}"), host(5, [])));
    let snapshot = snapshot(hosts, [formation(0, &[("web", 1, true)])]);
    let plan = plan(&snapshot);
    assert_eq!(plan.start.values().map(Vec::len).collect::<Vec<_>>(), [1, 1, 1]);
}

#[test]
fn a_job_in_the_place_of_another_is_left_alone_and_counts_once_that_one_is_gone() {
    let old = kind(0, "db");
    let new = Kind::new(old.app, uuid(999).into(), "db");
    let in_place = |phase| {
        let mut job = job(new.clone(), phase);
        job.in_place_of = Some(old.id());
        (id(2), job)
    };
    let wanted = || [formation(0, &[("db", 1, false)])];
    for phase in [Phase::Ordered, Phase::Starting, Phase::Up] {
        // Both are there, or only the new one is: nothing is started and nothing stopped.
        let both = [(id(1), job(old.clone(), Phase::Starting)), in_place(phase.clone())];
        assert!(plan(&one_host(both, wanted())).is_empty(), "{phase:?}");
        assert!(plan(&one_host([in_place(phase.clone())], wanted())).is_empty(), "{phase:?}");
    }
    let failed = [(id(1), job(old.clone(), Phase::Up)), in_place(crashed(ago(5)))];
    assert!(plan(&one_host(failed, wanted())).is_empty());
    let gone = plan(&one_host([in_place(crashed(ago(5)))], wanted()));
    assert_eq!(gone.start.values().flatten().count(), 1, "the old release is wanted");
    // Neither is wanted: the app was scaled down, or the word that the new one is has not come yet.
    let both = [(id(1), job(old.clone(), Phase::Up)), in_place(Phase::Up)];
    let mut neither = one_host(both, [formation(0, &[("db", 0, false)])]);
    neither.places.insert(id(2), Place::Taking);
    let plan_now = plan(&neither);
    assert_eq!(plan_now.places, [(id(2), Place::Unconfirmed(now()))].into());
    assert_eq!(stops(&neither), [id(1)]);
    assert_eq!(plan_now.wake_at, Some(now() + SignedDuration::from_secs(60)));
    neither.places.insert(id(2), Place::Unconfirmed(ago(59)));
    assert_eq!(stops(&neither), [id(1)]);
    neither.places.insert(id(2), Place::Unconfirmed(ago(60)));
    assert_eq!(stops(&neither), [id(1), id(2)]);
    assert_eq!(plan(&neither).places, neither.places, "it is known for how long");
    // What ordered it says that the new release is wanted now.
    let mut said = (*formation(0, &[("db", 1, false)])).clone();
    said.release.id = new.release;
    let mut over = (*formation(0, &[("db", 0, false)])).clone();
    over.updated_at = now();
    let now_wanted = [Arc::new(said), Arc::new(over)];
    assert!(plan(&one_host([in_place(Phase::Up)], now_wanted)).is_empty());
}

#[test]
fn a_job_that_has_its_place_is_one_like_any_other() {
    let (old, new) = (kind(0, "db"), Kind::new(kind(0, "db").app, uuid(999).into(), "db"));
    let at = |created_at| {
        let mut job = job(new.clone(), Phase::Up);
        (job.in_place_of, job.created_at) = (Some(old.id()), Some(created_at));
        (id(2), job)
    };
    let mut said = (*formation(0, &[("db", 1, false)])).clone();
    said.release.id = new.release;
    let wanted = one_host([at(ago(1))], [Arc::new(said)]);
    let confirmed = plan(&wanted).places;
    assert_eq!(confirmed, [(id(2), Place::Confirmed)].into());

    // The app is scaled down, deleted or deployed to another release.
    let unwanted = || [formation(0, &[("db", 0, false)])];
    let mut later = one_host([at(ago(1))], unwanted());
    later.places = confirmed.clone();
    assert_eq!(stops(&later), [id(2)]);
    // What it replaced is wanted again: that is not what it is.
    let mut back = one_host([at(ago(1))], [formation(0, &[("db", 1, false)])]);
    back.places = confirmed;
    assert_eq!((stops(&back), plan(&back).start.len()), (vec![id(2)], 1));

    // A scheduler that has just begun does not know whether the job ever had its place.
    let restarted = one_host([at(ago(20))], unwanted());
    assert!(stops(&restarted).is_empty());
    assert_eq!(plan(&restarted).wake_at, Some(now() + SignedDuration::from_secs(40)));
    assert_eq!(stops(&one_host([at(ago(60))], unwanted())), [id(2)]);
    assert!(plan(&one_host([], unwanted())).places.is_empty(), "what is gone is not remembered");
}

#[test]
fn what_flynn_consists_of_has_its_room_before_any_app() {
    let part = |n: u8| {
        let mut part = ExpandedFormation::clone(&formation(n, &[("web", 1, false)]));
        part.app.meta.insert(controller::META_SYSTEM_APP.into(), "true".into());
        Arc::new(part)
    };
    let app = |n| formation(n, &[("web", 1, false), ("worker", 1, false)]);
    let formations = [app(1), part(5), app(6), part(9)];
    let snapshot = snapshot([("host0".into(), host(3, []))], formations);
    let plan = plan(&snapshot);
    let of_app = |job: &api::host::Job| job.metadata[api::host::META_APP_NAME].clone();
    let started: Vec<_> = plan.start["host0"].iter().map(of_app).collect();
    assert_eq!(started, ["app5", "app9", "app1"]);
    let waiting: Vec<_> = plan.waiting.iter().map(|one| one.kind.app).collect();
    assert_eq!(waiting, [kind(1, "").app, kind(6, "").app, kind(6, "").app]);
}
