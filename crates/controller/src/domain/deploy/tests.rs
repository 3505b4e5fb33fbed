use api::{
    controller::{Job, JobState, Strategy},
    host::EndReason,
    id::{AppId, JobId, ReleaseId},
};
use proptest::{prelude::*, strategy::Strategy as Choice};

use super::*;

pub(super) fn counts(web: u32, worker: u32) -> Counts {
    BTreeMap::from([("web".to_owned(), web), ("worker".to_owned(), worker)])
}

pub(super) fn state(strategy: Strategy, target: Counts, old: Counts) -> DeployState {
    let old_alive = old.clone();
    let began = Timestamp::UNIX_EPOCH;
    DeployState {
        strategy,
        target,
        original: old.clone(),
        has_old: true,
        over_itself: false,
        going_back: false,
        old,
        new: Counts::new(),
        seen: Seen { old_alive, ..Seen::default() },
        omni: BTreeSet::new(),
        hosts: Some(1),
        batch: 3,
        now: began,
        began,
        step_at: began,
        limit: Duration::from_secs(120),
    }
}

fn after(time: Duration) -> Timestamp {
    Timestamp::UNIX_EPOCH + time
}

pub(super) fn strategies() -> impl Choice<Value = Strategy> {
    prop_oneof![
        Just(Strategy::OneByOne),
        Just(Strategy::AllAtOnce),
        Just(Strategy::InBatches),
        Just(Strategy::OneDownOneUp),
    ]
}

/// Plays a deployment against a cluster that starts and stops one job at a time, whichever `dice` says. After every event
/// `look` sees the state. Answers how many steps it took.
fn play(
    mut state: DeployState,
    dice: &[bool],
    mut change: impl FnMut(usize, &mut DeployState),
    mut look: impl FnMut(&DeployState),
) -> (DeployState, Step) {
    let mut dice = dice.iter().copied().cycle();
    for round in 0..10_000 {
        change(round, &mut state);
        match next_step(&state) {
            Step::Scale { old, new } => {
                state.old = old;
                state.new = new;
            }
            Step::Wait => {
                let moved = follow(&mut state, dice.next().unwrap_or(true));
                assert!(moved, "it waits for nothing: {state:?}");
            }
            last => return (state, last),
        }
        look(&state);
    }
    panic!("it does not end: {state:?}");
}

/// The cluster does one thing it was told to do, if there is one: lets old jobs end, or new ones come up.
fn follow(state: &mut DeployState, old_first: bool) -> bool {
    let end_old = |state: &mut DeployState| {
        let too_many =
            |(kind, alive): (&String, &u32)| (*alive > of(&state.old, kind)).then(|| kind.clone());
        let kind = state.seen.old_alive.iter().find_map(too_many);
        kind.is_some_and(|kind| {
            *state.seen.old_alive.entry(kind).or_default() -= 1;
            true
        })
    };
    let end_new = |state: &mut DeployState| {
        let too_many =
            |(kind, up): (&String, &u32)| (*up > of(&state.new, kind)).then(|| kind.clone());
        let kind = state.seen.new_up.iter().find_map(too_many);
        kind.is_some_and(|kind| {
            *state.seen.new_up.entry(kind).or_default() -= 1;
            true
        })
    };
    let start_new = |state: &mut DeployState| {
        let missing = |(kind, wanted): (&String, &u32)| {
            (of(&state.seen.new_up, kind) < *wanted).then(|| kind.clone())
        };
        let kind = state.new.iter().find_map(missing);
        kind.is_some_and(|kind| {
            *state.seen.new_up.entry(kind).or_default() += 1;
            true
        })
    };
    if old_first {
        end_old(state) || end_new(state) || start_new(state)
    } else {
        start_new(state) || end_old(state) || end_new(state)
    }
}

fn of_both(state: &DeployState, kind: &str) -> u32 {
    // A job counts as serving only while its formation wants it: what is surplus may end at any moment.
    of(&state.seen.old_alive, kind).min(of(&state.old, kind))
        + of(&state.seen.new_up, kind).min(of(&state.new, kind))
}

