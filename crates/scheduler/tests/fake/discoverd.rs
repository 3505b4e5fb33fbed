//! discoverd, as far as it is watched.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use api::discoverd::{Event, EventKind, Instance, Leader, Term};
use axum::{
    Router,
    extract::{Path, State},
    response::Response,
    routing::get,
};
use tokio::sync::broadcast;

#[derive(Clone)]
pub(crate) struct FakeDiscoverd(Arc<Inner>);

struct Inner {
    services: Mutex<BTreeMap<String, Service>>,
    live: broadcast::Sender<Option<Event>>,
}

#[derive(Default)]
struct Service {
    instances: BTreeMap<String, Instance>,
    leader: Option<Leader>,
}

impl Default for FakeDiscoverd {
    fn default() -> Self {
        let live = broadcast::channel(256).0;
        Self(Arc::new(Inner { services: Mutex::default(), live }))
    }
}

impl FakeDiscoverd {
    pub(crate) fn router(&self) -> Router {
        Router::new().route("/services/{service}", get(watch)).with_state(self.clone())
    }

    /// Registers an instance, which leads if it is the first.
    pub(crate) fn register(&self, service: &str, addr: SocketAddr, meta: &[(&str, &str)]) {
        let meta = meta.iter().map(|&(key, value)| (key.into(), value.into())).collect();
        let instance = Instance::new("http", &addr.to_string(), meta);
        let first = {
            let mut services = self.0.services.lock().unwrap();
            let service = services.entry(service.into()).or_default();
            service.instances.insert(instance.id.clone(), instance.clone());
            service.leader.is_none()
        };
        self.say(event(service, EventKind::Up, Some(instance.clone())));
        if first {
            self.set_leader(service, Leader { instance, term: Term { epoch: 1, revision: 1 } });
        }
    }

    /// Makes the scheduler that is this job lead.
    pub(crate) fn lead(&self, service: &str, job_id: &str, revision: u64) {
        let port = 40_000 + u16::try_from(revision).unwrap();
        let addr = format!("127.0.0.1:{port}");
        let meta = [("FLYNN_JOB_ID".to_owned(), format!("host0-{job_id}"))].into();
        let instance = Instance::new("http", &addr, meta);
        self.0
            .services
            .lock()
            .unwrap()
            .entry(service.into())
            .or_default()
            .instances
            .insert(instance.id.clone(), instance.clone());
        self.say(event(service, EventKind::Up, Some(instance.clone())));
        self.set_leader(service, Leader { instance, term: super::term(revision) });
    }

    fn set_leader(&self, service: &str, leader: Leader) {
        let mut told = event(service, EventKind::Leader, Some(leader.instance.clone()));
        told.term = Some(leader.term);
        self.0.services.lock().unwrap().entry(service.into()).or_default().leader = Some(leader);
        self.say(told);
    }

    fn say(&self, event: Event) {
        let _ = self.0.live.send(Some(event));
    }
}

fn event(service: &str, kind: EventKind, instance: Option<Instance>) -> Event {
    Event {
        service: service.into(),
        kind,
        instance,
        term: None,
        service_meta: None,
        suspect: false,
        revision: 1,
    }
}

async fn watch(
    State(FakeDiscoverd(fake)): State<FakeDiscoverd>,
    Path(name): Path<String>,
) -> Response {
    use futures_util::StreamExt;
    let live = fake.live.subscribe();
    let mut listing = Vec::new();
    if let Some(service) = fake.services.lock().unwrap().get(&name) {
        let up = |instance: &Instance| event(&name, EventKind::Up, Some(instance.clone()));
        listing.extend(service.instances.values().map(up));
        if let Some(leader) = &service.leader {
            let mut told = event(&name, EventKind::Leader, Some(leader.instance.clone()));
            told.term = Some(leader.term);
            listing.push(told);
        }
    }
    listing.push(event(&name, EventKind::Current, None));
    let events = super::follow(listing, live);
    daemon::events::response(events.filter(move |event| std::future::ready(event.service == name)))
}
