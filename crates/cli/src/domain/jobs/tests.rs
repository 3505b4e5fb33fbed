use api::id::{AppId, JobId, ReleaseId};
use proptest::prelude::*;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn job(uuid: &str, kind: &str, state: JobState, created: i64) -> Job {
    let uuid: JobId = format!("{uuid:0<32}").parse().unwrap();
    Job {
        id: format!("host-1-{uuid}"),
        uuid,
        host_id: Some("host-1".into()),
        app: AppId::from(uuid.uuid()),
        release: ReleaseId::from(uuid.uuid()),
        kind: kind.into(),
        state,
        args: vec![],
        exit_status: None,
        host_error: None,
        end_reason: None,
        run_at: None,
        restarts: 0,
        created_at: Some(at(created)),
        updated_at: None,
    }
}

#[test]
fn a_job_is_found_by_its_id_its_job_part_and_the_beginning_of_it() {
    let jobs = [job("abcd1", "web", JobState::Up, 0), job("abcd2", "web", JobState::Up, 0)];
    let found = |typed: &str| find(&jobs, typed).map(|job| job.id.as_str());
    let id = jobs[0].id.as_str();
    assert_eq!(found(id), Ok(id));
    assert_eq!(found(&jobs[0].uuid.to_string()), Ok(id));
    assert_eq!(found(&jobs[0].uuid.uuid().to_string()), Ok(id));
    assert_eq!(found("abcd1"), Ok(id));
    assert_eq!(found("abcd"), Err(FindError::Several("abcd".into())));
    assert_eq!(found("abc"), Err(FindError::None("abc".into())));
    assert_eq!(found("ffff"), Err(FindError::None("ffff".into())));
    assert_eq!(short(id), "abcd1000");
}

#[test]
fn jobs_that_ended_are_listed_only_when_asked_for_but_a_crash_without_successor_always() {
    let jobs = [
        job("1", "web", JobState::Crashed, 1),
        job("2", "web", JobState::Up, 2),
        job("3", "worker", JobState::Crashed, 1),
        job("4", "worker", JobState::Crashed, 2),
        job("5", "", JobState::Crashed, 2),
        job("6", "clock", JobState::Down, 2),
        job("7", "clock", JobState::Pending, 3),
    ];
    let ids = |listing| -> Vec<char> {
        listed(&jobs, listing, |_| true).iter().map(|job| job.id.chars().nth(7).unwrap()).collect()
    };
    assert_eq!(ids(Listing::default()), ['7', '2', '4']);
    let all = Listing { all: true, ..Listing::default() };
    assert_eq!(ids(all), ['5', '6', '7', '1', '2', '3', '4']);
    assert_eq!(ids(Listing { kind: Some("run"), ..all }), ['5']);
    assert_eq!(ids(Listing { kind: Some("web"), ..all }), ['1', '2']);
}

#[test]
fn a_crashed_job_is_listed_only_while_its_release_is_wanted() {
    let up = job("1", "web", JobState::Up, 1);
    let crashed = job("2", "web", JobState::Crashed, 2);
    let formation = |count| Formation {
        app: crashed.app,
        release: crashed.release,
        processes: [("web".to_owned(), count)].into(),
        tags: [].into(),
        created_at: at(0),
        updated_at: at(0),
    };
    assert!(is_wanted(&crashed, &[formation(1)], &[]));
    assert!(!is_wanted(&crashed, &[formation(0)], &[]));
    assert!(!is_wanted(&up, &[formation(1)], &[]));
    let jobs = [up, crashed];
    let count = |wanted: bool| listed(&jobs, Listing::default(), |_| wanted).len();
    assert_eq!((count(true), count(false)), (2, 1));
}

#[test]
fn a_failed_check_is_told_without_a_status() {
    let mut failed = job("1", "web", JobState::Crashed, 0);
    failed.exit_status = Some(0);
    failed.host_error = Some("it did not pass its check".into());
    let line = |job: &Job| {
        let text = render(&[job], Listing::default(), at(1));
        text.lines().nth(2).unwrap().trim().to_owned()
    };
    assert_eq!(line(&failed), "exit status 0: it did not pass its check");
    failed.end_reason = Some(EndReason::CheckNeverPassed);
    assert_eq!(line(&failed), "it did not pass its check");
}

#[test]
fn a_crash_loop_shows_how_often_when_again_and_why() {
    let mut looping = job("1", "web", JobState::Pending, 0);
    looping.restarts = 4;
    looping.run_at = Some(at(68));
    looping.host_error = Some("it exited with status 1".into());
    let mut bash = job("2", "", JobState::Up, 0);
    bash.args = vec!["bash".into(), "-l".into()];
    let text = render(&[&looping, &bash], Listing::default(), at(60));
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].ends_with("RELEASE                           COMMAND"), "{text}");
    assert!(lines[1].contains("  web   pending  60 seconds ago  1000"), "{text}");
    assert_eq!(
        lines[2],
        "  started again 4 times after crashes, next try in 8 seconds: it exited with status 1"
    );
    assert!(
        lines[3].contains("  run   up       60 seconds ago") && lines[3].ends_with("  bash -l")
    );
    assert_eq!(lines.len(), 4);
}

proptest! {
    #[test]
    fn finding_never_panics(typed in "(host-1-|abcd|[0-9a-f-]{0,40}|.){0,4}") {
        let jobs = [job("abcd1", "web", JobState::Up, 0)];
        let _ = find(&jobs, &typed);
        short(&typed);
    }
}
