//! A discoverd in this process, on free ports.

#![allow(unreachable_pub, reason = "a test has no callers outside")]

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    time::Duration,
};

use api::discoverd::Instance;
use api_client::Client;
use daemon::{Lifetime, auth::Keys};
use discoverd::Config;
use discoverd_client::{Discoverd, ServiceSet, ServiceWatch};
use testkit::Etcd;

pub const KEY: &str = "the key";

/// A running discoverd.
pub struct Daemon {
    pub lifetime: Lifetime,
    pub addr: SocketAddr,
    pub dns: SocketAddr,
}

/// What differs between the daemons of a test.
pub struct Options<'a> {
    pub etcd: String,
    pub relay: Option<Client>,
    pub state_dir: Option<&'a Path>,
    pub boot_id: &'a str,
    pub port: u16,
    pub resolv_conf: &'a Path,
    /// Where it listens: on this machine alone, or on all its addresses.
    pub ip: Ipv4Addr,
}

impl Options<'_> {
    pub fn new(etcd: &Etcd) -> Self {
        Self {
            etcd: etcd.url(),
            relay: None,
            state_dir: None,
            boot_id: "boot 1",
            port: 0,
            resolv_conf: Path::new("/nowhere"),
            ip: Ipv4Addr::LOCALHOST,
        }
    }

    pub async fn start(&self) -> Daemon {
        let local = |port| SocketAddr::from((self.ip, port));
        let config = Config {
            etcd: vec![self.etcd.clone()],
            relay: self.relay.clone(),
            keys: Keys::parse(KEY),
            listen: vec![local(self.port)],
            dns_listen: vec![local(0)],
            state_dir: self.state_dir.map(Path::to_owned),
            host_id: "host1".into(),
            boot_id: self.boot_id.into(),
            resolv_conf: self.resolv_conf.into(),
        };
        let lifetime = Lifetime::default();
        let running = discoverd::start(config, &lifetime).await.unwrap();
        let (mut addr, mut dns) = (running.addrs[0], running.dns_addrs[0]);
        if self.ip.is_unspecified() {
            let local = Ipv4Addr::LOCALHOST.into();
            addr.set_ip(local);
            dns.set_ip(local);
        }
        Daemon { lifetime, addr, dns }
    }
}

/// An address of this machine at which it is a source as any other.
pub fn own_ip() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // Nothing is sent.
    socket.connect("192.0.2.1:9").expect("this machine has no address but 127.0.0.1");
    socket.local_addr().unwrap().ip()
}

impl Daemon {
    pub async fn start(etcd: &Etcd) -> Self {
        let daemon = Options::new(etcd).start().await;
        daemon.until_it_takes_writes().await;
        daemon
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub fn client(&self) -> Discoverd {
        Discoverd::new(&self.url(), Some(KEY.into()))
    }

    pub async fn until_it_takes_writes(&self) {
        testkit::wait_until("discoverd takes writes", async || {
            self.client().unregister("nothing", &Instance::id_of("tcp", "1.2.3.4:5")).await
        })
        .await;
    }

    /// Ends it, so that its port is free.
    pub async fn end(self) {
        self.lifetime.drain(Duration::from_secs(5)).await.unwrap();
    }
}

pub fn instance(n: u8) -> Instance {
    let meta = [("n".to_owned(), n.to_string())];
    Instance::new("http", &format!("10.0.0.{n}:8080"), meta.into())
}

/// A silent instance takes 11 s to end; a busy machine makes more of it.
const LIMIT: Duration = Duration::from_secs(40);

/// Waits until a watcher sees something.
pub async fn until(
    watch: &mut ServiceWatch,
    what: &str,
    so: impl Fn(&ServiceSet) -> bool,
) -> std::sync::Arc<ServiceSet> {
    let mut seen = watch.clone();
    let waiting = watch.wait_for(|set| so(set));
    match tokio::time::timeout(LIMIT, waiting).await {
        Ok(set) => set,
        Err(_) => panic!("not seen: {what}; last seen: {:?}", seen.wait_for(|_| true).await),
    }
}

pub fn addrs(set: &ServiceSet) -> Vec<&str> {
    set.oldest_first().into_iter().map(|instance| instance.addr.as_str()).collect()
}
