use api::{
    controller::{Job, JobState, NewJob, NewRelease, ONE_OFF_SECONDS, ONE_OFF_SECONDS_MAX},
    discoverd::Term,
    error::ErrorCode,
    host::{EndReason, META_APP, TERM_HEADER},
    id::{AppId, JobId},
};
use attach::{Frame, FrameCodec, Stream};
use controller_client::{Controller, EventQuery, LogQuery};
use futures_util::{SinkExt, StreamExt, TryStreamExt};
use tokio_util::codec::{Framed, FramedWrite};

use crate::{
    neighbours::HOST,
    scheduler::{self, Scheduler},
    world::{KEY, World, client},
};

async fn deployed(world: &World) -> api::controller::App {
    let app = world.app("one").await;
    let release = world.release(&app, &["web"], "serve").await;
    world.deploy(&app, &release).await;
    app
}

fn command(words: &[&str]) -> NewJob {
    let args = words.iter().map(|word| (*word).to_owned()).collect();
    NewJob { args, release_env: true, ..NewJob::default() }
}

#[tokio::test]
async fn a_one_off_job_has_the_apps_environment_and_is_listed_and_stopped() {
    let world = World::start().await;
    let client = &world.client;
    Scheduler::start(&world.lifetime, client);
    let app = deployed(&world).await;
    let job = client.run_job_detached("one", &command(&["rake", "db:migrate"])).await.unwrap();
    assert_eq!((job.kind.as_str(), job.host_id.as_deref()), ("", Some(HOST)));
    let ordered = world.neighbours.jobs.borrow()[&job.uuid].clone();
    assert_eq!(ordered.config.args, ["rake", "db:migrate"]);
    assert_eq!(ordered.config.env["SECRET"], "sesame");
    assert_eq!(ordered.metadata[META_APP], app.id.to_string());
    assert_eq!(ordered.config.time_limit_seconds, Some(ONE_OFF_SECONDS), "none runs for ever");
    let limited = NewJob { timeout_seconds: Some(60), ..command(&["rake"]) };
    let limited = client.run_job_detached("one", &limited).await.unwrap();
    let ordered = world.neighbours.jobs.borrow()[&limited.uuid].clone();
    assert_eq!(ordered.config.time_limit_seconds, Some(60));
    for seconds in [0, ONE_OFF_SECONDS_MAX + 1] {
        let bad = NewJob { timeout_seconds: Some(seconds), ..command(&["rake"]) };
        let refused = client.run_job_detached("one", &bad).await.unwrap_err();
        assert_eq!(refused.code(), Some(ErrorCode::ValidationError));
    }
    let listed = client.jobs("one").await.unwrap();
    assert!(listed.iter().any(|known| known.id == job.id && known.args == job.args));
    let query = EventQuery { app: Some(app.id.to_string()), types: &["job"], since: None };
    let events = client.past_events(&query, 100).await.unwrap();
    let told = serde_json::to_string(&events).unwrap();
    assert!(!events.is_empty() && !told.contains("db:migrate"), "an argument may be a secret");

    let other = world.app("two").await;
    assert!(client.delete_job(&other.name, &job.id).await.unwrap_err().is_not_found());
    assert!(world.neighbours.stopped.borrow().is_empty());
    client.delete_job("one", &job.id).await.unwrap();
    assert_eq!(*world.neighbours.stopped.borrow(), [job.uuid]);
}

#[tokio::test]
async fn an_attached_job_speaks_both_ways_and_says_how_it_ended() {
    let world = World::start().await;
    let client = &world.client;
    Scheduler::start(&world.lifetime, client);
    deployed(&world).await;
    let connection = client.run_job_attached("one", &command(&["cat"])).await.unwrap();
    let mut frames = Framed::new(connection, FrameCodec);
    let said = Frame::Data { stream: Stream::Stdin, bytes: "hello".into() };
    frames.send(said).await.unwrap();
    let heard = frames.next().await.unwrap().unwrap();
    assert_eq!(heard, Frame::Data { stream: Stream::Stdout, bytes: "hello".into() });
    frames.send(Frame::eof(Stream::Stdin)).await.unwrap();
    assert_eq!(frames.next().await.unwrap().unwrap(), Frame::Exit(7));
    assert!(frames.next().await.is_none());
    assert!(world.neighbours.stopped.borrow().is_empty());
}

