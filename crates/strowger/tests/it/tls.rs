//! HTTPS.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use keyspace::Keyspace;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use strowger::config::Key;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::{
    harness::{Backend, Harness, KEY, Wire, config, http_route, router},
    metrics::metrics,
};

fn pair(name: &str) -> (String, String) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

async fn tls_route(harness: &Harness, domain: &str, service: &str) -> String {
    let (chain, key) = pair(domain);
    let mut route = http_route(domain, service);
    (route.route.tls_cert, route.route.tls_key) = (Some(chain.clone()), Some(key));
    let stored = harness.client.create_route(&route).await.unwrap();
    assert_eq!(stored.route.tls_key, None);
    assert_eq!(stored.route.tls_cert.as_ref(), Some(&chain));
    chain
}

/// Asks for `host` over a connection made for `name`, trusting `chain` alone.
async fn get(harness: &Harness, chain: &str, name: &str, host: &str) -> Result<String, String> {
    get_at(harness.router.https, chain, name, host).await
}

/// The same of any router.
async fn get_at(https: SocketAddr, chain: &str, name: &str, host: &str) -> Result<String, String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(chain.as_bytes()).unwrap()).unwrap();
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, https.port())).await;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream.unwrap());
    let mut stream = connecting.await.map_err(|err| err.to_string())?;
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    Ok(answer)
}

#[tokio::test]
async fn each_name_gets_its_certificate_and_each_request_its_route() {
    let harness = Harness::start().await;
    harness.up("one", Backend::named("one").await.addr).await;
    harness.up("two", Backend::named("two").await.addr).await;
    let one = tls_route(&harness, "one.example", "one").await;
    let any = tls_route(&harness, "*.any.example", "two").await;
    let answer = get(&harness, &one, "one.example", "one.example").await.unwrap();
    assert!(answer.ends_with("one"), "{answer}");
    let answer = get(&harness, &any, "x.any.example", "y.any.example").await.unwrap();
    assert!(answer.ends_with("two"), "{answer}");
    let answer = get(&harness, &one, "one.example", "x.any.example").await.unwrap();
    assert!(answer.ends_with("two"), "{answer}");
    let err = get(&harness, &one, "other.example", "one.example").await.unwrap_err();
    assert!(err.contains("certificate"), "{err}");
    let told = metrics(&harness).await;
    for domain in ["one.example", "*.any.example"] {
        // 4096-01-01, unless it was said otherwise.
        let end = format!(
            "strowger_certificate_end_timestamp_seconds{{domain=\"{domain}\"}} 67090118400\n"
        );
        assert!(told.contains(&end), "{told}");
    }
    assert!(told.contains("strowger_certificates_failing 0\n"), "{told}");
}

#[tokio::test]
async fn a_name_without_a_certificate_is_served_with_the_routers_own_also_over_http_2() {
    let harness = Harness::start().await;
    let told = async |request: axum::extract::Request| {
        let header = |name| request.headers()[name].to_str().unwrap().to_owned();
        format!("{:?} {} {}", request.version(), header("host"), header("x-forwarded-proto"))
    };
    harness.up("app", Backend::answering(told).await.addr).await;
    harness.route("a.example", "app").await;
    let https = (Ipv4Addr::LOCALHOST, harness.router.https.port()).into();
    let builder = || {
        reqwest::Client::builder().tls_danger_accept_invalid_certs(true).resolve("a.example", https)
    };
    let url = format!("https://a.example:{}/", harness.router.https.port());
    let two = builder().build().unwrap().get(&url).send().await.unwrap();
    assert_eq!(two.version(), reqwest::Version::HTTP_2);
    assert_eq!(two.text().await.unwrap(), format!("HTTP/1.1 a.example:{} https", https.port()));
    let posted = builder().build().unwrap().post(&url).body(vec![0; 100_000]).send().await.unwrap();
    assert_eq!(posted.status(), 200);
    let one = builder().http1_only().build().unwrap().get(&url).send().await.unwrap();
    assert_eq!(one.version(), reqwest::Version::HTTP_11);
    assert_eq!(one.status(), 200);
}

