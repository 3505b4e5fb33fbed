use api::{
    controller::ProcessType,
    id::{AppId, ReleaseId},
};
use jiff::Timestamp;

use super::*;

fn release() -> Release {
    let types = ["web", "worker"].map(|kind| (kind.to_owned(), ProcessType::default()));
    Release {
        id: ReleaseId::random(),
        app_id: None,
        artifacts: vec![],
        env: [].into(),
        meta: [].into(),
        processes: types.into(),
        created_at: Timestamp::UNIX_EPOCH,
    }
}

fn job(release: &Release, kind: &str, state: JobState) -> Job {
    let uuid = JobId::random();
    Job {
        id: format!("h-{uuid}"),
        uuid,
        host_id: None,
        app: AppId::random(),
        release: release.id,
        kind: kind.into(),
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

fn web(n: u32) -> Counts {
    [("web".to_owned(), n)].into()
}

#[test]
fn a_type_the_release_lacks_is_refused_with_the_one_that_was_meant() {
    let asked = [("wbe".to_owned(), 1)].into();
    assert_eq!(
        check(&Counts::new(), &asked, &release()).unwrap_err().to_string(),
        "the release has no process type \"wbe\", did you mean \"web\"?; it has: web, worker"
    );
    let now = [("web".to_owned(), 1), ("clock".to_owned(), 2)].into();
    let of_the_next = [("clock".to_owned(), 3)].into();
    assert_eq!(check(&now, &of_the_next, &release()), Ok(()));
    assert_eq!(shown(&now, &Tags::new(), &release()), "clock=2 web=1 worker=0");
    let ssd = [("disk".to_owned(), "ssd".to_owned())];
    let tags = [("web".to_owned(), ssd.into())].into();
    assert_eq!(shown(&Counts::new(), &tags, &release()), "web=0,disk=ssd worker=0");
}

#[test]
fn a_wait_tells_each_change_once_and_ends_when_as_many_serve_as_shall() {
    let release = release();
    let old = job(&release, "web", JobState::Up);
    let mut new = job(&release, "web", JobState::Starting);
    let mut wait = Wait::new(Some(release.id), web(2), &release, std::slice::from_ref(&old));
    let (lines, standing) = wait.look(&[old.clone(), new.clone()]);
    assert_eq!(lines, [format!("web  {}  starting", new.id)]);
    assert_eq!(standing, Standing::Going("web: 1 of 2 serve".into()));
    assert_eq!(wait.look(&[old.clone(), new.clone()]).0, [""; 0]);
    new.state = JobState::Up;
    assert_eq!(
        wait.look(&[old, new.clone()]),
        (vec![format!("web  {}  up", new.id)], Standing::Done)
    );
}

#[test]
fn a_wait_for_fewer_ends_when_the_others_get_no_more_requests() {
    let release = release();
    let jobs = [job(&release, "web", JobState::Up), job(&release, "web", JobState::Up)];
    let mut wait = Wait::new(Some(release.id), web(1), &release, &jobs);
    assert!(matches!(wait.look(&jobs).1, Standing::Going(_)));
    let mut after = jobs;
    after[1].state = JobState::Stopping;
    assert_eq!(wait.look(&after).1, Standing::Done);
}

#[test]
fn a_type_that_keeps_crashing_is_given_up_with_its_reason() {
    let release = release();
    let mut wait = Wait::new(Some(release.id), web(1), &release, &[]);
    let mut jobs = Vec::new();
    let mut last = Standing::Done;
    for _ in 0..3 {
        let mut crashed = job(&release, "web", JobState::Crashed);
        crashed.host_error = Some("nothing listens on 8080".into());
        jobs.push(crashed);
        last = wait.look(&jobs).1;
    }
    let why = "web does not stay up: it crashed 3 times, last: nothing listens on 8080";
    assert_eq!(last, Standing::Hopeless(why.into()));
}

#[test]
fn jobs_of_other_releases_and_types_do_not_count() {
    let (release, other) = (release(), release());
    let jobs = [job(&other, "web", JobState::Up), job(&release, "worker", JobState::Up)];
    let mut one = Wait::new(Some(release.id), web(1), &release, &[]);
    assert!(matches!(one.look(&jobs).1, Standing::Going(_)));
    let mut any = Wait::new(None, web(1), &release, &[]);
    assert_eq!(any.look(&jobs).1, Standing::Done);
}
