//! `/sync` and `/drain`: waiting for this router.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use api::route::{Drain, Drained, Sync};
use axum::{Json, extract::State};
use daemon::{ApiError, Query};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use crate::{error::Error, routes::Api};

/// Longest wait.
const LIMIT_MS: u64 = 600_000;

fn deadline(timeout_ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(timeout_ms.min(LIMIT_MS))
}

/// `GET /sync`
pub(crate) async fn sync(
    State(api): State<Api>,
    Query(sync): Query<Sync>,
) -> Result<Json<serde_json::Value>, ApiError> {
    let deadline = deadline(sync.timeout_ms);
    until_seen("routes", api.live.revision(), sync.routes, deadline).await?;
    until_bound(api.live.unbound(), sync.routes, deadline).await?;
    until_seen("services", api.live.services.revision(), sync.services, deadline).await?;
    if let Some(predecessor) = &api.predecessor {
        predecessor.sync(sync).await?;
    }
    Ok(Json(serde_json::json!({})))
}

/// `GET /drain`
pub(crate) async fn drain(
    State(api): State<Api>,
    Query(drain): Query<Drain>,
) -> Result<Json<Drained>, ApiError> {
    let deadline = deadline(drain.timeout_ms);
    let addr: SocketAddr = drain.addr.parse().map_err(|_| Error::Addr(drain.addr.clone()))?;
    until_seen("services", api.live.services.revision(), drain.services, deadline).await?;
    let own = api.live.services.drain(addr, deadline, drain.keep_open);
    let (own, before) = tokio::join!(own, drain_predecessor(&api, &drain));
    let (own, before) = (own.map_err(Error::from)?, before?);
    Ok(Json(Drained { closed: own.closed + before.closed, open: own.open + before.open }))
}

/// What is under way from the router before this one, which is still there for a while.
async fn drain_predecessor(api: &Api, drain: &Drain) -> Result<Drained, Error> {
    match &api.predecessor {
        Some(predecessor) => predecessor.drain(drain).await,
        None => Ok(Drained::default()),
    }
}

/// Waits until the route of that revision, if it is for a port, has it.
async fn until_bound(
    mut unbound: watch::Receiver<BTreeMap<u64, u16>>,
    revision: u64,
    deadline: Instant,
) -> Result<(), Error> {
    let bound = unbound.wait_for(|unbound| !unbound.contains_key(&revision));
    if let Ok(Ok(_)) = timeout_at(deadline, bound).await {
        return Ok(());
    }
    let port = unbound.borrow().get(&revision).copied();
    port.map_or(Ok(()), |port| Err(Error::Unbound(port)))
}

async fn until_seen(
    what: &'static str,
    mut revision: watch::Receiver<Option<u64>>,
    asked: u64,
    deadline: Instant,
) -> Result<(), Error> {
    if asked == 0 {
        return Ok(());
    }
    let waited = revision.wait_for(|seen| *seen >= Some(asked));
    if let Ok(Ok(_)) = timeout_at(deadline, waited).await {
        return Ok(());
    }
    let seen = *revision.borrow();
    Err(Error::NotSeen { what, seen, asked })
}