#[tokio::test]
async fn cookies_of_an_http_2_client_reach_the_app_in_one_line() {
    let harness = Harness::start().await;
    let told = async |headers: axum::http::HeaderMap| {
        let lines = headers.get_all("cookie").iter();
        lines.map(|line| line.to_str().unwrap()).collect::<Vec<_>>().join("|")
    };
    harness.up("app", Backend::answering(told).await.addr).await;
    harness.route("a.example", "app").await;
    let https = (Ipv4Addr::LOCALHOST, harness.router.https.port()).into();
    let browser = reqwest::Client::builder()
        .tls_danger_accept_invalid_certs(true)
        .resolve("a.example", https)
        .build()
        .unwrap();
    let url = format!("https://a.example:{}/", https.port());
    let request =
        browser.get(url).header("cookie", "csrftoken=abc").header("cookie", "sessionid=xyz");
    let answer = request.send().await.unwrap();
    assert_eq!(answer.version(), reqwest::Version::HTTP_2);
    assert_eq!(answer.text().await.unwrap(), "csrftoken=abc; sessionid=xyz");
}

#[tokio::test]
async fn what_is_no_tls_harms_nobody_else() {
    let harness = Harness::start().await;
    harness.up("app", Backend::named("fine").await.addr).await;
    let chain = tls_route(&harness, "a.example", "app").await;
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, harness.router.https.port())).await;
    let mut wire = Wire(stream.unwrap(), Vec::new());
    wire.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
    let _ = wire.0.read_to_end(&mut Vec::new()).await;
    assert!(get(&harness, &chain, "a.example", "a.example").await.unwrap().ends_with("fine"));
}

#[tokio::test]
async fn private_keys_are_sealed_in_etcd_also_those_that_were_stored_plain() {
    let harness = Harness::start().await;
    harness.up("app", Backend::named("fine").await.addr).await;
    let one = tls_route(&harness, "one.example", "app").await;
    tls_route(&harness, "two.example", "app").await;
    let etcd = Keyspace::connect(&[harness.etcd.url()]).await.unwrap();
    let stored = async |domain: &str| {
        let listing = etcd.list("/strowger/").await.unwrap();
        let found = listing.entries.into_iter().map(|entry| {
            let route: serde_json::Value = serde_json::from_slice(&entry.value).unwrap();
            (entry, route)
        });
        found.into_iter().find(|(_, route)| route["domain"] == domain).unwrap()
    };
    for domain in ["one.example", "two.example"] {
        let (entry, _) = stored(domain).await;
        let text = String::from_utf8_lossy(&entry.value).into_owned();
        assert!(text.contains("sealed:") && !text.contains("PRIVATE KEY"), "{text}");
    }

    // As an earlier version stored it, and with something in it that a later one knows.
    let (entry, mut route) = stored("two.example").await;
    let (made, key) = pair("two.example");
    (route["tls_cert"], route["tls_key"]) = (made.clone().into(), key.into());
    route["later"] = true.into();
    etcd.put(&entry.key, route.to_string()).await.unwrap();
    let (again, _lifetime) = router(&harness.etcd.url(), &harness.discoverd.url).await;
    testkit::wait_until("the key is sealed", async || {
        let (_, route) = stored("two.example").await;
        let key = route["tls_key"].as_str().unwrap().to_owned();
        if key.starts_with("sealed:") && route["later"] == true { Ok(()) } else { Err(route) }
    })
    .await;
    for (chain, name) in [(&one, "one.example"), (&made, "two.example")] {
        testkit::wait_until("both certificates are served", async || {
            get_at(again.https, chain, name, name).await.map(|answer| answer.ends_with("fine"))
        })
        .await;
    }
}

#[tokio::test]
async fn a_router_that_cannot_open_the_keys_is_not_ready_and_one_that_has_the_former_key_is() {
    let harness = Harness::start().await;
    harness.up("app", Backend::named("fine").await.addr).await;
    let chain = tls_route(&harness, "a.example", "app").await;
    let with_key = async |key: &str| {
        let config = config(&harness.etcd.url(), &harness.discoverd.url);
        let lifetime = daemon::Lifetime::default();
        let running =
            strowger::start(strowger::Config { key: Key(key.into()), ..config }, &lifetime);
        (running.await.unwrap(), lifetime)
    };
    let until = async |running: &strowger::Running, wanted: u16, said: &str| {
        let url = format!("http://{}/.well-known/status", running.api[0]);
        testkit::wait_until("the router tells how it is", async || {
            let answer = reqwest::get(&url).await.unwrap();
            let told = (answer.status().as_u16(), answer.text().await.unwrap());
            if told.0 == wanted && told.1.contains(said) { Ok(()) } else { Err(told) }
        })
        .await;
    };
    let (stranger, _one) = with_key("another").await;
    until(&stranger, 500, "STROWGER_KEY").await;
    let (heir, _two) = with_key(&format!("another,{KEY}")).await;
    until(&heir, 200, "").await;
    let answer = get_at(heir.https, &chain, "a.example", "a.example").await.unwrap();
    assert!(answer.ends_with("fine"), "{answer}");
    // It is sealed under the new key now, so the former one is not needed any more.
    until(&stranger, 200, "").await;
}