proptest! {
    #[test]
    fn every_strategy_ends_with_the_target_and_nothing_old(
        strategy in strategies(), web in 0u32..9, worker in 0u32..9, old_web in 0u32..9, dice in any::<[bool; 16]>(),
    ) {
        let start = state(strategy, counts(web, worker), counts(old_web, worker));
        let (end, last) = play(start, &dice, |_, _| {}, |_| {});
        prop_assert_eq!(last, Step::Complete);
        for kind in ["web", "worker"] {
            prop_assert_eq!(of(&end.old, kind), 0);
            prop_assert_eq!(of(&end.new, kind), of(&end.target, kind));
            prop_assert_eq!(of(&end.seen.new_up, kind), of(&end.target, kind));
        }
    }

    #[test]
    fn up_before_down_never_serves_with_fewer_than_the_target(
        web in 1u32..9, worker in 0u32..9, dice in any::<[bool; 16]>(),
        strategy in prop_oneof![Just(Strategy::OneByOne), Just(Strategy::InBatches), Just(Strategy::AllAtOnce)],
    ) {
        let start = state(strategy, counts(web, worker), counts(web, worker));
        let look = |now: &DeployState| {
            assert!(of_both(now, "web") >= web && of_both(now, "worker") >= worker, "{now:?}");
        };
        play(start, &dice, |_, _| {}, look);
    }

    #[test]
    fn one_by_one_has_at_most_one_more_than_the_target(web in 1u32..9, dice in any::<[bool; 16]>()) {
        let start = state(Strategy::OneByOne, counts(web, 0), counts(web, 0));
        let look = |now: &DeployState| {
            assert!(of(&now.old, "web") + of(&now.new, "web") <= web + 1, "{now:?}");
        };
        play(start, &dice, |_, _| {}, look);
    }

    #[test]
    fn one_down_one_up_never_has_more_than_before(web in 1u32..9, dice in any::<[bool; 16]>()) {
        let start = state(Strategy::OneDownOneUp, counts(web, 0), counts(web, 0));
        let look = |now: &DeployState| {
            let alive = of(&now.seen.old_alive, "web").max(of(&now.old, "web"));
            assert!(alive + of(&now.new, "web") <= web, "{now:?}");
        };
        play(start, &dice, |_, _| {}, look);
    }

    #[test]
    fn a_target_changed_on_the_way_is_reached(
        strategy in strategies(), before in 0u32..9, after in 0u32..9, at in 0usize..12, dice in any::<[bool; 16]>(),
    ) {
        let start = state(strategy, counts(before, 1), counts(before, 1));
        let change = |round, now: &mut DeployState| {
            if round == at {
                now.target = counts(after, 1);
            }
        };
        let (end, last) = play(start, &dice, change, |_| {});
        prop_assert_eq!(last, Step::Complete);
        // It may have ended before the change.
        prop_assert!([before, after].contains(&of(&end.new, "web")));
        prop_assert_eq!(of(&end.new, "web"), of(&end.target, "web"));
    }
}

#[test]
fn an_omni_type_is_waited_for_on_every_host() {
    let mut now = state(Strategy::OneByOne, counts(1, 0), counts(1, 0));
    now.omni.insert("web".into());
    now.hosts = Some(3);
    now.new = counts(1, 0);
    now.seen.new_up = counts(2, 0);
    assert_eq!(next_step(&now), Step::Wait);
    now.seen.new_up = counts(3, 0);
    assert!(matches!(next_step(&now), Step::Scale { old, .. } if of(&old, "web") == 0));
    // A controller that has just started knows of none yet.
    now.hosts = None;
    assert_eq!(next_step(&now), Step::Wait);
}

#[test]
fn a_step_that_takes_too_long_fails_and_says_what_was_waited_for() {
    let mut now = state(Strategy::OneByOne, counts(2, 0), counts(2, 0));
    now.new = counts(1, 0);
    now.now = after(now.limit);
    let Step::Fail(failure) = next_step(&now) else { panic!("it goes on") };
    let text = failure.sentence(true);
    assert!(text.contains("web") && text.contains("120 s") && text.contains("keeps"), "{text}");
}

#[test]
fn it_is_over_when_nothing_old_serves_any_more_or_its_host_is_away() {
    let mut now = state(Strategy::OneByOne, counts(1, 0), counts(0, 0));
    now.new = counts(1, 0);
    now.seen.new_up = counts(1, 0);
    now.seen.old_up = counts(1, 0);
    assert_eq!(next_step(&now), Step::Wait);
    now.now = after(LINGER);
    assert_eq!(next_step(&now), Step::Complete);
    (now.now, now.seen.old_up) = (now.began, counts(0, 0));
    assert_eq!(next_step(&now), Step::Complete);
}

pub(super) fn release(kinds: &[&str]) -> Release {
    Release {
        id: ReleaseId::random(),
        app_id: None,
        artifacts: vec![],
        env: BTreeMap::new(),
        meta: BTreeMap::new(),
        processes: kinds.iter().map(|kind| ((*kind).to_owned(), Default::default())).collect(),
        created_at: jiff::Timestamp::UNIX_EPOCH,
    }
}

pub(super) fn job(release: &Release, state: JobState) -> Job {
    let uuid = JobId::random();
    Job {
        id: format!("host-{uuid}"),
        uuid,
        host_id: Some("host".into()),
        app: AppId::random(),
        release: release.id,
        kind: "web".into(),
        state,
        args: vec![],
        exit_status: None,
        host_error: None,
        end_reason: None,
        run_at: None,
        restarts: 0,
        created_at: None,
        updated_at: None,
    }
}

