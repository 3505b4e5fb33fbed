//! The log of an app, out of those of its jobs.

use api::controller::{App, Job, JobState, LogLine, Release};
use controller_client::{Error, LogQuery};
use futures_util::{Stream, StreamExt, TryStreamExt, pin_mut};

use crate::{
    neighbours::{HOST, line},
    scheduler,
    world::{KEY, World, raw_http},
};

async fn job(world: &World, app: &App, release: &Release, state: JobState) -> Job {
    let job = Job { state, ..scheduler::job(app.id, release.id, "web") };
    world.client.put_job(&job).await.unwrap()
}

fn says(world: &World, job: &Job, lines: &[(i64, &str)]) {
    let lines = lines.iter().map(|(second, msg)| line(job.uuid, *second, msg));
    world.neighbours.logs.send_modify(|logs| logs.entry(job.uuid).or_default().extend(lines));
}

async fn next(lines: &mut (impl Stream<Item = Result<LogLine, Error>> + Unpin)) -> String {
    let line = tokio::time::timeout(testkit::LIMIT, lines.next()).await.unwrap();
    line.unwrap().unwrap().msg
}

#[tokio::test]
async fn the_last_lines_are_the_last_of_all_jobs_and_following_repeats_and_loses_none() {
    let world = World::start().await;
    let app = world.app("one").await;
    let release = world.release(&app, &["web"], "serve").await;
    let old = job(&world, &app, &release, JobState::Up).await;
    let new = job(&world, &app, &release, JobState::Up).await;
    says(&world, &old, &[(1, "old 1"), (2, "old 2")]);
    says(&world, &new, &[(5, "new 5"), (6, "new 6"), (6, "new 6 again")]);
    let query = LogQuery { lines: Some(2), ..LogQuery::default() };
    let lines: Vec<_> = world.client.log("one", &query).await.unwrap().try_collect().await.unwrap();
    let lines: Vec<_> = lines.iter().map(|line| line.msg.as_str()).collect();
    assert_eq!(lines, ["new 6", "new 6 again"]);

    let lines = world.client.log("one", &LogQuery { follow: true, ..query }).await.unwrap();
    pin_mut!(lines);
    assert_eq!(next(&mut lines).await, "new 6");
    assert_eq!(next(&mut lines).await, "new 6 again");
    // Of the time of the last line, and after the host was away.
    says(&world, &new, &[(6, "new 6 for the third time")]);
    assert_eq!(next(&mut lines).await, "new 6 for the third time");
    world.neighbours.cuts.send_modify(|cuts| *cuts += 1);
    says(&world, &new, &[(6, "new 6 after the cut"), (7, "new 7")]);
    assert_eq!(next(&mut lines).await, "new 6 after the cut");
    assert_eq!(next(&mut lines).await, "new 7");
    // A job that comes while somebody follows.
    let third = Job { state: JobState::Starting, ..scheduler::job(app.id, release.id, "web") };
    // First, or the follower might find a host that has something else to say of it.
    says(&world, &third, &[(8, "third 8")]);
    world.client.put_job(&third).await.unwrap();
    assert_eq!(next(&mut lines).await, "third 8");
}

#[tokio::test]
async fn what_is_up_is_logged_however_many_have_crashed_since() {
    let world = World::start().await;
    let app = world.app("one").await;
    let release = world.release(&app, &["web"], "serve").await;
    let up = job(&world, &app, &release, JobState::Up).await;
    says(&world, &up, &[(100, "still here")]);
    world
        .sql(&format!(
            "INSERT INTO jobs (job_id, cluster_id, host_id, app_id, release_id, type, state) \
             SELECT gen_random_uuid(), 'x', '{HOST}', '{}', '{}', 'web', 'crashed' \
             FROM generate_series(1, 600)",
            app.id, release.id
        ))
        .await;
    let query = LogQuery { lines: Some(1), ..LogQuery::default() };
    let lines: Vec<_> = world.client.log("one", &query).await.unwrap().try_collect().await.unwrap();
    assert_eq!(lines[0].msg, "still here");
    assert_eq!(world.client.jobs("one").await.unwrap()[0].id, up.id);
}

#[tokio::test]
async fn a_log_comes_as_events_to_who_accepts_those_and_of_the_streams_that_are_wanted() {
    let world = World::start().await;
    let app = world.app("one").await;
    let release = world.release(&app, &["web"], "serve").await;
    let job = job(&world, &app, &release, JobState::Up).await;
    says(&world, &job, &[(1, "hello")]);
    let base = world.client.client().endpoint().to_string();
    let get = async |query: &str| {
        let request = raw_http().get(format!("{base}/apps/one/log{query}"));
        let request = request.basic_auth("", Some(KEY)).header("Accept", "text/event-stream");
        request.send().await.unwrap().text().await.unwrap()
    };
    let events = get("").await;
    assert!(events.starts_with("data: {\"event\":\"message\",\"data\":{"), "{events}");
    assert!(
        events.contains("hello") && events.ends_with("data: {\"event\":\"eof\"}\n\n"),
        "{events}"
    );
    assert_eq!(get("?stream_types=stderr").await, "data: {\"event\":\"eof\"}\n\n");
}
