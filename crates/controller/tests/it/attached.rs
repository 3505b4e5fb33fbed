//! Attached jobs and the controllers between them and their clients.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use api::{
    controller::{JobState, NewJob},
    id::JobId,
};
use api_client::Upgraded;
use attach::{Frame, FrameCodec, Stream};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use controller::Config;
use daemon::Lifetime;
use futures_util::{SinkExt, StreamExt};
use http::StatusCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime,
    sync::oneshot,
};
use tokio_util::codec::Framed;

use crate::{
    neighbours::HOST,
    scheduler::Scheduler,
    world::{KEY, World, client},
};

/// A controller that shall stop while a job is attached through it; and that job, which it has not stopped.
async fn stopping(world: &World, config: Config) -> (impl Future<Output = ()>, Upgraded, JobId) {
    let app = world.app("one").await;
    let release = world.release(&app, &["web"], "serve").await;
    world.client.set_release("one", release.id).await.unwrap();
    let lifetime = Lifetime::default();
    let running = controller::start(config, &lifetime).await.unwrap();
    let addr = running.addr;
    let job = NewJob { args: vec!["cat".into()], ..NewJob::default() };
    let attached = client(addr).run_job_attached("one", &job).await.unwrap();
    let id = newest(world, &[]);
    lifetime.end();
    let stopped = async move {
        running.until_detached().await;
        running.detach();
        lifetime.drain(testkit::LIMIT).await.unwrap();
    };
    (stopped, attached, id)
}

/// A controller that can be frozen: from then on it does nothing, and closes nothing, as one whose host lost its power.
async fn elsewhere(config: Config) -> (SocketAddr, oneshot::Sender<()>) {
    let ((freeze, frozen), (tell, told)) = (oneshot::channel(), oneshot::channel());
    thread::spawn(move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let lifetime = Lifetime::default();
        let running = runtime.block_on(controller::start(config, &lifetime)).unwrap();
        tell.send(running.addr).unwrap();
        let _ = runtime.block_on(frozen);
        Box::leak(Box::new((runtime, lifetime)));
    });
    (told.await.unwrap(), freeze)
}

