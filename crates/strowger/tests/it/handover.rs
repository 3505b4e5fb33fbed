//! A router that takes the place of another one on its host. Each is a process.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use api::route::{Drain, Sync};
use rustix::process::{Pid, Signal, kill_process};
use strowger_client::Strowger;
use testkit::{Etcd, free_port, wait_until};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Notify, Semaphore},
};

use crate::harness::{Backend, Discoverd, KEY, Wire, http_route, nowhere, spawn, tcp_route};

/// One host with what its routers need.
struct Host {
    etcd: Etcd,
    discoverd: Discoverd,
    ports: [u16; 3],
    client: Strowger,
    logs: tempfile::TempDir,
}

/// A router on it.
struct Router {
    process: Mutex<Child>,
    log: PathBuf,
}

impl Host {
    async fn start() -> Self {
        let ports = [free_port(), free_port(), free_port()];
        let client = Strowger::new(format!("http://127.0.0.1:{}", ports[2]), Some(KEY.into()));
        let logs = tempfile::tempdir().unwrap();
        Self { etcd: Etcd::start().await, discoverd: Discoverd::start().await, ports, client, logs }
    }

    fn http(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports[0]).into()
    }

    /// Starts a router, whose log has this name.
    fn begin(&self, name: &str, discoverd: &str) -> Router {
        let log = self.logs.path().join(name);
        let [http, https, api] = self.ports.map(|port| port.to_string());
        let process = Command::new(env!("CARGO_BIN_EXE_strowger"))
            .env_clear()
            .envs([("HTTP_PORT", http), ("HTTPS_PORT", https), ("PORT", api)])
            .envs([("ETCD", &*self.etcd.url()), ("DISCOVERD", discoverd), ("STROWGER_KEY", KEY)])
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn();
        Router { process: Mutex::new(process.unwrap()), log }
    }

    /// Starts one and waits until it accepts clients, instead of the one before it if there is one.
    async fn router(&self, name: &str, before: Option<&Router>) -> Router {
        let router = self.begin(name, &self.discoverd.url);
        match before {
            Some(before) => before.says("the next router accepts the clients").await,
            None => self.is_ready().await,
        }
        // From then on it can be told to stop.
        router.says("serving http=").await;
        router
    }

    async fn is_ready(&self) {
        let status = format!("http://127.0.0.1:{}/.well-known/status", self.ports[2]);
        wait_until("the router to be ready", async || {
            let answer = reqwest::get(&status).await.map_err(|err| err.to_string())?;
            answer.status().is_success().then_some(()).ok_or(answer.status().to_string())
        })
        .await;
    }

    async fn app(&self, addr: SocketAddr) {
        let services = self.discoverd.up("app", addr);
        let routes = self.client.create_route(&http_route("a.example", "app")).await.unwrap();
        let seen = Sync { routes: routes.revision, services, timeout_ms: 10_000 };
        self.client.sync(seen).await.unwrap();
    }

    async fn get(&self) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(self.http()).await?;
        let request = b"GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    async fn serves(&self) {
        let answer = self.get().await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

impl Router {
    async fn says(&self, words: &str) {
        wait_until(words, async || {
            let log = std::fs::read_to_string(&self.log).unwrap();
            log.contains(words).then_some(()).ok_or(log)
        })
        .await;
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process.lock().unwrap()), signal).unwrap();
    }

    /// Tells it to stop and waits until it has.
    async fn stop(self) {
        self.signal(Signal::TERM);
        let ended = wait_until("the router to end", async || {
            let ended = self.process.lock().unwrap().try_wait().unwrap();
            ended.ok_or_else(|| std::fs::read_to_string(&self.log))
        });
        assert!(ended.await.success());
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        let process = self.process.get_mut().unwrap();
        let _ = process.kill();
        let _ = process.wait();
    }
}

/// Clients that come one after the other, each on a connection of its own, and one that keeps its connection.
#[derive(Clone)]
struct Clients {
    done: Arc<AtomicBool>,
    served: [Arc<AtomicUsize>; 2],
    ended: Arc<Semaphore>,
    failures: Arc<Mutex<Vec<String>>>,
}

impl Clients {
    fn come(host: &Arc<Host>) -> Self {
        let (done, served, failures) = (Arc::default(), Default::default(), Arc::default());
        let clients = Self { done, served, ended: Arc::new(Semaphore::new(0)), failures };
        let (of_them, at) = (clients.clone(), host.clone());
        spawn(async move { of_them.come_anew(&at).await });
        let (of_them, at) = (clients.clone(), host.http());
        spawn(async move { of_them.stay(at).await });
        clients
    }

    async fn come_anew(&self, host: &Host) {
        while !self.done.load(Ordering::SeqCst) {
            match host.get().await {
                Ok(answer) if answer.starts_with("HTTP/1.1 200") => self.is_served(0),
                other => self.failures.lock().unwrap().push(format!("{other:?}")),
            }
        }
        self.ended.add_permits(1);
    }

    async fn stay(&self, at: SocketAddr) {
        while !self.done.load(Ordering::SeqCst) {
            let mut wire = Wire(TcpStream::connect(at).await.unwrap(), Vec::new());
            let mut stays = true;
            while stays && !self.done.load(Ordering::SeqCst) {
                let (head, _) = wire.get("a.example", "/").await;
                match head.starts_with("http/1.1 200") {
                    true => self.is_served(1),
                    false => self.failures.lock().unwrap().push(format!("kept: {head:?}")),
                }
                stays = !head.contains("connection: close");
            }
        }
        self.ended.add_permits(1);
    }