#[test]
fn the_first_deployment_runs_one_web_and_nothing_else() {
    let new = release(&["web", "worker"]);
    let none = Counts::new();
    assert_eq!(target(None, &none, &new, &none), BTreeMap::from([("web".into(), 1)]));
    let scaled_to_nothing = release(&["web"]);
    assert_eq!(target(Some(&scaled_to_nothing), &none, &new, &none), none);
    let without_web = release(&[]);
    assert_eq!(target(Some(&without_web), &none, &new, &none), BTreeMap::from([("web".into(), 1)]));
}

#[test]
fn what_runs_is_kept_and_a_type_that_is_gone_is_not() {
    let old = release(&["web", "worker", "clock"]);
    let formation = BTreeMap::from([("web".into(), 4), ("clock".into(), 1)]);
    let wanted = target(Some(&old), &formation, &release(&["web", "worker"]), &Counts::new());
    assert_eq!(wanted, BTreeMap::from([("web".into(), 4)]));
}

fn reported(job: Job) -> Reported {
    Reported { job, since: Timestamp::UNIX_EPOCH, first_restarts: 0 }
}

fn failure_of(jobs: impl IntoIterator<Item = Job>, new: &Release, stopped: u32) -> Option<Failure> {
    let jobs: Vec<_> = jobs.into_iter().map(reported).collect();
    seen(&jobs, (None, new), Timestamp::UNIX_EPOCH, stopped, &counts(1, 0)).failure
}

fn ended(new: &Release, reason: EndReason) -> Job {
    Job { exit_status: Some(1), end_reason: Some(reason), ..job(new, JobState::Crashed) }
}

#[test]
fn the_third_crash_fails_it_and_a_job_that_never_served_at_once() {
    let new = release(&["web"]);
    let crashed = |_| ended(&new, EndReason::Exited);
    assert_eq!(failure_of((0..2).map(crashed), &new, 0), None);
    let failure = failure_of((0..3).map(crashed), &new, 0).unwrap();
    assert!(failure.sentence(false).contains("ended 3 times"), "{failure:?}");
    let deaf = Job {
        host_error: Some("nothing listens on 8080".into()),
        ..ended(&new, EndReason::CheckNeverPassed)
    };
    let failure = failure_of([deaf], &new, 0).unwrap();
    assert!(failure.sentence(false).contains("nothing listens on 8080"), "{failure:?}");
}

#[test]
fn a_host_that_is_lost_or_refuses_fails_nothing_and_gives_the_release_another_chance() {
    let new = release(&["web"]);
    for reason in
        [EndReason::HostLost, EndReason::Refused, EndReason::NotStarted, EndReason::Stopped]
    {
        let jobs = (0..20).map(|_| Job { exit_status: None, ..ended(&new, reason) });
        assert_eq!(failure_of(jobs, &new, 0), None, "{reason:?}");
    }
    let mut now = state(Strategy::OneByOne, counts(1, 0), counts(1, 0));
    now.new = counts(1, 0);
    now.now = after(now.limit);
    now.seen.displaced = Some(after(Duration::from_secs(1)));
    assert_eq!(next_step(&now), Step::Wait);
    now.now = after(now.limit + Duration::from_secs(1));
    assert!(matches!(next_step(&now), Step::Fail(Failure::TimedOut { .. })));
}

#[test]
fn a_deployment_ends_however_often_its_hosts_are_lost() {
    let mut now = state(Strategy::OneByOne, counts(1, 0), counts(1, 0));
    now.new = counts(1, 0);
    now.now = after(now.limit * 3);
    now.seen.displaced = Some(now.now);
    assert!(matches!(next_step(&now), Step::Fail(Failure::Overdue { .. })));
}

#[test]
fn what_ended_before_the_deployment_began_is_not_counted() {
    let new = release(&["web"]);
    let began = after(Duration::from_secs(60));
    let before = |_| reported(ended(&new, EndReason::Exited));
    let mut jobs: Vec<_> = (0..9).map(before).collect();
    // The process that is started now carries the count of those before it.
    let job = Job { restarts: 9, ..job(&new, JobState::Up) };
    jobs.push(Reported { job, since: began, first_restarts: 9 });
    let failure = |jobs: &[Reported]| seen(jobs, (None, &new), began, 0, &counts(1, 0)).failure;
    assert_eq!(failure(&jobs), None);
    // One that its host starts again and again meanwhile is.
    jobs.last_mut().unwrap().job.restarts = 12;
    assert!(matches!(failure(&jobs), Some(Failure::Crashed { times: 3, .. })));
}

