//! A router in this process, with a real etcd, a discoverd that is played on the wire, and backends.

#![allow(unreachable_pub, reason = "a test has no callers outside")]

pub mod front;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use api::{
    discoverd::{Event, EventKind, Instance},
    route::{NewRoute, Route, Stored, Sync},
};
use axum::{
    Router,
    extract::State,
    handler::Handler,
    response::Response,
    routing::{any, get},
};
use daemon::Lifetime;
use strowger::{AcmeSettings, Config, LimitConfig, Running, config::Key, start};
use strowger_client::Strowger;
use testkit::Etcd;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;

pub const KEY: &str = "the-key-of-the-router";

/// A router and what is around it.
pub struct Harness {
    pub etcd: Etcd,
    pub discoverd: Discoverd,
    pub router: Running,
    pub client: Strowger,
    pub lifetime: Lifetime,
}

impl Harness {
    pub async fn start() -> Self {
        Self::limited(LimitConfig::default()).await
    }

    /// With limits that are soon reached.
    pub async fn limited(limits: LimitConfig) -> Self {
        let (etcd, discoverd) = (Etcd::start().await, Discoverd::start().await);
        let (router, lifetime) = limited_router(&etcd.url(), &discoverd.url, limits).await;
        let client = Strowger::new(format!("http://{}", router.api[0]), Some(KEY.into()));
        Self { etcd, discoverd, router, client, lifetime }
    }

    /// Makes a route and waits until it is served.
    pub async fn route(&self, domain: &str, service: &str) -> Stored {
        let stored = self.client.create_route(&http_route(domain, service)).await.unwrap();
        self.synced(stored.revision, 0).await;
        stored
    }

    /// Registers a backend and waits until the router has it.
    pub async fn up(&self, service: &str, addr: SocketAddr) {
        let services = self.discoverd.up(service, addr);
        self.synced(0, services).await;
    }

    pub async fn synced(&self, routes: u64, services: u64) {
        self.client.sync(Sync { routes, services, timeout_ms: 10_000 }).await.unwrap();
    }

    pub fn http(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.router.http.port()).into()
    }

    /// A connection to the router's HTTP port.
    pub async fn connect(&self) -> Wire {
        Wire(TcpStream::connect(self.http()).await.unwrap(), Vec::new())
    }

    /// An HTTP client for which every name is the router.
    pub fn browser(&self, domains: &[&str]) -> reqwest::Client {
        self.browser_of(domains, reqwest::Client::builder())
    }

    pub fn browser_of(
        &self,
        domains: &[&str],
        mut builder: reqwest::ClientBuilder,
    ) -> reqwest::Client {
        for domain in domains {
            builder = builder.resolve(domain, self.http());
        }
        builder.no_proxy().build().unwrap()
    }

    pub fn url(&self, domain: &str, path: &str) -> String {
        format!("http://{domain}:{}{path}", self.router.http.port())
    }
}

pub async fn router(etcd: &str, discoverd: &str) -> (Running, Lifetime) {
    router_of(config(etcd, discoverd)).await
}

/// With a key of its own, or several.
pub async fn router_with(etcd: &str, discoverd: &str, keys: &str) -> (Running, Lifetime) {
    router_of(Config { key: Key(keys.into()), ..config(etcd, discoverd) }).await
}

async fn limited_router(etcd: &str, discoverd: &str, limits: LimitConfig) -> (Running, Lifetime) {
    router_of(Config { limits, ..config(etcd, discoverd) }).await
}

async fn router_of(config: Config) -> (Running, Lifetime) {
    let lifetime = Lifetime::default();
    (start(config, &lifetime).await.unwrap(), lifetime)
}

/// On ports that are free.
pub fn config(etcd: &str, discoverd: &str) -> Config {
    Config {
        http_port: 0,
        https_port: 0,
        port: 0,
        api_listen: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
        gateway: None,
        etcd: vec![etcd.into()],
        discoverd: discoverd.into(),
        key: Key(KEY.into()),
        limits: LimitConfig::default(),
        acme: AcmeSettings::default(),
    }
}

pub fn http_route(domain: &str, service: &str) -> NewRoute {
    let route = Route {
        kind: "http".into(),
        domain: domain.into(),
        service: service.into(),
        parent_ref: "controller/apps/1".into(),
        ..Route::default()
    };
    route.into()
}

pub fn tcp_route(port: u16, service: &str) -> NewRoute {
    let (kind, service) = ("tcp".into(), service.into());
    Route { kind, port, service, ..Route::default() }.into()
}

/// Plays discoverd as far as a router sees it.
#[derive(Clone)]
pub struct Discoverd {
    pub url: String,
    state: Arc<Mutex<Services>>,
}

#[derive(Default)]
struct Services {
    revision: u64,
    instances: BTreeMap<(String, String), Instance>,
    subscribers: Vec<mpsc::Sender<Event>>,
}

impl Discoverd {
    #[expect(clippy::disallowed_methods, reason = "a test's server ends with its runtime")]
    pub async fn start() -> Self {
        let state: Arc<Mutex<Services>> = Arc::default();
        state.lock().unwrap().revision = 1;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let app = Router::new().route("/services", get(subscribe)).with_state(state.clone());
        tokio::spawn(axum::serve(listener, app).into_future());
        Self { url, state }
    }

    /// Registers an address; answers with the revision.
    pub fn up(&self, service: &str, addr: SocketAddr) -> u64 {
        self.tell(EventKind::Up, service, addr, false)
    }

