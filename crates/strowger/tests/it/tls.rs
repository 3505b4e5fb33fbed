//! HTTPS.

use std::{net::Ipv4Addr, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::harness::{Backend, Harness, Wire, http_route};

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
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(chain.as_bytes()).unwrap()).unwrap();
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, harness.router.https.port())).await;
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