#[tokio::test]
async fn a_route_that_is_changed_keeps_its_certificate_unless_told_otherwise() {
    let harness = Harness::start().await;
    harness.up("app", Backend::named("one").await.addr).await;
    harness.up("other", Backend::named("two").await.addr).await;
    let chain = tls_route(&harness, "a.example", "app").await;
    let client = &harness.client;
    let changed = client.set_route(&http_route("a.example", "other")).await.unwrap();
    assert_eq!(changed.route.tls_cert.as_ref(), Some(&chain));
    let answer = get(&harness, &chain, "a.example", "a.example").await.unwrap();
    assert!(answer.ends_with("two"), "{answer}");
    // As it was read, with another service.
    let mut read = client.route(&changed.route.id).await.unwrap().route;
    read.service = "app".into();
    client.set_route(&read.into()).await.unwrap();
    let answer = get(&harness, &chain, "a.example", "a.example").await.unwrap();
    assert!(answer.ends_with("one"), "{answer}");
    let mut without = http_route("a.example", "app");
    (without.route.tls_cert, without.route.tls_key) = (Some(String::new()), Some(String::new()));
    assert_eq!(client.set_route(&without).await.unwrap().route.tls_cert, None);
    get(&harness, &chain, "a.example", "a.example").await.unwrap_err();
}

#[tokio::test]
async fn plain_http_is_redirected_where_a_certificate_is_and_the_route_does_not_say_otherwise() {
    let harness = Harness::start().await;
    harness.up("app", Backend::named("fine").await.addr).await;
    tls_route(&harness, "a.example", "app").await;
    harness.route("plain.example", "app").await;
    let mut below = http_route("a.example", "app");
    below.route.path = Some("/plain".into());
    below.route.redirect = Some(false);
    harness.client.create_route(&below).await.unwrap();
    let mut wire = harness.connect().await;
    let port = harness.router.https.port();
    for (request, status, location) in [
        ("GET /x?y=1", "301", "/x?y=1"),
        ("HEAD /", "301", "/"),
        ("POST /x", "308", "/x"),
        ("DELETE /", "308", "/"),
    ] {
        wire.send(&format!("{request} HTTP/1.1\r\nHost: A.example:80\r\n\r\n")).await;
        let head = wire.head().await.to_ascii_lowercase();
        if !request.starts_with("HEAD") {
            wire.exactly(length(&head)).await;
        }
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{request}: {head}");
        let location = format!("\r\nlocation: https://a.example:{port}{location}\r\n");
        assert!(head.contains(&location), "{request}: {head}");
    }
    for (host, path) in [
        ("plain.example", "/"),
        ("a.example", "/plain/x"),
        ("a.example", "/.well-known/acme-challenge/token"),
    ] {
        assert_eq!(wire.get(host, path).await.1, "fine", "{host}{path}");
    }
}

fn length(head: &str) -> usize {
    let length = head.split("content-length: ").nth(1).unwrap();
    length.split("\r\n").next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn browsers_are_told_to_stay_with_https_over_https_alone_and_changes_by_old_clients_keep_that()
 {
    let harness = Harness::start().await;
    harness.up("app", Backend::named("fine").await.addr).await;
    let chain = tls_route(&harness, "a.example", "app").await;
    let mut route = http_route("a.example", "app");
    (route.route.redirect, route.route.hsts) = (Some(false), Some(60));
    harness.client.set_route(&route).await.unwrap();
    // It knows of neither.
    let changed = harness.client.set_route(&http_route("a.example", "app")).await.unwrap();
    assert_eq!((changed.route.redirect, changed.route.hsts), (Some(false), Some(60)));
    let answer = get(&harness, &chain, "a.example", "a.example").await.unwrap();
    assert!(answer.contains("strict-transport-security: max-age=60\r\n"), "{answer}");
    let (head, body) = harness.connect().await.get("a.example", "/").await;
    assert_eq!(body, "fine");
    assert!(!head.contains("strict-transport"), "{head}");
}
