//! What the router serves follows etcd and discoverd, and stays as it is while they are away.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    panic::resume_unwind,
    sync::Arc,
    time::Duration,
};

use discoverd_client::AllWatch;
use futures_util::future::join_all;
use keyspace::{Change, Update, Watch};
use tokio::{
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    domain::{discovery::Discovery, route},
    live::{Live, Table, Target},
    proxy::TcpRoutes,
    seal::{SealError, seal_all},
    store::{Routes, id_of},
    tls::{self, CertificateError},
};

/// How often connections are looked after, and ports that could not be bound are tried again.
const SWEEP: Duration = Duration::from_secs(1);
/// Pause before keys that could not be sealed are sealed.
const SEAL_INTERVAL: Duration = Duration::from_secs(5);

/// Keeps the table of routes the same as in etcd.
pub(crate) async fn keep_routes(
    mut watch: Watch,
    live: Arc<Live>,
    mut tcp: TcpRoutes,
    stop: CancellationToken,
) {
    let mut targets = BTreeMap::new();
    let mut unopened = BTreeSet::new();
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
            Update::Change(change) => apply(&mut targets, &mut unopened, change, &live),
            Update::Synced { revision } => {
                targets = serve(targets, &live).await;
                live.count_unopened(unopened.len());
                tcp.reconcile();
                live.reached(revision);
            }
            // The watch says so itself, and what is known still stands.
            Update::Lost { .. } => {}
        }
    }
}

/// Keeps the backends the same as in discoverd.
pub(crate) async fn keep_services(mut watch: AllWatch, live: Arc<Live>, stop: CancellationToken) {
    let mut discovery = Discovery::default();
    let mut tick = interval(SWEEP);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let services = watch.borrow();
        if services.current {
            let changes = discovery.changes(&services, Instant::now().into_std());
            live.services.apply(changes, services.revision);
        }
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = watch.changed() => break,
                _ = tick.tick() => {
                    if discovery.is_waiting() {
                        break;
                    }
                }
            }
        }
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

/// Finds out which of the backends that vanished without being withdrawn are dead.
pub(crate) async fn keep_probed(live: Arc<Live>, stop: CancellationToken) {
    let mut tick = interval(SWEEP);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        join_all(live.services.in_doubt().iter().map(|backend| backend.probe())).await;
    }
}

/// Serves these routes from now on. Their table is made, and the one before is dropped, where no request waits for it: of
/// 100,000 routes that takes 50 ms.
async fn serve(
    targets: BTreeMap<String, Arc<Target>>,
    live: &Arc<Live>,
) -> BTreeMap<String, Arc<Target>> {
    let live = live.clone();
    let made = spawn_blocking(move || {
        live.replace(table(&targets));
        targets
    });
    made.await.unwrap_or_else(|err| resume_unwind(err.into_panic()))
}

/// Seals what is stored otherwise, once etcd lets it.
pub(crate) async fn keep_sealed(routes: Routes, stop: CancellationToken) {
    let mut tick = interval(SEAL_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        match seal_all(&routes).await {
            Ok(()) => return,
            Err(err) => {
                let error = &err as &dyn Error;
                warn!(error, "the keys of certificates are not all sealed yet; trying again");
            }
        }
    }
}

