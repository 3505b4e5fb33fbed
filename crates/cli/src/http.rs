//! The connection to a controller: its certificate, its name.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use api_client::Client;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{
        CryptoProvider, aws_lc_rs::default_provider, verify_tls12_signature, verify_tls13_signature,
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use crate::domain::{flynnrc::Server, pin::Pin};

/// Longest time to make a connection: the server may be far away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A client of a server's controller. With a pin the server must show exactly that certificate before anything, the
/// key above all, is sent; without one its certificate must be signed by an authority this machine trusts.
pub(crate) fn client(server: &Server) -> anyhow::Result<Client> {
    let mut builder = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(Duration::from_secs(20))
        // It would end a session whose other end takes nothing for a while, as a job that does not read its stdin.
        .tcp_user_timeout(None)
        .tcp_nodelay(true)
        .http1_only()
        // A redirect would turn a POST into a GET and take the key elsewhere.
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("flynn/", env!("CARGO_PKG_VERSION")))
        .dns_resolver(Arc::new(Localhost));
    if server.url.host_str().is_some_and(is_near) {
        builder = builder.no_proxy();
    }
    if let Some(pin) = server.pin {
        builder = builder.tls_backend_preconfigured(pinned(pin)?);
    }
    let http = builder.build().context("preparing the HTTP client")?;
    Ok(Client::with_http(http, server.base(), Some(server.key.clone())))
}

fn is_near(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    is_localhost(host) || address.is_ok_and(|address| address.is_loopback())
}

/// `localhost` and the names below it mean this machine (RFC 6761); browsers and curl know that, glibc does not.
fn is_localhost(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost")
}

/// Resolves names as browsers do.
struct Localhost;

impl Resolve for Localhost {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found: Vec<SocketAddr> = if is_localhost(name.as_str()) {
                vec![([127, 0, 0, 1], 0).into()]
            } else {
                tokio::net::lookup_host((name.as_str(), 0)).await?.collect()
            };
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

fn pinned(pin: Pin) -> anyhow::Result<ClientConfig> {
    let provider = Arc::new(default_provider());
    let verifier = Pinned { pin, provider: provider.clone() };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("preparing TLS")?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(config)
}

/// Accepts one certificate, whoever signed it, and has the server prove that it holds its key.
#[derive(Debug)]
struct Pinned {
    pin: Pin,
    provider: Arc<CryptoProvider>,
}

/// The server showed another certificate than the pinned one.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the certificate is {presented}, not {pinned}")]
pub(crate) struct WrongCertificate {
    pub(crate) pinned: Pin,
    pub(crate) presented: Pin,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let presented = Pin::of(leaf);
        if presented == self.pin {
            return Ok(ServerCertVerified::assertion());
        }
        let wrong = WrongCertificate { pinned: self.pin, presented };
        Err(CertificateError::Other(OtherError(Arc::new(wrong))).into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, leaf, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, leaf, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::sockopt;
    use testkit::{sockets_to, wait_until};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_session_may_pause_and_a_server_that_vanished_is_noticed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let server = Server {
            name: "default".into(),
            git_host: "localhost".into(),
            url: format!("http://{addr}").parse().unwrap(),
            key: "k".into(),
            pin: None,
        };
        let client = client(&server).unwrap();
        let socket = wait_until("a connection", async || sockets_to(addr).pop().ok_or("none"));
        let socket = tokio::select! {
            answer = client.send(reqwest::Method::POST, "/", |request| request) => panic!("{answer:?}"),
            socket = socket => socket,
        };
        assert_eq!(sockopt::tcp_user_timeout(&socket).unwrap(), 0);
        assert!(sockopt::socket_keepalive(&socket).unwrap());
    }

    #[test]
    fn names_below_localhost_are_this_machine_and_no_others() {
        for name in ["localhost", "controller.localhost", "LOCALHOST.", "a.b.localhost"] {
            assert!(is_localhost(name), "{name}");
        }
        for name in ["localhost.com", "notlocalhost", "localhost.example"] {
            assert!(!is_localhost(name), "{name}");
        }
        assert!(is_near("127.0.0.1") && is_near("[::1]") && !is_near("10.0.0.1"));
    }
}
