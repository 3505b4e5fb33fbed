//! What the router serves at this moment.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering},
    },
};

use api::{
    certificate::{CertificateIssuer, CertificateState, CertificateStatus},
    route::Route,
};
use arc_swap::{ArcSwap, Guard};
use http::HeaderValue;
use rustls::sign::CertifiedKey;
use tokio::sync::{Notify, futures::Notified, watch};

use crate::{
    acme::{Acme, Served},
    backend::{Service, Services},
    domain::{
        limits::Limits,
        sticky::Keys,
        table::{HostMap, RouteTable},
    },
    gate::Clients,
    meters::Meters,
    seal::Seals,
    validity::validity,
};

/// Where a route leads.
#[derive(Debug)]
pub(crate) struct Target {
    /// The route, without the key of its certificate.
    pub(crate) route: Route,
    /// That of its last change in etcd.
    pub(crate) revision: u64,
    /// Its service.
    pub(crate) service: Arc<Service>,
    /// Its certificate.
    pub(crate) certificate: Option<Arc<CertifiedKey>>,
    /// The keys of cookies, if it keeps each client at a backend.
    pub(crate) sticky: Option<Arc<Keys>>,
    /// Whether a certificate of its domain is served, be it a route's or one that was ordered.
    is_secure: AtomicBool,
    /// What is told to browsers over HTTPS.
    pub(crate) hsts: Option<HeaderValue>,
}

impl Target {
    /// Where a canonical route leads. `sticky` are the keys of cookies, for a route that wants any.
    pub(crate) fn new(
        route: Route,
        service: Arc<Service>,
        certificate: Option<Arc<CertifiedKey>>,
        sticky: &Arc<Keys>,
    ) -> Self {
        let hsts = route.hsts.map(|seconds| format!("max-age={seconds}"));
        let hsts = hsts.and_then(|text| HeaderValue::try_from(text).ok());
        let sticky = route.sticky.then(|| sticky.clone());
        let is_secure = AtomicBool::new(false);
        Self { route, revision: 0, service, certificate, sticky, is_secure, hsts }
    }

    /// Whether plain HTTP is answered by a redirect to HTTPS.
    pub(crate) fn redirects(&self) -> bool {
        self.route.redirect != Some(false) && self.is_secure.load(Ordering::Relaxed)
    }
}

/// All routes at one revision.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// To look up.
    pub(crate) routes: RouteTable<Arc<Target>>,
    /// By server name.
    pub(crate) certificates: HostMap<Arc<CertifiedKey>>,
    /// To list, by id.
    pub(crate) all: Vec<Arc<Target>>,
}

/// The routes and backends in use, and how new they are.
#[derive(Debug)]
pub(crate) struct Live {
    table: ArcSwap<Table>,
    revision: watch::Sender<Option<u64>>,
    /// The backends.
    pub(crate) services: Services,
    /// Clients' connections.
    pub(crate) clients: Arc<Clients>,
    /// Ports of tcp routes that could not be bound, by the revisions of the routes.
    unbound: watch::Sender<BTreeMap<u64, u16>>,
    /// The keys of cookies that keep clients at a backend.
    pub(crate) sticky: Arc<Keys>,
    /// What was counted.
    pub(crate) meters: Meters,
    /// What opens the keys of certificates.
    pub(crate) seal: Arc<Seals>,
    https_port: AtomicU16,
    /// Certificates by themselves.
    pub(crate) acme: Acme,
    /// Held while it is written to the routes whether their domains have a certificate.
    securing: Mutex<()>,
    unopened: AtomicUsize,
    stopping: AtomicBool,
    stopped: Notify,
}

impl Default for Live {
    fn default() -> Self {
        Self::new(Arc::default(), Acme::default())
    }
}

impl Live {
    /// Nothing yet, with what opens the keys of certificates and certificates by themselves.
    pub(crate) fn new(seal: Arc<Seals>, acme: Acme) -> Self {
        Self {
            table: ArcSwap::default(),
            revision: watch::channel(None).0,
            services: Services::default(),
            clients: Clients::new(Limits::NONE.connections, u32::MAX),
            unbound: watch::channel(BTreeMap::new()).0,
            sticky: Arc::default(),
            meters: Meters::default(),
            seal,
            https_port: AtomicU16::new(443),
            acme,
            securing: Mutex::default(),
            unopened: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            stopped: Notify::new(),
        }
    }