#[tokio::test]
async fn an_attached_job_is_stopped_when_its_client_is_gone() {
    let world = World::start().await;
    let client = &world.client;
    Scheduler::start(&world.lifetime, client);
    deployed(&world).await;
    let mut stopped = world.neighbours.stopped.subscribe();
    let mut seen = Vec::new();
    // One that is killed after its stdin had ended is gone as well.
    for ends_stdin in [false, true] {
        let mut connection = client.run_job_attached("one", &command(&["cat"])).await.unwrap();
        let jobs: Vec<_> = world.neighbours.jobs.borrow().keys().copied().collect();
        let job = *jobs.iter().find(|job| !seen.contains(*job)).unwrap();
        seen.push(job);
        if ends_stdin {
            let mut frames = FramedWrite::new(&mut connection, FrameCodec);
            frames.send(Frame::eof(Stream::Stdin)).await.unwrap();
        }
        drop(connection);
        let gone = stopped.wait_for(|stopped| stopped.contains(&job));
        tokio::time::timeout(testkit::LIMIT, gone).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_job_needs_something_to_run() {
    let world = World::start().await;
    world.app("one").await;
    let err = world.client.run_job_detached("one", &command(&["true"])).await.unwrap_err();
    assert!(err.to_string().contains("push or deploy something first"), "{err}");
}

#[tokio::test]
async fn the_log_of_an_app_is_that_of_its_jobs_oldest_line_first() {
    let world = World::start().await;
    let client = &world.client;
    Scheduler::start(&world.lifetime, client);
    let app = deployed(&world).await;
    let release = client.current_release("one").await.unwrap();
    let two = api::controller::NewFormation { processes: [("web".to_owned(), 2)].into() };
    client.put_formation("one", release.id, &two).await.unwrap();
    testkit::wait_until("two jobs are known", async || {
        let jobs = client.jobs("one").await.unwrap();
        if jobs.len() == 2 { Ok(()) } else { Err(jobs) }
    })
    .await;
    let lines = client.log("one", &LogQuery::default()).await.unwrap();
    let lines: Vec<_> = lines.try_collect().await.unwrap();
    assert_eq!(lines.len(), 4);
    assert!(lines.is_sorted_by_key(|line| line.timestamp));
    let job = client.jobs("one").await.unwrap().remove(0);
    let query = LogQuery { job_id: Some(job.id.clone()), lines: Some(1), ..LogQuery::default() };
    let lines: Vec<_> = client.log("one", &query).await.unwrap().try_collect().await.unwrap();
    assert_eq!((lines.len(), &lines[0].job_id), (1, &job.id));
    assert_eq!(lines[0].msg, "boom: no such module");
    let follow = LogQuery { job_id: Some(job.id.clone()), follow: true, ..LogQuery::default() };
    client.put_job(&Job { state: JobState::Down, ..job.clone() }).await.unwrap();
    world.neighbours.stopped.send_modify(|stopped| stopped.push(job.uuid));
    let lines: Vec<_> = client.log("one", &follow).await.unwrap().try_collect().await.unwrap();
    assert_eq!(lines.len(), 2);
    let nobody =
        LogQuery { job_id: Some(format!("{HOST}-{}", JobId::random())), ..LogQuery::default() };
    assert!(client.log("one", &nobody).await.err().unwrap().is_not_found());
    assert_eq!(app.name, "one");
}

#[tokio::test]
async fn a_job_is_recorded_even_if_its_release_is_unknown_and_only_for_its_own_app() {
    let world = World::start().await;
    let client = &world.client;
    let app = world.app("one").await;
    let release = client.create_release(&NewRelease::default()).await.unwrap();
    let placed = scheduler::job(app.id, release.id, "web");
    let job = Job {
        id: placed.uuid.to_string(),
        host_id: None,
        state: JobState::Pending,
        host_error: Some("no host has room".into()),
        ..placed.clone()
    };
    client.put_job(&job).await.unwrap();
    client.put_job(&Job { state: JobState::Up, ..placed.clone() }).await.unwrap();
    let known = client.job("one", &placed.id).await.unwrap();
    assert_eq!((known.state, known.host_id.as_deref()), (JobState::Up, Some(HOST)));
    let foreign = Job { app: AppId::random(), ..job };
    assert!(client.put_job(&foreign).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn deleting_an_app_ends_its_processes_and_its_one_off_jobs_first() {
    let world = World::start().await;
    let client = &world.client;
    let scheduler = Scheduler::start(&world.lifetime, client);
    let app = deployed(&world).await;
    let job = client.run_job_detached("one", &command(&["sleep"])).await.unwrap();
    let mut stopped = world.neighbours.stopped.subscribe();
    let ends = async {
        stopped.wait_for(|stopped| stopped.contains(&job.uuid)).await.unwrap();
        assert!(client.app("one").await.is_ok(), "the name is not free while a job runs");
        client.put_job(&Job { state: JobState::Down, ..job.clone() }).await.unwrap();
    };
    let (deleted, ()) = tokio::join!(client.delete_app("one"), ends);
    deleted.unwrap();
    assert_eq!(scheduler.serving.lock().unwrap()[&app.id].last(), Some(&0));
    world.app("one").await;
}

#[tokio::test]
async fn the_word_of_a_scheduler_that_leads_no_more_is_refused() {
    let world = World::without_controller().await;
    let running = controller::start(world.config.clone(), &world.lifetime).await.unwrap();
    let world = World { client: client(running.addr), ..world };
    let app = world.app("one").await;
    let release = world.release(&app, &["web"], "serve").await;
    let term = |epoch, revision| {
        let client = api_client::Client::new(format!("http://{}", running.addr), Some(KEY.into()));
        let term = Term { epoch, revision }.to_header();
        Controller::with_client(client.with_header(TERM_HEADER, &term))
    };
    let under = |revision| term(1, revision);
    let uuid = JobId::random();
    let told = |state: &str| -> Job {
        serde_json::from_value(serde_json::json!({
            "id": format!("{HOST}-{uuid}"), "uuid": uuid, "host_id": HOST, "app": app.id,
            "release": release.id, "type": "web", "state": state,
        }))
        .unwrap()
    };
    under(2).put_job(&told("starting")).await.unwrap();
    under(2).put_job(&told("up")).await.unwrap();
    under(3).put_job(&told("down")).await.unwrap();
    let refused = under(2).put_job(&told("up")).await.unwrap_err();
    assert!(refused.is_conflict(), "{refused}");
    assert_eq!(world.client.jobs("one").await.unwrap()[0].state, JobState::Down);
    let word = |revision| term(2, revision);
    word(1).put_job(&told("up")).await.unwrap();

    let other = world.app("two").await;
    let stolen = Job { app: other.id, state: JobState::Crashed, ..told("up") };
    assert!(word(1).put_job(&stolen).await.unwrap_err().is_not_found(), "it is another app's");
    let known = world.client.jobs("one").await.unwrap();
    assert_eq!((known[0].state, known[0].app), (JobState::Up, app.id));
    assert!(world.client.jobs("two").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_one_off_job_cannot_be_passed_off_as_another_s() {
    let world = World::start().await;
    Scheduler::start(&world.lifetime, &world.client);
    deployed(&world).await;
    let meta = [("flynn-controller.type".to_owned(), "web".to_owned())].into();
    let job = NewJob { meta, ..command(&["true"]) };
    let refused = world.client.run_job_detached("one", &job).await.unwrap_err().to_string();
    assert!(refused.contains("flynn-controller.type"), "{refused}");
}

#[tokio::test]
async fn a_job_that_has_ended_stays_ended_whoever_says_late_that_it_starts() {
    let world = World::start().await;
    let client = &world.client;
    Scheduler::start(&world.lifetime, client);
    let app = deployed(&world).await;
    let release = client.current_release("one").await.unwrap().id;
    // It is over before the controller that ordered it hears that it was taken.
    world.neighbours.gate.shut("commit answer");
    let ends = async {
        world.neighbours.gate.reached().await;
        let job = *world.neighbours.jobs.borrow().keys().next().unwrap();
        let placed = scheduler::job(app.id, release, "");
        let ended = Job {
            id: format!("{HOST}-{job}"),
            uuid: job,
            state: JobState::Down,
            exit_status: Some(0),
            end_reason: Some(EndReason::Exited),
            ..placed
        };
        client.put_job(&ended).await.unwrap();
        world.neighbours.gate.open();
        ended
    };
    let run = command(&["true"]);
    let (ran, ended) = tokio::join!(client.run_job_detached("one", &run), ends);
    assert_eq!((ran.unwrap().state, ended.state), (JobState::Down, JobState::Down));
    // A scheduler's word that was under way for long, and one that comes for the second time.
    for state in [JobState::Starting, JobState::Up, JobState::Stopping] {
        let late = Job { state, exit_status: None, end_reason: None, ..ended.clone() };
        assert_eq!(client.put_job(&late).await.unwrap().state, JobState::Down, "{state:?}");
    }
    let known = client.job("one", &ended.id).await.unwrap();
    assert_eq!((known.state, known.exit_status), (JobState::Down, Some(0)));
    let query = EventQuery { app: Some(app.id.to_string()), types: &["job"], since: None };
    let events = client.past_events(&query, 100).await.unwrap();
    let told = events.iter().filter(|event| event.object_id == ended.id);
    let mut told: Vec<_> = told.map(|event| event.data["state"].clone()).collect();
    told.sort_unstable_by_key(ToString::to_string);
    assert_eq!(told, ["down", "starting"], "none after its end");
}

#[tokio::test]
async fn a_job_that_was_never_ordered_is_over_when_its_host_says_so_also_to_who_stops_it() {
    let world = World::start().await;
    let client = &world.client;
    let app = world.app("one").await;
    let release = world.release(&app, &["web"], "serve").await;
    // As if its controller had ended before it ordered it.
    let job = client.put_job(&scheduler::job(app.id, release.id, "")).await.unwrap();
    let early = client.delete_job("one", &job.id).await.unwrap_err();
    assert!(early.is_not_found(), "it may be about to be ordered: {early}");
    world.neighbours.gate.shut("job");
    world.sql("UPDATE jobs SET updated_at = now() - interval '3 minutes'").await;
    let both_ask = async {
        world.neighbours.gate.reached_by(2).await;
        world.neighbours.gate.open();
    };
    let (stopped, ()) = tokio::join!(client.delete_job("one", &job.id), both_ask);
    stopped.unwrap();
    let known = client.job("one", &job.id).await.unwrap();
    assert_eq!((known.state, known.end_reason), (JobState::Crashed, Some(EndReason::HostLost)));

    client.put_job(&scheduler::job(app.id, release.id, "")).await.unwrap();
    world.sql("UPDATE jobs SET updated_at = now() - interval '3 minutes'").await;
    testkit::wait_until("nothing starts", async || match client.jobs("one").await.unwrap() {
        jobs if jobs.iter().all(|job| job.state == JobState::Crashed) => Ok(()),
        jobs => Err(jobs),
    })
    .await;
}
