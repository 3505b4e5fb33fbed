//! Who a host is, ready for TLS.

use std::sync::Arc;

use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig,
    SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs},
    server::{ParsedCertificate, WebPkiClientVerifier},
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};

use crate::{
    Certificate,
    authority::{fingerprint, host_id},
    connection::TunnelError,
};

/// What a connection is for: its name in ALPN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    /// etcd's client API.
    Etcd,
    /// flynn-host's API.
    Host,
    /// discoverd's API.
    Discoverd,
    /// The router's API.
    Router,
    /// Joining the cluster: the only one that asks for no certificate.
    Join,
}

impl Service {
    /// All there are.
    pub const ALL: [Self; 5] = [Self::Etcd, Self::Host, Self::Discoverd, Self::Router, Self::Join];

    pub(crate) fn alpn(self) -> &'static [u8] {
        match self {
            Self::Etcd => b"flynn-etcd/1",
            Self::Host => b"flynn-host/1",
            Self::Discoverd => b"flynn-discoverd/1",
            Self::Router => b"flynn-router/1",
            Self::Join => b"flynn-join/1",
        }
    }

    pub(crate) fn of(alpn: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|service| service.alpn() == alpn)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// A host's certificate and key, and the CA it believes.
#[derive(Debug, Clone)]
pub struct Identity {
    pub(crate) server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Identity {
    /// Of a certificate.
    pub fn new(certificate: &Certificate) -> Result<Self, TunnelError> {
        let chain = CertificateDer::pem_slice_iter(certificate.chain.as_bytes());
        let chain: Vec<_> = chain.collect::<Result<_, _>>().map_err(|_| TunnelError::NotPem)?;
        let ca = CertificateDer::from_pem_slice(certificate.ca.as_bytes());
        let mut roots = RootCertStore::empty();
        roots.add(ca.map_err(|_| TunnelError::NotPem)?)?;
        let roots = Arc::new(roots);
        let key = || {
            PrivateKeyDer::from_pem_slice(certificate.key.as_bytes())
                .map_err(|_| TunnelError::NotPem)
        };
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider())
            .allow_unauthenticated()
            .build()
            .map_err(|_| TunnelError::NotPem)?;
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain.clone(), key()?)?;
        server.alpn_protocols = Service::ALL.map(|service| service.alpn().to_vec()).into();
        let client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key()?)?;
        Ok(Self { server: Arc::new(server), client: Arc::new(client) })
    }

    pub(crate) fn client(&self, service: Service) -> ClientConfig {
        let mut config = (*self.client).clone();
        config.alpn_protocols = vec![service.alpn().to_vec()];
        config
    }
}

/// The id of the host that showed this certificate, which the handshake has checked.
pub(crate) fn shown_id(certs: &[CertificateDer<'_>]) -> Option<String> {
    let cert = webpki::EndEntityCert::try_from(certs.first()?).ok()?;
    cert.valid_dns_names().find_map(host_id).map(str::to_owned)
}

/// For whoever joins: believes the CA of this fingerprint, and any host that shows it.
pub(crate) fn joining(fingerprint: &str) -> Result<ClientConfig, TunnelError> {
    let verifier = Pinned { fingerprint: fingerprint.into(), provider: provider() };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![Service::Join.alpn().to_vec()];
    Ok(config)
}

#[derive(Debug)]
struct Pinned {
    fingerprint: String,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let unknown = || rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let ca = intermediates.iter().find(|cert| fingerprint(cert) == self.fingerprint);
        let mut roots = RootCertStore::empty();
        roots.add(ca.ok_or_else(unknown)?.clone().into_owned())?;
        // Any host of the cluster may be the one that answers; its certificate names it.
        ParsedCertificate::try_from(end_entity)?;
        let id = shown_id(std::slice::from_ref(end_entity)).ok_or_else(unknown)?;
        let name = ServerName::try_from(crate::authority::host_name(&id)).map_err(|_| unknown())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|_| unknown())?
            .verify_server_cert(end_entity, intermediates, &name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        None
    }
}
