//! The router after this one.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use api::route::{Drain, Drained, Sync};
use axum::{Json, Router, extract::State, routing::post};
use daemon::{ApiError, Query};
use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use tokio::{
    net::{UnixListener, UnixStream},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{Doors, HANDOVER_TIMEOUT, Phase, Predecessor, is_one_of_us, shown, wire::send_doors};
use crate::{handlers::wait, routes::Api};

/// The name is the predecessor's until it has handed over; whether it is free is looked at this often.
const NAME_INTERVAL: Duration = Duration::from_millis(100);

/// What a successor may ask for.
#[derive(Debug, Clone)]
pub(crate) struct Control {
    /// What it takes over.
    doors: Arc<Doors>,
    /// Whom to tell that there is somebody after it.
    predecessor: Option<Arc<Predecessor>>,
    is_released: Arc<AtomicBool>,
    router: Router,
}

impl Control {
    /// For the successor of the router with this API.
    pub(crate) fn new(doors: Arc<Doors>, predecessor: Option<Arc<Predecessor>>, api: Api) -> Self {
        let is_released = Arc::<AtomicBool>::default();
        let states = (doors.clone(), is_released.clone());
        let told = Router::new()
            .route("/serving", post(async |State((doors, _)): State<States>| doors.shut()))
            .route("/resume", post(async |State((doors, _)): State<States>| doors.open()))
            .route("/release", post(release))
            .with_state(states);
        let asked = Router::new().route("/sync", post(sync)).route("/drain", post(drain));
        Self { doors, predecessor, is_released, router: told.merge(asked.with_state(api)) }
    }
}

type States = (Arc<Doors>, Arc<AtomicBool>);

async fn release(State((doors, is_released)): State<States>) {
    is_released.store(true, Ordering::SeqCst);
    doors.close();
}

async fn sync(
    api: State<Api>,
    Json(sync): Json<Sync>,
) -> Result<Json<serde_json::Value>, ApiError> {
    wait::sync(api, Query(sync)).await
}

async fn drain(api: State<Api>, Json(drain): Json<Drain>) -> Result<Json<Drained>, ApiError> {
    wait::drain(api, Query(drain)).await
}

/// Hands the sockets over to whoever comes next, and takes them back from one that ends.
pub(crate) async fn keep_successors(name: &Path, control: Control, stop: CancellationToken) {
    let served = async {
        control.doors.until(Phase::Open).await;
        while !control.is_released.load(Ordering::SeqCst) {
            let listener = bind(name).await;
            let Some(stream) = give(name, &listener, &control.doors).await else { continue };
            serve(stream, listener, &control).await;
            if !control.is_released.load(Ordering::SeqCst) {
                control.doors.open();
            }
        }
    };
    stop.run_until_cancelled(served).await;
}

async fn bind(name: &Path) -> UnixListener {
    loop {
        match UnixListener::bind(name) {
            Ok(listener) => return listener,
            Err(err) if err.kind() == io::ErrorKind::AddrInUse => {}
            Err(err) => {
                let name = shown(name);
                debug!(error = &err as &dyn std::error::Error, "{name} cannot be listened at");
            }
        }
        sleep(NAME_INTERVAL).await;
    }
}

/// Waits for a successor and hands it the sockets.
async fn give(name: &Path, listener: &UnixListener, doors: &Doors) -> Option<UnixStream> {
    let (stream, _) = match listener.accept().await {
        Ok(accepted) => accepted,
        Err(err) => {
            debug!(error = &err as &dyn std::error::Error, "a router could not be accepted");
            sleep(NAME_INTERVAL).await;
            return None;
        }
    };
    match is_one_of_us(&stream) {
        Ok(true) => {}
        _ => {
            warn!("another user asks {} for the router's sockets, and gets none", shown(name));
            return None;
        }
    }
    doors.lend_api();
    match timeout(HANDOVER_TIMEOUT, send_doors(&stream, &doors.all())).await {
        Ok(Ok(())) => Some(stream),
        other => {
            warn!(?other, "the next router did not take the sockets");
            doors.open();
            None
        }
    }
}

/// Does what the successor asks for until it is gone. The name is let go of when that serves.
async fn serve(stream: UnixStream, listener: UnixListener, control: &Control) {
    let service = TowerToHyperService::new(control.router.clone());
    let connection =
        http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
    let handed_on = async {
        control.doors.until(Phase::Shut).await;
        drop(listener);
        if let Some(predecessor) = &control.predecessor {
            predecessor.release().await;
        }
        std::future::pending().await
    };
    tokio::select! {
        ended = connection => debug!(?ended, "the next router is gone"),
        () = handed_on => {}
    }
}
