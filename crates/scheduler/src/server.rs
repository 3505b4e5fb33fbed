//! Where the parts are made and joined.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use api_client::Client;
use axum::Router;
use controller_client::Controller;
use daemon::{Lifetime, reconcile::keep};
use discoverd_client::Discoverd;
use host_client::Cluster;
use tokio::{net::TcpListener, sync::watch};

use crate::{
    config::Config,
    execute::{Scheduler, keep_alarm},
    leadership::{Leadership, SERVICE},
    observe::{Observed, keep_formations, keep_hosts},
    tell::keep_telling,
};

/// The cluster is looked at so often even if nothing seems to happen.
const SWEEP: Duration = Duration::from_secs(3);

/// Longest wait for an answer of the controller or of the leading host: the next round asks again.
const ANSWER: Duration = Duration::from_secs(5);

/// A scheduler that runs.
#[derive(Debug, Clone, Copy)]
pub struct Running {
    /// Where it answers `/ping`.
    pub addr: SocketAddr,
}

/// The scheduler could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port is taken, mostly.
    #[error("{addr} cannot be listened on; is another process using the port?")]
    Bind {
        /// Where.
        addr: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Starts the scheduler. It acts as soon as discoverd says that it leads.
pub async fn start(config: Config, lifetime: &Lifetime) -> Result<Running, StartError> {
    let Config { listen, controller_key, host_key, discoverd, job_id } = config;
    let bind = |source| StartError::Bind { addr: listen, source };
    let listener = TcpListener::bind(listen).await.map_err(bind)?;
    let addr = listener.local_addr().map_err(bind)?;

    let discoverd = Discoverd::new(&discoverd, None);
    let hosts = discoverd.watch("flynn-host");
    let to_controller = Client::new(discoverd.watch("controller").endpoint(), Some(controller_key))
        .without_retries()
        .with_timeout(ANSWER);
    let controller = Controller::with_client(to_controller.clone());
    let client = Client::new(hosts.leader_endpoint(), Some(host_key.clone()))
        .without_retries()
        .with_timeout(ANSWER);
    let observed = Arc::new(Observed::new(uuid::Uuid::new_v4()));
    let (reports, to_tell) = watch::channel(None);
    let (alarm, alarms) = watch::channel(None);
    let cluster = Cluster::with_client(client);
    let status = daemon::status::status({
        let (observed, cluster) = (observed.clone(), cluster.clone());
        move || health(observed.clone(), cluster.clone())
    });
    let scheduler = Scheduler::new(
        observed.clone(),
        Leadership::new(job_id, discoverd.watch(SERVICE)),
        cluster,
        (reports, alarm),
        lifetime.clone(),
    );

    let known = observed.clone();
    lifetime.spawn("formations", |stop| keep_formations(controller, known, stop));
    let (known, tasks) = (observed.clone(), lifetime.clone());
    lifetime.spawn("hosts", |stop| keep_hosts(hosts, host_key, known, tasks, stop));
    lifetime.spawn("reports", |stop| keep_telling(to_controller, to_tell, stop));
    let known = observed.clone();
    lifetime.spawn("alarm", |stop| keep_alarm(alarms, known, stop));
    let (known, schedulers) = (observed.clone(), discoverd.watch(SERVICE));
    lifetime.spawn("leadership", |stop| nudge_on_change(schedulers, known, stop));
    lifetime.spawn("loop", async move |stop| keep(scheduler, &observed.nudge, SWEEP, stop).await);
    lifetime.serve_with_status(listener, Router::new(), status);
    Ok(Running { addr })
}

/// Whether it can do its work with the settings it has: it has listed the formations, and the leading host takes its key.
async fn health(observed: Arc<Observed>, cluster: Cluster) -> Result<(), String> {
    if !observed.has_listing() {
        return Err("the controller did not list the formations yet: is it there, and is \
                    CONTROLLER_KEY one of its keys?"
            .into());
    }
    match cluster.state().await {
        Ok(_) => Ok(()),
        Err(err) => Err(format!("the leading host cannot be asked: {err}")),
    }
}

async fn nudge_on_change(
    mut schedulers: discoverd_client::ServiceWatch,
    observed: Arc<Observed>,
    stop: tokio_util::sync::CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = schedulers.changed() => observed.nudge.notify_one(),
        }
    }
}