/// Why what is stored under the id of a route is not served.
#[derive(Debug, thiserror::Error)]
enum TargetError {
    #[error("it is no route: {0}")]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    Invalid(#[from] route::Invalid),
    #[error("it is stored under the id of another one; its own is {0}")]
    OtherId(String),
    #[error("tls_key {0}")]
    Sealed(#[from] SealError),
    #[error("tls_cert {0}")]
    Certificate(#[from] CertificateError),
}

/// Takes a change over. The ids of routes that are not served because their keys cannot be opened are in `unopened`.
fn apply(
    targets: &mut BTreeMap<String, Arc<Target>>,
    unopened: &mut BTreeSet<String>,
    change: Change,
    live: &Live,
) {
    let id = id_of(&change.key);
    unopened.remove(id);
    let Some(value) = change.value else {
        targets.remove(id);
        info!(route.id = id, "route {id} was removed");
        return;
    };
    match target(id, &value, live) {
        Ok(mut target) => {
            target.revision = change.mod_revision;
            let service = target.service.name();
            info!(route.id = id, service, "route {id} leads to {service}");
            targets.insert(id.to_owned(), Arc::new(target));
        }
        // As it was before it is better than not at all: a newer version may have written it, in the middle of an upgrade.
        Err(err) if targets.contains_key(id) => {
            let error = &err as &dyn Error;
            error!(
                route.id = id,
                error, "a change of route {id} cannot be read; it stays as it was"
            );
        }
        Err(err) => {
            if matches!(err, TargetError::Sealed(_)) {
                unopened.insert(id.to_owned());
            }
            let error = &err as &dyn Error;
            error!(route.id = id, error, "route {id} cannot be served; the others are");
        }
    }
}

/// A route out of etcd, checked as if it had just been given: whoever wrote it may have been another version.
fn target(id: &str, value: &[u8], live: &Live) -> Result<Target, TargetError> {
    let mut route = route::canonical(serde_json::from_slice(value)?)?;
    if route.id != id {
        return Err(TargetError::OtherId(route.id));
    }
    let key = route.tls_key.take();
    let certificate = match (&route.tls_cert, key) {
        (Some(chain), Some(key)) => Some(tls::certified(chain, &live.seal.open(id, &key)?)?),
        _ => None,
    };
    let service = live.services.service(&route.service);
    Ok(Target::new(route, service, certificate, &live.sticky))
}

fn table(targets: &BTreeMap<String, Arc<Target>>) -> Table {
    let mut table = Table::default();
    for target in targets.values() {
        let route = &target.route;
        match route.kind.as_str() {
            "tcp" => table.routes.add_tcp(route.port, target.clone()),
            _ => table.routes.add_http(&route.domain, &route.path, target.clone()),
        }
        table.all.push(target.clone());
    }
    // Those of paths were taken once, and hold where the domain has none of its own.
    let of_paths = |target: &&Arc<Target>| !target.route.path.is_empty();
    let (paths, domains): (Vec<_>, Vec<_>) = targets.values().partition(of_paths);
    for target in paths.into_iter().chain(domains) {
        if let Some(certificate) = &target.certificate {
            table.certificates.insert(&target.route.domain, certificate.clone());
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use api::route::Route;

    use super::*;
    use crate::{acme::Acme, seal::Seals};

    fn change(route: &Route, value: &str) -> Change {
        Change {
            key: crate::store::key(&route::id(route)),
            value: Some(value.to_owned().into()),
            create_revision: 1,
            mod_revision: 1,
            lease: None,
        }
    }

    fn route(path: &str, of: Option<&rcgen::CertifiedKey<rcgen::KeyPair>>) -> Route {
        let route = Route {
            kind: "http".into(),
            domain: "a.example".into(),
            path: path.into(),
            service: "app".into(),
            tls_cert: of.map(|pair| pair.cert.pem()),
            tls_key: of.map(|pair| pair.signing_key.serialize_pem()),
            ..Route::default()
        };
        route::canonical(route).unwrap()
    }

    #[test]
    fn a_change_that_cannot_be_read_leaves_the_route_as_it_was() {
        let (live, mut targets) = (Live::default(), BTreeMap::new());
        let apply = |targets: &mut _, change| apply(targets, &mut BTreeSet::new(), change, &live);
        let route = route("/", None);
        apply(&mut targets, change(&route, "{}"));
        assert!(targets.is_empty());
        apply(&mut targets, change(&route, &serde_json::to_string(&route).unwrap()));
        apply(&mut targets, change(&route, "{}"));
        assert_eq!(targets.values().next().unwrap().route.service, "app");
    }

    #[test]
    fn a_key_that_cannot_be_opened_is_counted_until_the_route_is_served_or_gone() {
        let pair = rcgen::generate_simple_self_signed(["a.example".into()]).unwrap();
        let stored = |seal: &Seals| {
            let mut route = route("/", Some(&pair));
            route.tls_key = route.tls_key.map(|key| seal.close(&route.id, &key));
            change(&route, &serde_json::to_string(&route).unwrap())
        };
        let (own, other) = (Arc::new(Seals::new("own")), Seals::new("other"));
        let (live, mut targets, mut unopened) =
            (Live::new(own.clone(), Acme::default()), BTreeMap::new(), BTreeSet::new());
        apply(&mut targets, &mut unopened, stored(&other), &live);
        assert_eq!((targets.len(), unopened.len()), (0, 1));
        apply(&mut targets, &mut unopened, stored(&own), &live);
        assert_eq!((targets.len(), unopened.len()), (1, 0));
        apply(&mut targets, &mut unopened, stored(&other), &live);
        assert_eq!((targets.len(), unopened.len()), (1, 0), "it is served as it was");
    }

    #[test]
    fn the_certificate_of_a_domain_is_its_own_whatever_its_paths_bring() {
        let pairs =
            [(); 4].map(|()| rcgen::generate_simple_self_signed(["a.example".into()]).unwrap());
        let shown = |paths: &[&str]| {
            let (live, mut targets) = (Live::default(), BTreeMap::new());
            for (path, pair) in paths.iter().zip(&pairs) {
                let route = route(path, Some(pair));
                let change = change(&route, &serde_json::to_string(&route).unwrap());
                apply(&mut targets, &mut BTreeSet::new(), change, &live);
            }
            let table = table(&targets);
            let certificate = table.certificates.matches("a.example").next().unwrap();
            certificate.end_entity_cert().unwrap().to_vec()
        };
        let own = pairs[1].cert.der().to_vec();
        assert_eq!(shown(&["/x", "/", "/y", "/z"]), own);
        assert_ne!(shown(&["/x"]), own, "one of a path holds where there is no other");
    }
}