    /// Withdraws an address.
    pub fn down(&self, service: &str, addr: SocketAddr) -> u64 {
        self.tell(EventKind::Down, service, addr, false)
    }

    /// An address vanishes without being withdrawn.
    pub fn vanish(&self, service: &str, addr: SocketAddr) -> u64 {
        self.tell(EventKind::Down, service, addr, true)
    }

    /// Makes an address the leader.
    pub fn lead(&self, service: &str, addr: SocketAddr) -> u64 {
        self.tell(EventKind::Leader, service, addr, false)
    }

    /// Starts again, empty.
    pub fn forget_all(&self) {
        let mut state = self.state.lock().unwrap();
        state.instances.clear();
        state.subscribers.clear();
    }

    /// Cuts every stream.
    pub fn cut(&self) {
        self.state.lock().unwrap().subscribers.clear();
    }

    fn tell(&self, kind: EventKind, service: &str, addr: SocketAddr, suspect: bool) -> u64 {
        let mut state = self.state.lock().unwrap();
        state.revision += 1;
        let instance = Instance::new("http", &addr.to_string(), BTreeMap::new());
        let key = (service.to_owned(), instance.id.clone());
        match kind {
            EventKind::Up => drop(state.instances.insert(key, instance.clone())),
            EventKind::Down => drop(state.instances.remove(&key)),
            _ => {}
        }
        let event = event(kind, service, Some(instance), suspect, state.revision);
        state.subscribers.retain(|subscriber| subscriber.try_send(event.clone()).is_ok());
        state.revision
    }
}

fn event(
    kind: EventKind,
    service: &str,
    instance: Option<Instance>,
    suspect: bool,
    revision: u64,
) -> Event {
    let service = service.into();
    Event { service, kind, instance, term: None, service_meta: None, suspect, revision }
}

async fn subscribe(State(state): State<Arc<Mutex<Services>>>) -> Response {
    let (sender, events) = mpsc::channel(10_000);
    let mut state = state.lock().unwrap();
    let revision = state.revision;
    for ((service, _), instance) in &state.instances {
        let up = event(EventKind::Up, service, Some(instance.clone()), false, revision);
        sender.try_send(up).unwrap();
    }
    sender.try_send(event(EventKind::Current, "", None, false, revision)).unwrap();
    state.subscribers.push(sender);
    daemon::events::response(ReceiverStream::new(events))
}

/// A backend that answers with its name.
pub struct Backend {
    pub addr: SocketAddr,
    lifetime: Lifetime,
}

impl Backend {
    pub async fn named(name: &'static str) -> Self {
        Self::answering(async move || name).await
    }

    /// Every request is answered by one handler.
    pub async fn answering<H, T>(handler: H) -> Self
    where
        H: Handler<T, ()>,
        T: 'static,
    {
        let app = Router::new().route("/", any(handler.clone())).route("/{*path}", any(handler));
        Self::serving(app).await
    }

    pub async fn serving(app: Router) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let lifetime = Lifetime::default();
        lifetime.serve(listener, app);
        Self { addr, lifetime }
    }

    /// Ends as a process does on SIGTERM: it finishes what it has begun and closes the rest.
    pub async fn stop(self) {
        self.lifetime.drain(testkit::LIMIT).await.unwrap();
    }
}

/// An address on which nobody listens.
pub fn nowhere() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, testkit::free_port()).into()
}

/// A backend that speaks as a script says: each connection is handed over.
pub async fn scripted<F>(script: impl Fn(usize, Wire) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let accept = async move {
        for number in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            spawn(script(number, Wire(stream, Vec::new())));
        }
    };
    spawn(accept);
    addr
}

#[expect(clippy::disallowed_methods, reason = "a test's tasks end with its runtime")]
pub fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(task);
}

/// A connection of which each byte is seen.
pub struct Wire(pub TcpStream, pub Vec<u8>);

impl Wire {
    pub async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    /// Reads a head, up to and with its empty line; empty at the end of the stream.
    pub async fn head(&mut self) -> String {
        loop {
            if let Some(at) = self.1.windows(4).position(|four| four == b"\r\n\r\n") {
                let rest = self.1.split_off(at + 4);
                let head = std::mem::replace(&mut self.1, rest);
                return String::from_utf8(head).unwrap();
            }
            if !self.more().await {
                return String::from_utf8(std::mem::take(&mut self.1)).unwrap();
            }
        }
    }

    pub async fn exactly(&mut self, count: usize) -> String {
        while self.1.len() < count && self.more().await {}
        let rest = self.1.split_off(count.min(self.1.len()));
        String::from_utf8(std::mem::replace(&mut self.1, rest)).unwrap()
    }

    pub async fn until_end(&mut self) -> String {
        while self.more().await {}
        String::from_utf8(std::mem::take(&mut self.1)).unwrap()
    }

    async fn more(&mut self) -> bool {
        self.0.read_buf(&mut self.1).await.is_ok_and(|count| count > 0)
    }

    /// Sends a GET and reads the answer, which must have a `content-length`.
    pub async fn get(&mut self, host: &str, path: &str) -> (String, String) {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        self.answer().await
    }

    pub async fn answer(&mut self) -> (String, String) {
        let head = self.head().await.to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).unwrap_or("0\r\n");
        let length = length.split("\r\n").next().unwrap().parse().unwrap();
        let body = self.exactly(length).await;
        (head, body)
    }
}
