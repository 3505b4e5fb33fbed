//! As much of discoverd's API as a host uses, in memory.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use api::discoverd::{Event, EventKind, Instance, META_HOST, Revision, Term};
use axum::{
    Json, Router,
    extract::{Path, Query, State},
    response::Response,
    routing::{get, put},
};
use daemon::{ApiError, Body, Lifetime, events};
use futures_util::{StreamExt, stream};
use tokio::{
    net::TcpListener,
    sync::{OwnedRwLockWriteGuard, RwLock, broadcast, oneshot},
};

/// A service that nothing can be registered for.
pub(crate) const REFUSED: &str = "a-refused";

/// A discoverd without etcd.
pub(crate) struct Fake {
    pub(crate) addr: SocketAddr,
    known: Known,
}

#[derive(Clone)]
struct Known {
    services: Arc<Mutex<Services>>,
    live: broadcast::Sender<Event>,
    /// Registrations pass here.
    gate: Arc<RwLock<()>>,
    lifetime: Lifetime,
}

#[derive(Default)]
struct Services {
    instances: BTreeMap<String, BTreeMap<String, Instance>>,
    revision: u64,
    registrations: BTreeMap<String, Registrations>,
}

/// How many of a service there were.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Registrations {
    pub(crate) begun: u32,
    pub(crate) done: u32,
    /// Not waited for until they were done.
    pub(crate) given_up: u32,
}

/// Counts a request whose answer nobody waits for any more.
struct GivenUp<'a>(Option<(&'a Known, &'a str)>);

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        if let Some((known, service)) = self.0 {
            known.count(service, |all| all.given_up += 1);
        }
    }
}

impl Fake {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let known = Known {
            services: Arc::default(),
            live: broadcast::Sender::new(999),
            gate: Arc::default(),
            lifetime: Lifetime::default(),
        };
        let router = Router::new()
            .route("/instances", get(all))
            .route("/services/{service}", get(watch))
            .route("/services/{service}/instances/{id}", put(register).delete(withdraw))
            .with_state(known.clone());
        known.lifetime.serve(listener, router);
        Self { addr, known }
    }

    pub(crate) fn instances(&self, service: &str) -> Vec<Instance> {
        let services = self.known.services.lock().unwrap();
        services
            .instances
            .get(service)
            .map(|all| all.values().cloned().collect())
            .unwrap_or_default()
    }

    /// Lets no registration be done until the answer is dropped.
    pub(crate) async fn hold(&self) -> OwnedRwLockWriteGuard<()> {
        self.known.gate.clone().write_owned().await
    }

    pub(crate) fn registrations(&self, service: &str) -> Registrations {
        let services = self.known.services.lock().unwrap();
        services.registrations.get(service).copied().unwrap_or_default()
    }

    /// Takes an instance away behind the host's back.
    pub(crate) fn take(&self, service: &str, instance: Instance) {
        self.known.change(service, EventKind::Down, instance);
    }

    /// Answers nobody from now on.
    pub(crate) fn end(&self) {
        self.known.lifetime.end();
    }

    /// Registers something behind the host's back.
    pub(crate) fn put(&self, service: &str, instance: Instance) {
        self.known.change(service, EventKind::Up, instance);
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.end();
    }
}

impl Known {
    fn count(&self, service: &str, count: impl FnOnce(&mut Registrations)) {
        count(self.services.lock().unwrap().registrations.entry(service.into()).or_default());
    }

    fn change(&self, service: &str, kind: EventKind, mut instance: Instance) -> u64 {
        let mut services = self.services.lock().unwrap();
        services.revision += 1;
        let revision = services.revision;
        let all = services.instances.entry(service.into()).or_default();
        instance.index = all.get(&instance.id).map_or(revision, |known| known.index);
        if kind == EventKind::Up {
            all.insert(instance.id.clone(), instance.clone());
        } else {
            all.remove(&instance.id);
        }
        let _ = self.live.send(event(service, kind, Some(instance), revision));
        if let Some(leader) = all.values().min_by_key(|one| one.index).cloned() {
            let _ = self.live.send(event(service, EventKind::Leader, Some(leader), revision));
        }
        revision
    }
}

fn event(service: &str, kind: EventKind, instance: Option<Instance>, revision: u64) -> Event {
    let term = instance.as_ref().map(|one| Term { epoch: 0, revision: one.index });
    Event {
        service: service.into(),
        kind,
        instance,
        term,
        service_meta: None,
        suspect: false,
        revision,
    }
}

async fn all(
    State(known): State<Known>,
    Query(whose): Query<BTreeMap<String, String>>,
) -> Json<BTreeMap<String, Vec<Instance>>> {
    let services = known.services.lock().unwrap();
    let of_host = |one: &&Instance| one.meta.get(META_HOST) == whose.get("host");
    let all = services.instances.iter();
    let all =
        all.map(|(name, all)| (name.clone(), all.values().filter(of_host).cloned().collect()));
    Json(all.collect())
}

async fn register(
    State(known): State<Known>,
    Path((service, _)): Path<(String, String)>,
    Body(instance): Body<Instance>,
) -> Result<Json<Revision>, ApiError> {
    if service == REFUSED {
        return Err(ApiError::invalid("service", "is refused"));
    }
    known.count(&service, |all| all.begun += 1);
    let (done, revision) = oneshot::channel();
    let (late, name) = (known.clone(), service.clone());
    known.lifetime.spawn_request(async move {
        let _open = late.gate.read().await;
        let revision = late.change(&name, EventKind::Up, instance);
        late.count(&name, |all| all.done += 1);
        let _ = done.send(revision);
    });
    let mut waiting = GivenUp(Some((&known, &service)));
    let revision = revision.await.map_err(|_| ApiError::invalid("service", "is being stopped"))?;
    waiting.0 = None;
    Ok(Json(Revision { revision }))
}

async fn withdraw(
    State(known): State<Known>,
    Path((service, id)): Path<(String, String)>,
) -> Json<Revision> {
    let instance = {
        let services = known.services.lock().unwrap();
        services.instances.get(&service).and_then(|all| all.get(&id)).cloned()
    };
    let revision = match instance {
        Some(instance) => known.change(&service, EventKind::Down, instance),
        None => known.services.lock().unwrap().revision,
    };
    Json(Revision { revision })
}

async fn watch(State(known): State<Known>, Path(service): Path<String>) -> Response {
    let services = known.services.lock().unwrap();
    let live = known.live.subscribe();
    let all = services.instances.get(&service).into_iter().flat_map(|all| all.values());
    let mut present: Vec<Event> = all
        .clone()
        .map(|one| event(&service, EventKind::Up, Some(one.clone()), services.revision))
        .collect();
    if let Some(leader) = all.min_by_key(|one| one.index) {
        present.push(event(&service, EventKind::Leader, Some(leader.clone()), services.revision));
    }
    present.push(event(&service, EventKind::Current, None, services.revision));
    let live =
        stream::unfold(live, |mut live| async move { Some((live.recv().await.ok()?, live)) });
    let live = live.filter(move |event| std::future::ready(event.service == service));
    let live = live.take_until(known.lifetime.stop().cancelled_owned());
    events::response(stream::iter(present).chain(live))
}
