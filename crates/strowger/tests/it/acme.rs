//! Certificates by themselves, from a real authority.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use api::{
    certificate::{CertificateIssuer, CertificateProblem, CertificateState, CertificateStatus},
    route::Route,
};
use axum::{Router, routing::any};
use daemon::Lifetime;
use keyspace::Keyspace;
use strowger::{AcmeSettings, Config, Running};
use strowger_client::Strowger;
use testkit::{Etcd, Pebble, PebbleOptions, wait_until, wait_until_for};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use crate::harness::{Backend, Discoverd, KEY, config, front::Front, http_route, spawn};

/// A route has its certificate within this time.
const SOON: Duration = Duration::from_secs(10);
/// The lease of a router that was killed has ended, and what it began is done.
const HANDED_OVER: Duration = Duration::from_secs(40);

/// An authority, and what routers need.
struct Scene {
    etcd: Etcd,
    discoverd: Discoverd,
    pebble: Pebble,
    http: Front,
    tls: Front,
    backend: Backend,
}

/// A router of a scene.
struct Member {
    running: Running,
    client: Strowger,
    lifetime: Lifetime,
}

impl Scene {
    async fn start(validity: Duration) -> Self {
        let (etcd, discoverd) = (Etcd::start().await, Discoverd::start().await);
        let http = Front::start(Ipv4Addr::LOCALHOST.into()).await;
        let tls = Front::start(Ipv4Addr::UNSPECIFIED.into()).await;
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let options = PebbleOptions {
            http_port: http.port,
            tls_port: tls.port,
            validity,
            certificate: (made.cert.pem(), made.signing_key.serialize_pem()),
        };
        let pebble = Pebble::start(&options).await;
        let backend = Backend::named("fine").await;
        discoverd.up("app", backend.addr);
        Self { etcd, discoverd, pebble, http, tls, backend }
    }

    fn config(&self) -> Config {
        let acme = AcmeSettings {
            directory: self.pebble.directory(),
            contact: "ops@flynn.example".into(),
            ca: self.pebble.ca().display().to_string(),
            dns: self.pebble.dns(),
            check: true,
            http_port: self.http.port,
            tls_port: self.tls.port,
        };
        Config { acme, ..config(&self.etcd.url(), &self.discoverd.url) }
    }

    async fn router(&self) -> Member {
        Member::start(self.config()).await
    }

    /// Names lead to that router.
    fn lead_to(&self, router: &Running) {
        self.http.lead(Some(router.http));
        self.tls.lead(Some(router.https));
    }

    async fn records(&self, kind: &str) -> Vec<(String, String)> {
        let etcd = Keyspace::connect(&[self.etcd.url()]).await.unwrap();
        let listing = etcd.list(&format!("/strowger-acme/{kind}")).await.unwrap();
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        listing.entries.into_iter().map(|entry| (entry.key, text(&entry.value))).collect()
    }
}

impl Member {
    async fn start(config: Config) -> Self {
        let lifetime = Lifetime::default();
        let running = strowger::start(config, &lifetime).await.unwrap();
        let client = Strowger::new(format!("http://{}", running.api[0]), Some(KEY.into()));
        Self { running, client, lifetime }
    }

    async fn route(&self, domain: &str) -> Route {
        self.client.create_route(&http_route(domain, "app")).await.unwrap().route
    }

    async fn status(&self, domain: &str) -> CertificateStatus {
        let routes = self.client.routes(None).await.unwrap();
        let route = routes.into_iter().find(|route| route.domain == domain).unwrap();
        route.certificate_status.unwrap()
    }

    async fn until_failing(&self, domain: &str, problem: CertificateProblem) -> CertificateStatus {
        wait_until("why there is no certificate is told", async || {
            let status = self.status(domain).await;
            if status.problem == Some(problem) { Ok(status) } else { Err(status) }
        })
        .await
    }
}

/// The certificate that a router serves for a name, as it is sent, and what it answers.
async fn shown(https: SocketAddr, name: &str) -> Result<(Vec<u8>, String), String> {
    let client = reqwest::Client::builder()
        .tls_danger_accept_invalid_certs(true)
        .tls_info(true)
        .resolve(name, (Ipv4Addr::LOCALHOST, https.port()).into())
        .build()
        .unwrap();
    let url = format!("https://{name}:{}/", https.port());
    let answer = client.get(url).send().await.map_err(|err| format!("{err:?}"))?;
    let info = answer.extensions().get::<reqwest::tls::TlsInfo>().unwrap();
    let leaf = info.peer_certificate().unwrap().to_vec();
    Ok((leaf, answer.text().await.unwrap()))
}

