//! Running a command while what it needs is there.

use std::{future::poll_fn, process::ExitCode, task::Poll, time::Duration};

use discoverd_client::{Discoverd, ServiceSet, ServiceWatch};
use rustix::process::Signal;
use tokio::{process::Child, time::timeout};

use crate::{
    child::{self, Interrupts},
    words::Needed,
};

/// How long a command has to end.
const GRACE: Duration = Duration::from_secs(5);

/// A needed service and what is known of it.
struct Watched {
    variable: String,
    watch: ServiceWatch,
}

/// Runs a command whenever every service has a leader, and ends it when one has nobody left.
pub(super) async fn run(
    discoverd: &Discoverd,
    needed: &[Needed],
    command: &[String],
) -> anyhow::Result<ExitCode> {
    let mut interrupts = Interrupts::catch()?;
    let mut watched: Vec<Watched> = needed
        .iter()
        .map(|Needed { variable, service }| Watched {
            variable: variable.clone(),
            watch: discoverd.watch(service),
        })
        .collect();
    loop {
        let variables = tokio::select! {
            variables = complete(&mut watched) => variables,
            _ = interrupts.next() => return Ok(ExitCode::SUCCESS),
        };
        let mut running = child::start(command, variables)?;
        loop {
            tokio::select! {
                status = running.wait() => return Ok(child::exit_code(status?)),
                signal = interrupts.next() => child::send(&running, signal),
                () = incomplete(&mut watched) => break,
            }
        }
        end(&mut running).await?;
    }
}

/// Waits until every service has a leader; answers with their addresses.
async fn complete(watched: &mut [Watched]) -> Vec<(String, String)> {
    let led = |set: &ServiceSet| set.leader.is_some();
    loop {
        for one in watched.iter_mut() {
            one.watch.wait_for(led).await;
        }
        let leaders = watched.iter().map(|one| {
            let leader = one.watch.borrow().leader.clone()?;
            Some((one.variable.clone(), leader.instance.addr))
        });
        // One may have lost its leader while another was waited for.
        if let Some(variables) = leaders.collect() {
            return variables;
        }
    }
}

/// Waits until some service has no instance.
async fn incomplete(watched: &mut [Watched]) {
    let mut waiting: Vec<_> = watched
        .iter_mut()
        .map(|one| Box::pin(one.watch.wait_for(|set| set.instances.is_empty())))
        .collect();
    poll_fn(|context| {
        let ready = waiting.iter_mut().any(|one| one.as_mut().poll(context).is_ready());
        if ready { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

async fn end(running: &mut Child) -> anyhow::Result<()> {
    child::send(running, Signal::TERM);
    if timeout(GRACE, running.wait()).await.is_err() {
        running.kill().await?;
    }
    Ok(())
}
