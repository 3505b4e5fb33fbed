//! What the router serves follows etcd and discoverd, and stays as it is while they are away.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use api::{
    discoverd::{Event, EventKind},
    route::Route,
};
use api_client::Client;
use futures_util::StreamExt;
use keyspace::{Change, Update, Watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    domain::{
        discovery::{Changes, Discovery},
        route,
    },
    live::{Live, Table, Target},
    proxy::TcpRoutes,
    store::id_of,
    tls,
};

/// How often connections are looked after, and ports that could not be bound are tried again.
const SWEEP: Duration = Duration::from_secs(1);
/// A backend that vanished without being withdrawn is used, last of all, for so long.
const SUSPECT_LIMIT: Duration = Duration::from_secs(60);
/// Pause before discoverd is asked again; doubles with each attempt.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause.
const LAST_PAUSE: Duration = Duration::from_millis(500);

/// Keeps the table of routes the same as in etcd.
pub(crate) async fn keep_routes(
    mut watch: Watch,
    live: Arc<Live>,
    mut tcp: TcpRoutes,
    stop: CancellationToken,
) {
    let mut targets = BTreeMap::new();
    let mut tick = interval(SWEEP);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let update = tokio::select! {
            () = stop.cancelled() => return,
            update = watch.next() => update,
            _ = tick.tick() => {
                if tcp.is_incomplete() {
                    tcp.reconcile();
                }
                continue;
            }
        };
        match update {
            Update::Change(change) => apply(&mut targets, change, &live),
            Update::Synced { revision } => {
                live.replace(table(&targets));
                tcp.reconcile();
                live.reached(revision);
            }
            // The watch says so itself, and what is known still stands.
            Update::Lost { .. } => {}
        }
    }
}

/// Keeps the backends the same as in discoverd.
pub(crate) async fn keep_services(discoverd: Client, live: Arc<Live>, stop: CancellationToken) {
    let mut discovery = Discovery::default();
    let mut suspects = Suspects::default();
    let mut pause = FIRST_PAUSE;
    loop {
        let followed = follow(&discoverd, &mut discovery, &mut suspects, &live);
        let (err, began) = match stop.run_until_cancelled(followed).await {
            Some(ended) => ended,
            None => return,
        };
        if began {
            pause = FIRST_PAUSE;
        }
        let reason = err.map_or("the stream ended".to_owned(), |err| err.to_string());
        warn!(reason, "discoverd cannot be followed; the backends stay as they are");
        if stop.run_until_cancelled(sleep(pause)).await.is_none() {
            return;
        }
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// Follows discoverd until the stream ends. Answers with why, and whether it had begun.
async fn follow(
    discoverd: &Client,
    discovery: &mut Discovery,
    suspects: &mut Suspects,
    live: &Live,
) -> (Option<api_client::Error>, bool) {
    let events = match discoverd.events::<Event>("/services").await {
        Ok(events) => events,
        Err(err) => return (Some(err), false),
    };
    discovery.begin();
    let mut events = std::pin::pin!(events);
    let mut tick = interval(SWEEP);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            _ = tick.tick() => {
                for (service, addr) in suspects.expired(Instant::now()) {
                    apply_services(discovery.forget(&service, addr), live);
                }
                continue;
            }
        };
        match event {
            Some(Ok(event)) => {
                suspects.note(&event, Instant::now());
                apply_services(discovery.apply(event), live);
            }
            Some(Err(err)) => return (Some(err), true),
            None => return (None, true),
        }
    }
}

fn apply_services(changes: Option<Changes>, live: &Live) {
    if let Some((changes, revision)) = changes {
        live.services.apply(changes, revision);
    }
}

/// Addresses that vanished without being withdrawn, since when.
#[derive(Debug, Default)]
struct Suspects(BTreeMap<(String, SocketAddr), Instant>);

impl Suspects {
    fn note(&mut self, event: &Event, now: Instant) {
        let addr = event.instance.as_ref().and_then(|instance| instance.addr.parse().ok());
        let Some(addr) = addr else { return };
        let key = (event.service.clone(), addr);
        match event.kind {
            EventKind::Down if event.suspect => drop(self.0.insert(key, now)),
            EventKind::Up | EventKind::Down => drop(self.0.remove(&key)),
            _ => {}
        }
    }

    fn expired(&mut self, now: Instant) -> Vec<(String, SocketAddr)> {
        let old = self.0.extract_if(.., |_, since| now - *since > SUSPECT_LIMIT);
        old.map(|(key, _)| key).collect()
    }
}

/// Closes connections that are of no use any more.
pub(crate) async fn keep_swept(live: Arc<Live>, stop: CancellationToken) {
    let mut tick = interval(SWEEP);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        live.services.sweep(SWEEP);
    }
}

fn apply(targets: &mut BTreeMap<String, Arc<Target>>, change: Change, live: &Live) {
    let id = id_of(&change.key);
    let Some(value) = change.value else {
        targets.remove(id);
        info!(route.id = id, "route {id} was removed");
        return;
    };
    match target(id, &value, live) {
        Ok(target) => {
            let service = target.service.name();
            info!(route.id = id, service, "route {id} leads to {service}");
            targets.insert(id.to_owned(), Arc::new(target));
        }
        Err(reason) => {
            error!(route.id = id, reason, "route {id} cannot be served; the others are");
            targets.remove(id);
        }
    }
}

/// A route out of etcd, checked as if it had just been given: whoever wrote it may have been another version.
fn target(id: &str, value: &[u8], live: &Live) -> Result<Target, String> {
    let stored: Route = serde_json::from_slice(value).map_err(|err| err.to_string())?;
    let mut route = route::canonical(stored).map_err(|err| err.to_string())?;
    if route.id != id {
        return Err(format!("it is stored under the id of another one; its own is {}", route.id));
    }
    let key = route.tls_key.take();
    let certificate = match (&route.tls_cert, key) {
        (Some(chain), Some(key)) => {
            let pair = tls::certified(chain, &key);
            Some(pair.map_err(|err| format!("tls_cert {err}"))?)
        }
        _ => None,
    };
    let service = live.services.service(&route.service);
    Ok(Target { route, service, certificate })
}

fn table(targets: &BTreeMap<String, Arc<Target>>) -> Table {
    let mut table = Table::default();
    for target in targets.values() {
        let route = &target.route;
        match route.kind.as_str() {
            "tcp" => table.routes.add_tcp(route.port, target.clone()),
            _ => table.routes.add_http(&route.domain, &route.path, target.clone()),
        }
        if let Some(certificate) = &target.certificate {
            table.certificates.insert(&route.domain, certificate.clone());
        }
        table.all.push(target.clone());
    }
    table
}