fn is_of_pebble(leaf: &[u8]) -> bool {
    leaf.windows(19).any(|part| part == b"Pebble Intermediate")
}

async fn until_served(limit: Duration, router: &Member, name: &str) -> Vec<u8> {
    wait_until_for(limit, "a certificate of the authority is served", async || {
        let (leaf, _) = shown(router.running.https, name).await?;
        if is_of_pebble(&leaf) { Ok(leaf) } else { Err(format!("{:?}", router.status(name).await)) }
    })
    .await
}

#[tokio::test]
async fn a_route_gets_a_certificate_that_every_router_serves_and_whose_key_nobody_reads_in_etcd() {
    let scene = Scene::start(Duration::from_secs(90 * 24 * 3600)).await;
    let (one, two) = (scene.router().await, scene.router().await);
    scene.lead_to(&two.running);
    one.route("shop.example").await;
    let leaf = until_served(SOON, &one, "shop.example").await;
    assert_eq!(until_served(SOON, &two, "shop.example").await, leaf);
    let status = one.status("shop.example").await;
    assert_eq!(status.issuer, CertificateIssuer::Automatic);
    assert_eq!((status.state, status.problem), (CertificateState::Served, None));
    assert!(status.not_after.unwrap() > jiff::Timestamp::now());

    let stored = scene.records("").await;
    assert!(stored.iter().all(|(_, text)| !text.contains("PRIVATE")), "{stored:?}");
    assert!(stored.iter().any(|(key, text)| {
        key.ends_with("certificates/shop.example") && text.contains("sealed:")
    }));
    assert_eq!(scene.records("orders/").await, []);
    assert_eq!(scene.records("nonces/").await, []);

    let browser = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .resolve("shop.example", (Ipv4Addr::LOCALHOST, two.running.http.port()).into())
        .build()
        .unwrap();
    let plain = format!("http://shop.example:{}/x", two.running.http.port());
    let answer = browser.get(plain).send().await.unwrap();
    assert_eq!(answer.status(), 301);
    let there = format!("https://shop.example:{}/x", two.running.https.port());
    assert_eq!(answer.headers()["location"], there);
    assert_eq!(shown(two.running.https, "shop.example").await.unwrap().1, "fine");
    drop(scene.backend);
}

#[tokio::test]
async fn why_there_is_no_certificate_is_told_and_when_it_is_tried_again() {
    let scene = Scene::start(Duration::from_secs(3600)).await;
    let router = scene.router().await;
    scene.lead_to(&router.running);
    let elsewhere = IpAddr::from([127, 0, 0, 2]);
    let listener = TcpListener::bind((elsewhere, scene.http.port)).await.unwrap();
    let stranger = Router::new().fallback(any(async || "hello"));
    spawn(async move { axum::serve(listener, stranger).await.unwrap() });
    scene.pebble.point("elsewhere.example", "127.0.0.2").await;
    // An address for documents, where nobody is.
    scene.pebble.point("closed.example", "192.0.2.1").await;
    for domain in ["elsewhere.example", "closed.example", "*.wild.example", "a.localhost"] {
        router.route(domain).await;
    }
    let status =
        router.until_failing("elsewhere.example", CertificateProblem::PointsElsewhere).await;
    assert_eq!(status.state, CertificateState::Failing);
    assert!(status.detail.unwrap().contains("127.0.0.2"));
    assert!(status.next_try.unwrap() > jiff::Timestamp::now());
    router.until_failing("closed.example", CertificateProblem::PortClosed).await;
    for (domain, problem) in [
        ("*.wild.example", CertificateProblem::Wildcard),
        ("a.localhost", CertificateProblem::NotPublic),
    ] {
        let status = router.until_failing(domain, problem).await;
        assert_eq!(status.state, CertificateState::Impossible);
    }
    assert!(!scene.pebble.log().contains("order-plz"), "the authority was not even asked");
}