#[test]
fn of_many_processes_a_few_may_end() {
    let new = release(&["web"]);
    let jobs: Vec<_> = (0..5).map(|_| reported(ended(&new, EndReason::Exited))).collect();
    let of = |web| seen(&jobs, (None, &new), Timestamp::UNIX_EPOCH, 0, &counts(web, 0)).failure;
    assert!(of(4).is_some());
    assert_eq!(of(50), None);
}

#[test]
fn jobs_that_were_told_to_stop_are_no_failure() {
    let new = release(&["web"]);
    let down: Vec<_> = (0..3).map(|_| job(&new, JobState::Down)).collect();
    assert_eq!(failure_of(down.clone(), &new, 3), None);
    assert!(failure_of(down.clone(), &new, 0).is_some());
    let stopped =
        down.iter().cloned().map(|job| Job { end_reason: Some(EndReason::Stopped), ..job });
    assert_eq!(failure_of(stopped, &new, 0), None);
    let waited = down.into_iter().map(|job| Job { host_id: None, ..job });
    assert_eq!(failure_of(waited, &new, 0), None);
}

#[test]
fn the_new_release_stays_until_the_old_one_serves_again() {
    let original = counts(2, 1);
    let mut now = state(Strategy::OneByOne, original.clone(), original.clone());
    (now.going_back, now.old, now.new) = (true, counts(0, 1), counts(2, 0));
    let back = |new: Counts| Step::Scale { old: counts(2, 1), new };
    assert_eq!(next_step(&now), back(counts(2, 0)));
    now.old = original.clone();
    now.seen.old_up = counts(1, 1);
    assert_eq!(next_step(&now), Step::Wait, "a web process is missing");
    now.seen.old_up = counts(2, 1);
    assert_eq!(next_step(&now), back(Counts::new()));
    // One that cannot serve again keeps the new release no longer than this.
    (now.seen.old_up, now.now) = (Counts::new(), after(GO_BACK));
    assert_eq!(next_step(&now), back(Counts::new()));
    now.new = Counts::new();
    assert_eq!(next_step(&now), Step::WentBack);
    let unshared = DeployState {
        strategy: Strategy::OneDownOneUp,
        old: counts(0, 1),
        new: counts(2, 0),
        now: after(Duration::ZERO),
        ..now
    };
    assert_eq!(next_step(&unshared), back(Counts::new()), "both releases cannot run at once");
}

#[test]
fn a_release_deployed_over_itself_is_not_taken_away() {
    let mut now = state(Strategy::OneByOne, counts(1, 0), Counts::new());
    (now.has_old, now.over_itself, now.going_back, now.new) = (false, true, true, counts(1, 0));
    assert_eq!(next_step(&now), Step::WentBack);
}

#[test]
fn a_scale_changes_only_what_it_names_and_each_release_takes_what_it_has() {
    let (old, new) = (release(&["web", "worker"]), release(&["web", "clock"]));
    let (target, original) = (BTreeMap::from([("web".into(), 4)]), counts(4, 2));
    let worker = Change::Some(BTreeMap::from([("worker".into(), 5), ("clock".into(), 1)]));
    let now = retarget(&target, &original, (Some(&old), &new), &worker);
    assert_eq!(now.target, BTreeMap::from([("web".into(), 4), ("clock".into(), 1)]));
    assert_eq!(now.original, counts(4, 5));
    let all = Change::All(BTreeMap::from([("web".into(), 2)]));
    let now = retarget(&target, &original, (Some(&old), &new), &all);
    assert_eq!(
        (now.target, now.original),
        (BTreeMap::from([("web".into(), 2)]), BTreeMap::from([("web".into(), 2)]))
    );
}

#[test]
fn the_largest_batch_is_no_more_than_the_target() {
    let mut now = state(Strategy::InBatches, counts(3, 0), counts(3, 0));
    (now.batch, now.new, now.seen.new_up) = (u32::MAX, counts(1, 0), counts(1, 0));
    now.old = counts(2, 0);
    assert!(matches!(next_step(&now), Step::Scale { new, .. } if of(&new, "web") == 3));
}

#[test]
fn what_a_process_printed_is_shown_bounded_and_without_what_a_terminal_obeys() {
    let lines = vec!["first".to_owned(); 60];
    assert_eq!(last_lines(&lines).unwrap().lines().count(), 50);
    let odd = ["bad\0\u{1b}[2Jbyte\u{9b}é".to_owned(), "x".repeat(1 << 20)];
    let shown = last_lines(&odd).unwrap();
    assert!(shown.starts_with("bad\\x00\\x1b[2Jbyte\\x9bé\n"), "{shown:?}");
    assert!(shown.len() < 1200, "{}", shown.len());
    assert_eq!(last_lines(&[]), None);
}
