//! The pin is compared, and nothing is sent to a server that fails it.

use std::sync::{Arc, Mutex};

use axum::Router;
use base64::{Engine, engine::general_purpose::STANDARD};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs::{default_provider, sign::any_supported_type},
    pki_types::{CertificateDer, PrivateKeyDer},
    server::ResolvesServerCert,
    sign,
};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;

use crate::{fake::Fake, person::Person, world::World};

/// A fake controller behind TLS.
struct TlsFake {
    url: String,
    pin: String,
    world: Arc<Mutex<World>>,
    _runtime: tokio::runtime::Runtime,
}

/// Shows one certificate and signs with a key, be it the certificate's or not.
#[derive(Debug)]
struct Fixed(Arc<sign::CertifiedKey>);

impl ResolvesServerCert for Fixed {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<sign::CertifiedKey>> {
        Some(self.0.clone())
    }
}

fn self_signed() -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["controller.localhost".to_owned()]).unwrap();
    (cert.der().clone(), PrivateKeyDer::Pkcs8(signing_key.serialize_der().into()))
}

impl TlsFake {
    fn start(cert: CertificateDer<'static>, key: &PrivateKeyDer<'_>) -> Self {
        let pin = STANDARD.encode(Sha256::digest(&cert));
        let key = sign::CertifiedKey::new(vec![cert], any_supported_type(key).unwrap());
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Fixed(Arc::new(key))));
        let (world, router) = Fake::parts();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        runtime.spawn(serve(listener, tokio_rustls::TlsAcceptor::from(Arc::new(config)), router));
        let url = format!("https://controller.localhost:{port}");
        Self { url, pin, world, _runtime: runtime }
    }

    fn requests(&self) -> Vec<String> {
        self.world.lock().unwrap().requests.clone()
    }
}

async fn serve(listener: TcpListener, acceptor: tokio_rustls::TlsAcceptor, router: Router) {
    while let Ok((stream, _)) = listener.accept().await {
        // One after the other is enough here.
        if let Ok(stream) = acceptor.accept(stream).await {
            let service = TowerToHyperService::new(router.clone());
            let builder = auto::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        }
    }
}

fn person(url: &str, pin: Option<&str>) -> Person {
    let person = Person::new();
    let mut args = vec!["server-add", "-g", "localhost:2222"];
    if let Some(pin) = pin {
        args.extend(["-p", pin]);
    }
    args.extend(["local", url, "key"]);
    person.flynn(&args).ok();
    person
}

#[test]
fn the_pinned_certificate_is_accepted_whoever_signed_it() {
    let (cert, key) = self_signed();
    let fake = TlsFake::start(cert, &key);
    fake.world.lock().unwrap().add_app("myapp");
    let outcome = person(&fake.url, Some(&fake.pin)).flynn(&["apps"]).ok();
    assert!(outcome.stdout.contains("myapp"), "{outcome:?}");
}

#[test]
fn another_certificate_is_refused_before_anything_is_sent() {
    let (cert, key) = self_signed();
    let fake = TlsFake::start(cert, &key);
    let other = STANDARD.encode(Sha256::digest(b"another certificate"));
    let err = person(&fake.url, Some(&other)).flynn(&["apps"]).failed();
    assert!(err.contains(&format!("pinned:    {other}")), "{err}");
    assert!(err.contains(&format!("presented: {}", fake.pin)), "{err}");
    assert!(err.contains("nothing was sent"), "{err}");
    assert_eq!(fake.requests(), [""; 0]);
}

#[test]
fn who_shows_the_pinned_certificate_without_its_key_is_refused() {
    let (cert, _) = self_signed();
    let (_, other_key) = self_signed();
    let fake = TlsFake::start(cert, &other_key);
    let err = person(&fake.url, Some(&fake.pin)).flynn(&["apps"]).failed();
    assert!(err.contains("BadSignature") || err.contains("signature"), "{err}");
    assert_eq!(fake.requests(), [""; 0]);
}

#[test]
fn without_a_pin_a_self_signed_certificate_is_refused_and_pinning_is_suggested() {
    let (cert, key) = self_signed();
    let fake = TlsFake::start(cert, &key);
    let err = person(&fake.url, None).flynn(&["apps"]).failed();
    assert!(err.contains("cannot be trusted") && err.contains("-p <TLS pin>"), "{err}");
    assert_eq!(fake.requests(), [""; 0]);
}