    fn is_served(&self, which: usize) {
        self.served[which].fetch_add(1, Ordering::SeqCst);
    }

    /// Waits until some more were served, of both.
    async fn some_more(&self) {
        let served = || self.served.each_ref().map(|served| served.load(Ordering::SeqCst));
        let before = served();
        wait_until("clients to be served", async || {
            let now = served();
            let all = now.iter().zip(before).all(|(now, before)| *now > before + 5);
            all.then_some(()).ok_or(now)
        })
        .await;
    }

    async fn all_were_served(self) {
        self.some_more().await;
        self.done.store(true, Ordering::SeqCst);
        let _ = self.ended.acquire_many(2).await.unwrap();
        assert_eq!(*self.failures.lock().unwrap(), [""; 0]);
    }
}

#[tokio::test]
async fn no_client_is_refused_while_one_router_after_the_other_takes_over() {
    let host = Arc::new(Host::start().await);
    let mut router = host.router("1", None).await;
    host.app(Backend::named("app").await.addr).await;
    let tcp = free_port();
    let routes = host.client.create_route(&tcp_route(tcp, "app")).await.unwrap().revision;
    host.client.sync(Sync { routes, services: 0, timeout_ms: 10_000 }).await.unwrap();
    let clients = Clients::come(&host);
    for name in ["2", "3", "4"] {
        clients.some_more().await;
        let next = host.router(name, Some(&router)).await;
        let mut wire =
            Wire(TcpStream::connect((Ipv4Addr::LOCALHOST, tcp)).await.unwrap(), Vec::new());
        assert_eq!(wire.get("a.example", "/").await.1, "app");
        host.is_ready().await;
        router.stop().await;
        router = next;
    }
    clients.all_were_served().await;
    router.stop().await;
    host.get().await.unwrap_err();
}

#[tokio::test]
async fn a_router_that_does_not_come_to_serve_leaves_the_clients_to_the_one_before() {
    let host = Arc::new(Host::start().await);
    let router = host.router("1", None).await;
    host.app(Backend::named("app").await.addr).await;
    let clients = Clients::come(&host);
    let blind = host.begin("2", &format!("http://{}", nowhere()));
    let status = format!("http://127.0.0.1:{}/.well-known/status", host.ports[2]);
    wait_until("the API to be the next router's", async || {
        let status = reqwest::get(&status).await.map_err(|err| err.to_string())?.status();
        (!status.is_success()).then_some(()).ok_or(status.to_string())
    })
    .await;
    clients.some_more().await;
    blind.signal(Signal::KILL);
    host.is_ready().await;
    clients.all_were_served().await;
    router.stop().await;
}

#[tokio::test]
async fn a_router_serves_again_when_the_next_one_ends() {
    let host = Arc::new(Host::start().await);
    let router = host.router("1", None).await;
    host.app(Backend::named("app").await.addr).await;
    let clients = Clients::come(&host);
    let next = host.router("2", Some(&router)).await;
    clients.some_more().await;
    next.stop().await;
    clients.all_were_served().await;
    let next = host.router("3", Some(&router)).await;
    next.signal(Signal::KILL);
    host.is_ready().await;
    host.serves().await;
    // And another one can come.
    let last = host.router("4", None).await;
    last.says("hands over").await;
    router.stop().await;
    host.serves().await;
    last.stop().await;
}

#[tokio::test]
async fn what_is_under_way_from_the_router_before_is_drained_as_well() {
    let host = Host::start().await;
    let router = host.router("1", None).await;
    let (asked, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let states = (asked.clone(), go_on.clone());
    let backend = Backend::answering(async move || {
        states.0.notify_one();
        states.1.notified().await;
        "late"
    })
    .await;
    host.app(backend.addr).await;
    let mut wire = Wire(TcpStream::connect(host.http()).await.unwrap(), Vec::new());
    wire.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
    asked.notified().await;
    let next = host.router("2", Some(&router)).await;
    let services = host.discoverd.down("app", backend.addr);
    let addr = backend.addr.to_string();
    let drain = Drain { addr, services, timeout_ms: 30_000, keep_open: false };
    let answered = async {
        // It is waited for.
        go_on.notify_one();
        wire.answer().await
    };
    let (drained, (head, body)) = tokio::join!(host.client.drain(&drain), answered);
    assert_eq!((drained.unwrap().closed, &*body), (0, "late"), "{head}");

    let services = host.discoverd.up("app", backend.addr);
    host.client.sync(Sync { routes: 0, services, timeout_ms: 10_000 }).await.unwrap();
    let mut wire = Wire(TcpStream::connect(host.http()).await.unwrap(), Vec::new());
    wire.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
    asked.notified().await;
    let last = host.router("3", Some(&next)).await;
    let services = host.discoverd.down("app", backend.addr);
    let cut = Drain { services, timeout_ms: 300, ..drain };
    assert_eq!(host.client.drain(&cut).await.unwrap().closed, 1);
    assert!(!wire.answer().await.0.starts_with("http/1.1 200"));
    for router in [router, next, last] {
        router.stop().await;
    }
}