fn newest(world: &World, known: &[JobId]) -> JobId {
    let jobs = world.neighbours.jobs.borrow();
    jobs.keys().copied().find(|id| !known.contains(id)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_controller_is_killed_is_stopped_by_another_and_no_other_job_is() {
    let world = World::start().await;
    Scheduler::start(&world.lifetime, &world.client);
    let app = world.app("one").await;
    let release = world.release(&app, &["web"], "serve").await;
    world.deploy(&app, &release).await;
    let mut stopped = world.neighbours.stopped.subscribe();
    let (addr, freeze) = elsewhere(world.config.clone()).await;

    let job = NewJob { args: vec!["cat".into()], ..NewJob::default() };
    let here = world.client.run_job_attached("one", &job).await.unwrap();
    let ours = newest(&world, &[]);
    let there = client(addr).run_job_attached("one", &job).await.unwrap();
    let theirs = newest(&world, &[ours]);
    let detached = world.client.run_job_detached("one", &job).await.unwrap();
    freeze.send(()).unwrap();

    let gone = stopped.wait_for(|stopped| stopped.contains(&theirs));
    tokio::time::timeout(testkit::LIMIT, gone).await.unwrap().unwrap();
    assert_eq!(*world.neighbours.stopped.borrow(), [theirs], "{ours} and {detached:?} go on");
    drop((here, there));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_controller_is_killed_before_it_was_ordered_is_known_to_others() {
    let world = World::start().await;
    let app = world.app("one").await;
    let release = world.release(&app, &["web"], "serve").await;
    world.client.set_release("one", release.id).await.unwrap();
    let (addr, freeze) = elsewhere(world.config.clone()).await;
    let job = NewJob { args: vec!["cat".into()], ..NewJob::default() };
    world.neighbours.gate.shut("commit");
    let there = client(addr);
    tokio::select! {
        begun = there.run_job_attached("one", &job) => panic!("it waits: {begun:?}"),
        () = world.neighbours.gate.reached() => freeze.send(()).unwrap(),
    }
    let ended = "SELECT count(*) FROM jobs WHERE state = 'crashed' AND end_reason = 'host_lost'";
    testkit::wait_until("another controller stops it", async || {
        let stopped = world.neighbours.stopped.borrow().len();
        match (stopped, world.number(ended).await) {
            (1, 1) => Ok(()),
            other => Err(other),
        }
    })
    .await;
    world.neighbours.gate.open();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_shall_stop_relays_until_the_job_has_ended() {
    let world = World::start().await;
    let (stopped, attached, id) = stopping(&world, world.config.clone()).await;
    let until = "SELECT extract(epoch FROM attached_until)::bigint FROM jobs";
    let (begun, lease) = (world.number(until).await, world.config.attach_lease.as_secs());
    testkit::wait_until("it is said for longer than it is good that somebody relays", async || {
        match world.number(until).await - begun {
            longer if longer > 2 * lease.cast_signed() => Ok(()),
            other => Err(other),
        }
    })
    .await;
    assert!(!world.neighbours.stopped.borrow().contains(&id), "nobody takes it for lost");
    let mut frames = Framed::new(attached, FrameCodec);
    for (said, answered) in [(&b"still there?"[..], stdout(b"still there?")), (b"", Frame::Exit(7))]
    {
        let bytes = said.into();
        frames.send(Frame::Data { stream: Stream::Stdin, bytes }).await.unwrap();
        assert_eq!(frames.next().await.unwrap().unwrap(), answered);
    }
    // One that hangs up before could not be told from one that leaves a job.
    assert!(frames.next().await.is_none(), "the host has said all");
    drop(frames);
    stopped.await;
    assert_eq!(*world.neighbours.stopped.borrow(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_outlasts_the_grace_of_its_controller_is_stopped() {
    let world = World::start().await;
    let config = Config { attach_grace: std::time::Duration::ZERO, ..world.config.clone() };
    let (stopped, _attached, id) = stopping(&world, config).await;
    stopped.await;
    assert_eq!(*world.neighbours.stopped.borrow(), [id]);
}

fn stdout(bytes: &'static [u8]) -> Frame {
    Frame::Data { stream: Stream::Stdout, bytes: bytes.into() }
}

/// Attaches to a job over a connection of the test's own; answers it once frames follow.
async fn attach_raw(world: &World, app: &str) -> TcpStream {
    let addr = world.client.client().endpoint().to_string();
    let addr = addr.strip_prefix("http://").unwrap();
    let mut client = TcpStream::connect(addr).await.unwrap();
    let (key, body) = (BASE64_STANDARD.encode(format!(":{KEY}")), r#"{"args": ["sleep"]}"#);
    let head = format!(
        "POST /apps/{app}/jobs HTTP/1.1\r\nhost: {addr}\r\nauthorization: Basic {key}\r\n\
         connection: upgrade\r\nupgrade: {}\r\ncontent-length: {}\r\n\r\n{body}",
        attach::PROTOCOL,
        body.len()
    );
    client.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(client.read_u8().await.unwrap());
    }
    assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_was_reset_is_noticed_though_the_job_does_not_read_what_it_said() {
    let world = World::start().await;
    let app = world.app("one").await;
    let release = world.release(&app, &["web"], "serve").await;
    world.client.set_release("one", release.id).await.unwrap();
    world.neighbours.deaf.store(true, Ordering::Relaxed);
    let client = attach_raw(&world, "one").await;
    let id = newest(&world, &[]);
    let mut frames = Framed::new(client, FrameCodec);
    let frame = Frame::Data { stream: Stream::Stdin, bytes: vec![b'x'; 32 << 10].into() };
    // Until all that is between the two is full.
    let blocked = async {
        while tokio::time::timeout(Duration::from_secs(1), frames.send(frame.clone())).await.is_ok()
        {
        }
    };
    tokio::time::timeout(testkit::LIMIT, blocked).await.unwrap();
    assert_eq!(*world.neighbours.stopped.borrow(), []);
    let client = frames.into_inner();
    client.set_zero_linger().unwrap();
    drop(client);
    let mut stopped = world.neighbours.stopped.subscribe();
    let gone = stopped.wait_for(|stopped| stopped.contains(&id));
    tokio::time::timeout(testkit::LIMIT, gone).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_slowly_gets_all_that_a_job_said_before_it_ended() {
    const FRAMES: usize = 32;
    let world = World::start().await;
    let app = world.app("one").await;
    let release = world.release(&app, &["web"], "serve").await;
    world.client.set_release("one", release.id).await.unwrap();
    let client = attach_raw(&world, "one").await;
    let mut frames = Framed::new(client, FrameCodec);
    let bytes: Bytes = vec![b'x'; 32 << 10].into();
    let stdin = |bytes: &Bytes| Frame::Data { stream: Stream::Stdin, bytes: bytes.clone() };
    for _ in 0..FRAMES {
        frames.send(stdin(&bytes)).await.unwrap();
    }
    frames.send(Frame::eof(Stream::Stdin)).await.unwrap();
    // It reads nothing for longer than one that has heard all may take to close. Then what it says still resets nothing.
    let pause = std::future::pending::<()>();
    assert!(tokio::time::timeout(Duration::from_secs(6), pause).await.is_err());
    frames.send(stdin(&bytes)).await.unwrap();
    for _ in 0..FRAMES {
        let heard = Frame::Data { stream: Stream::Stdout, bytes: bytes.clone() };
        assert_eq!(frames.next().await.unwrap().unwrap(), heard);
    }
    assert_eq!(frames.next().await.unwrap().unwrap(), Frame::Exit(7));
}

#[tokio::test]
async fn a_job_that_no_host_took_has_ended() {
    let world = World::start().await;
    let app = world.app("one").await;
    let release = world.release(&app, &["web"], "serve").await;
    world.client.set_release("one", release.id).await.unwrap();
    *world.neighbours.refusal.lock().unwrap() = Some("its disk is full".into());
    let job = NewJob { args: vec!["cat".into()], ..NewJob::default() };
    let refused = world.client.run_job_attached("one", &job).await.unwrap_err();
    assert!(refused.to_string().contains("its disk is full"), "{refused}");
    let known = world.client.jobs("one").await.unwrap();
    assert!(
        !known.is_empty() && known.iter().all(|job| job.state == JobState::Crashed),
        "{known:?}"
    );
    assert!(known[0].host_error.as_ref().unwrap().contains("its disk is full"), "{known:?}");
}

#[tokio::test]
async fn a_host_that_does_not_attach_is_passed_over() {
    let world = World::without_controller().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let other = ("host-0".to_owned(), listener.local_addr().unwrap());
    // It is the first that is asked, and knows no such request; later it says nothing.
    let silent = Arc::new(AtomicBool::new(false));
    let is_silent = silent.clone();
    let answer = async move || match is_silent.load(Ordering::SeqCst) {
        true => std::future::pending().await,
        false => StatusCode::NOT_FOUND,
    };
    world.lifetime.serve(listener, axum::Router::new().fallback(answer));
    *world.neighbours.hosts.lock().unwrap() = vec![other.0.clone(), HOST.into()];
    *world.neighbours.other_host.lock().unwrap() = Some(other);
    let running = controller::start(world.config.clone(), &world.lifetime).await.unwrap();
    let world = World { client: client(running.addr), ..world };
    let app = world.app("one").await;
    let release = world.release(&app, &["web"], "serve").await;
    world.client.set_release("one", release.id).await.unwrap();
    let job = NewJob { args: vec!["cat".into()], ..NewJob::default() };
    world.client.run_job_attached("one", &job).await.unwrap();
    let known = world.client.jobs("one").await.unwrap();
    assert_eq!(known[0].host_id.as_deref(), Some(HOST));
    // Once no other is left, it is said what is wrong with it.
    *world.neighbours.hosts.lock().unwrap() = vec!["host-0".into()];
    let refused = world.client.run_job_attached("one", &job).await.unwrap_err();
    assert!(refused.to_string().contains("attaching to the job failed"), "{refused}");
    silent.store(true, Ordering::SeqCst);
    *world.neighbours.hosts.lock().unwrap() = vec!["host-0".into(), HOST.into()];
    let begun = Instant::now();
    world.client.run_job_attached("one", &job).await.unwrap();
    // The others must have their turn within the time for all of them.
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_job_that_is_vouched_for_at_the_last_moment_is_not_stopped() {
    let world = World::start().await;
    world.app("one").await;
    let (spoken_for, other) = (JobId::random(), JobId::random());
    let insert = |job: JobId| {
        format!(
            "INSERT INTO jobs (job_id, cluster_id, host_id, app_id, release_id, type, state, \
                 attached_until) \
             SELECT '{0}', '{HOST}-{job}', '{HOST}', app_id, app_id, '', 'up', \
                 now() - interval '1 s' FROM apps",
            job.uuid()
        )
    };
    let db = pg::Pool::new(world.config.database.clone(), 1);
    db.migrate(refinery::Runner::new(&[]).set_abort_missing(false)).await;
    let vouching = db.client().await.unwrap();
    world.sql(&insert(spoken_for)).await;
    let vouch = "BEGIN; UPDATE jobs SET attached_until = now() + interval '1 hour'";
    vouching.batch_execute(vouch).await.unwrap();
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted";
    testkit::wait_until("it shall be stopped", async || match world.number(waiting).await {
        0 => Err(()),
        _ => Ok(()),
    })
    .await;
    vouching.batch_execute("COMMIT").await.unwrap();
    world.sql(&insert(other)).await;
    let mut stopped = world.neighbours.stopped.subscribe();
    let gone = stopped.wait_for(|stopped| stopped.contains(&other));
    tokio::time::timeout(testkit::LIMIT, gone).await.unwrap().unwrap();
    assert_eq!(*world.neighbours.stopped.borrow(), [other]);
}