    /// The same with limits; clients will be kept at backends with the router's own keys.
    pub(crate) fn limited(
        services: Services,
        clients: Arc<Clients>,
        keys: &str,
        seal: Arc<Seals>,
        acme: Acme,
    ) -> Self {
        let sticky = Arc::new(Keys::derive(keys));
        Self { services, clients, sticky, ..Self::new(seal, acme) }
    }

    /// The routes now.
    pub(crate) fn table(&self) -> Guard<Arc<Table>> {
        self.table.load()
    }

    /// Serves other routes from now on.
    pub(crate) fn replace(&self, table: Table) {
        let _alone = self.securing.lock().unwrap_or_else(PoisonError::into_inner);
        self.secure(&table);
        self.table.store(Arc::new(table));
    }

    /// Serves other certificates that were ordered from now on.
    pub(crate) fn serve_automatic(&self, served: Served) {
        let _alone = self.securing.lock().unwrap_or_else(PoisonError::into_inner);
        self.acme.replace(served);
        self.secure(&self.table());
    }

    fn secure(&self, table: &Table) {
        let served = self.acme.served();
        for target in &table.all {
            let domain = &target.route.domain;
            let is_secure = table.certificates.get(domain).is_some()
                || served.certificates.contains_key(domain);
            target.is_secure.store(is_secure, Ordering::Relaxed);
        }
    }

    /// How a domain stands with its certificate; `None` if there is none and none is ordered here.
    pub(crate) fn certificate_status(&self, domain: &str) -> Option<CertificateStatus> {
        let table = self.table();
        let Some(own) = table.certificates.get(domain) else { return self.acme.status(domain) };
        Some(CertificateStatus {
            issuer: CertificateIssuer::Own,
            state: CertificateState::Served,
            not_after: validity(own).ok().map(|validity| validity.not_after),
            problem: None,
            detail: None,
            next_try: None,
        })
    }

    /// Tells that the routes served are those of a revision.
    pub(crate) fn reached(&self, revision: u64) {
        // An etcd that lost its last changes begins again with lower ones.
        self.revision.send_if_modified(|seen| seen.replace(revision) != Some(revision));
    }

    /// The revision of the routes; `None` before they were read the first time.
    pub(crate) fn revision(&self) -> watch::Receiver<Option<u64>> {
        self.revision.subscribe()
    }

    /// The ports of tcp routes that cannot be served, by the revisions of the routes.
    pub(crate) fn unbound(&self) -> watch::Receiver<BTreeMap<u64, u16>> {
        self.unbound.subscribe()
    }

    /// Tells which those are.
    pub(crate) fn set_unbound(&self, ports: BTreeMap<u64, u16>) {
        self.unbound.send_if_modified(|known| {
            let differs = *known != ports;
            *known = ports;
            differs
        });
    }

    /// Whether the routes were read: without, that none leads somewhere means nothing.
    pub(crate) fn knows_routes(&self) -> bool {
        self.revision.borrow().is_some()
    }

    /// Tells how many routes there are whose certificate's key could not be opened.
    pub(crate) fn count_unopened(&self, count: usize) {
        self.unopened.store(count, Ordering::Relaxed);
    }

    /// How many there are: a router with another key than the one before must not take its place.
    pub(crate) fn unopened(&self) -> usize {
        self.unopened.load(Ordering::Relaxed)
    }

    /// The port of HTTPS, as clients know it.
    pub(crate) fn https_port(&self) -> u16 {
        self.https_port.load(Ordering::Relaxed)
    }

    /// HTTPS is served at this port.
    pub(crate) fn set_https_port(&self, port: u16) {
        self.https_port.store(port, Ordering::Relaxed);
    }

    /// Clients' connections end after the request they are in.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.stopped.notify_waiters();
    }

    /// They go on again.
    pub(crate) fn resume(&self) {
        self.stopping.store(false, Ordering::SeqCst);
    }

    /// Whether they shall.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Wakes who polled it before [`Live::stop`].
    pub(crate) fn stopped(&self) -> Notified<'_> {
        self.stopped.notified()
    }

    /// Waits until both routes and services are known.
    pub(crate) async fn until_known(&self) {
        let (mut routes, mut services) = (self.revision(), self.services.revision());
        // Both senders live as long as self.
        let _ = routes.wait_for(Option::is_some).await;
        let _ = services.wait_for(Option::is_some).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_served_is_told_also_where_etcd_lost_its_last_changes() {
        let live = Live::default();
        live.reached(9);
        live.reached(5);
        assert_eq!(*live.revision().borrow(), Some(5));
    }
}
