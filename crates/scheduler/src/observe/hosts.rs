//! What runs: the event stream of every host that discoverd names.

use std::{collections::BTreeMap, error::Error, sync::Arc};

use api_client::Client;
use daemon::Lifetime;
use discoverd_client::ServiceWatch;
use futures_util::StreamExt;
use host_client::Host;
use jiff::Timestamp;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{Observed, PAUSES};

/// Follows every host for as long as discoverd names it, at the address it has there.
pub async fn keep_hosts(
    mut hosts: ServiceWatch,
    key: String,
    observed: Arc<Observed>,
    lifetime: Lifetime,
    stop: CancellationToken,
) {
    let mut followed: BTreeMap<(String, String), CancellationToken> = BTreeMap::new();
    loop {
        let named: Vec<(String, String)> = hosts
            .borrow()
            .instances
            .values()
            .filter_map(|host| Some((host.meta.get("id")?.clone(), host.addr.clone())))
            .collect();
        followed.retain(|host, follower| {
            let stays = named.contains(host);
            if !stays {
                info!(host.id = host.0, "discoverd no longer names host {} at {}", host.0, host.1);
                follower.cancel();
            }
            stays
        });
        for (id, addr) in named {
            let host = (id.clone(), addr.clone());
            if followed.contains_key(&host) {
                continue;
            }
            info!(host.id = id, "following host {id} at {addr}");
            let follower = stop.child_token();
            followed.insert(host, follower.clone());
            let client = Client::new(format!("http://{addr}"), Some(key.clone())).without_retries();
            let host = Host::with_client(client);
            let observed = observed.clone();
            lifetime.spawn("host", move |_| keep_host(id, host, observed, follower));
        }
        observed.nudge.notify_one();
        tokio::select! {
            () = stop.cancelled() => return,
            () = hosts.changed() => {}
        }
    }
}

async fn keep_host(id: String, host: Host, observed: Arc<Observed>, stop: CancellationToken) {
    let mut pause = PAUSES.0;
    let mut down = false;
    while !stop.is_cancelled() {
        let mut opened = false;
        let ended = tokio::select! {
            () = stop.cancelled() => Ok(()),
            ended = follow(&id, &host, &observed, &mut opened) => ended,
        };
        observed.lost(&id);
        if opened {
            (pause, down) = (PAUSES.0, false);
        }
        if let Err(err) = ended {
            if down {
                debug!(error = &*err, host.id = id, "host {id} still does not answer");
            } else {
                warn!(error = &*err, host.id = id, "lost host {id}; what it told stands");
            }
            down = true;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = sleep(pause) => {}
        }
        pause = (pause * 2).min(PAUSES.1);
    }
}

async fn follow(
    id: &str,
    host: &Host,
    observed: &Observed,
    opened: &mut bool,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut events = std::pin::pin!(host.events().await?);
    observed.opened(id);
    while let Some(event) = events.next().await {
        *opened = true;
        observed.told(id, event?, Timestamp::now());
    }
    Err("the host closed the stream of its events".into())
}