#[tokio::test]
async fn where_port_80_is_closed_the_authority_is_convinced_over_tls() {
    let scene = Scene::start(Duration::from_secs(3600)).await;
    let router = scene.router().await;
    scene.lead_to(&router.running);
    // Only the port of TLS is there.
    scene.pebble.point("tls.example", "127.0.0.3").await;
    router.route("tls.example").await;
    until_served(SOON, &router, "tls.example").await;
    let refused = ask_as_authority(router.running.https, "tls.example").await;
    assert!(refused.contains("alert"), "nothing is pending any more: {refused}");
}

/// What comes of a handshake like an authority's.
async fn ask_as_authority(https: SocketAddr, name: &str) -> String {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, https.port())).await.unwrap();
    let name = name.to_owned().try_into().unwrap();
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    connecting.unwrap_err().to_string()
}

#[tokio::test]
async fn an_order_of_a_router_that_was_killed_is_brought_to_its_end_by_another() {
    let scene = Scene::start(Duration::from_secs(3600)).await;
    let mut config = scene.config();
    // So that the authority is the first to connect to the name, where it has to wait.
    config.acme.check = false;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let first = runtime.spawn_blocking({
        let (handle, config) = (runtime.handle().clone(), config.clone());
        move || handle.block_on(Member::start(config))
    });
    let first = first.await.unwrap();
    first.route("shop.example").await;
    wait_until("an order is stored", async || {
        let orders = scene.records("orders/").await;
        if orders.is_empty() { Err(scene.records("").await) } else { Ok(()) }
    })
    .await;
    let second = Member::start(config).await;
    // With all its tasks, in the middle of whatever they do.
    runtime.shutdown_background();
    scene.lead_to(&second.running);
    until_served(HANDED_OVER, &second, "shop.example").await;
    assert_eq!(scene.records("orders/").await, []);
    assert_eq!(scene.pebble.log().matches("POST /order-plz").count(), 1, "one order is enough");
    assert_eq!(scene.pebble.log().matches("POST /sign-me-up").count(), 1);
}

#[tokio::test]
async fn an_account_that_the_authority_has_lost_is_made_again() {
    let mut scene = Scene::start(Duration::from_secs(90 * 24 * 3600)).await;
    let router = scene.router().await;
    scene.lead_to(&router.running);
    router.route("one.flynn.example").await;
    until_served(SOON, &router, "one.flynn.example").await;
    scene.pebble.restart().await;
    router.route("two.flynn.example").await;
    until_served(SOON, &router, "two.flynn.example").await;
    router.lifetime.drain(Duration::from_secs(10)).await.unwrap();
}

#[tokio::test]
async fn while_etcd_is_away_certificates_are_served_and_afterwards_ordered() {
    let mut scene = Scene::start(Duration::from_secs(3600)).await;
    let router = scene.router().await;
    scene.lead_to(&router.running);
    router.route("one.example").await;
    let leaf = until_served(SOON, &router, "one.example").await;
    scene.etcd.kill();
    assert_eq!(shown(router.running.https, "one.example").await.unwrap().0, leaf);
    scene.etcd.restart().await;
    wait_until("routes can be made again", async || {
        router.client.create_route(&http_route("two.example", "app")).await
    })
    .await;
    until_served(HANDED_OVER, &router, "two.example").await;
    assert_eq!(shown(router.running.https, "one.example").await.unwrap().0, leaf);
    router.lifetime.end();
}

#[tokio::test]
async fn a_certificate_is_renewed_and_no_request_fails_meanwhile() {
    let scene = Scene::start(Duration::from_secs(15)).await;
    let router = scene.router().await;
    scene.lead_to(&router.running);
    router.route("shop.example").await;
    let first = until_served(SOON, &router, "shop.example").await;
    let kept = reqwest::Client::builder()
        .tls_danger_accept_invalid_certs(true)
        .resolve("shop.example", (Ipv4Addr::LOCALHOST, router.running.https.port()).into())
        .build()
        .unwrap();
    let url = format!("https://shop.example:{}/", router.running.https.port());
    wait_until_for(Duration::from_secs(30), "another certificate is served", async || {
        let answer = kept.get(&url).send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "fine");
        let (leaf, text) = shown(router.running.https, "shop.example").await.unwrap();
        assert_eq!(text, "fine");
        if leaf != first && is_of_pebble(&leaf) { Ok(()) } else { Err("the first one is") }
    })
    .await;
}
