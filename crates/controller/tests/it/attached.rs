//! Attached jobs and the controllers between them and their clients.

use std::{net::SocketAddr, thread};

use api::{controller::NewJob, id::JobId};
use controller::Config;
use daemon::Lifetime;
use tokio::{runtime, sync::oneshot};

use crate::{
    scheduler::Scheduler,
    world::{World, client},
};

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
