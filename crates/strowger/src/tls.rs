//! Certificates.

use std::sync::Arc;

use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio_rustls::TlsAcceptor;

use crate::{acme::TLS_CHALLENGE, domain::host, live::Live};

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    /// The chain is no PEM.
    #[error("is not a PEM chain of certificates")]
    Chain(#[source] Option<rustls_pki_types::pem::Error>),
    /// The key is no PEM.
    #[error("comes with a tls_key that is not a PEM private key")]
    Key(#[source] rustls_pki_types::pem::Error),
    /// They do not fit.
    #[error("and tls_key do not belong together, or are of a kind that is not served: {0}")]
    Pair(#[source] rustls::Error),
}

/// What a TLS server could not be made of.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// No certificate for unknown names.
    #[error("no certificate could be made for names without one")]
    Default(#[source] rcgen::Error),
    /// It cannot be used.
    #[error("the certificate made for names without one cannot be used")]
    Unusable(#[from] CertificateError),
    /// No protocol version is left.
    #[error("TLS could not be set up")]
    Config(#[from] rustls::Error),
}

/// A certificate with its key, checked to belong together.
pub(crate) fn certified(chain: &str, key: &str) -> Result<Arc<CertifiedKey>, CertificateError> {
    let chain = CertificateDer::pem_slice_iter(chain.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|err| CertificateError::Chain(Some(err)))?;
    if chain.is_empty() {
        return Err(CertificateError::Chain(None));
    }
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(CertificateError::Key)?;
    let pair = CertifiedKey::from_der(chain, key, &provider());
    pair.map(Arc::new).map_err(CertificateError::Pair)
}

fn provider() -> CryptoProvider {
    aws_lc_rs::default_provider()
}

/// TLS with the certificate of whatever name a client asks for, and one made at start for names that have none.
pub(crate) fn acceptor(live: Arc<Live>) -> Result<TlsAcceptor, TlsError> {
    let made = rcgen::generate_simple_self_signed(["flynn.invalid".to_owned()]);
    let made = made.map_err(TlsError::Default)?;
    let fallback = certified(&made.cert.pem(), &made.signing_key.serialize_pem())?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Resolver { live, fallback }));
    // The last one is for authorities, who name no other; the resolver has nothing for them but while they are expected.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec(), TLS_CHALLENGE.to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

#[derive(Debug)]
struct Resolver {
    live: Arc<Live>,
    fallback: Arc<CertifiedKey>,
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().and_then(|name| host::canonical(name.as_bytes()));
        let name = name.as_deref();
        let mut offered = hello.alpn().into_iter().flatten();
        if offered.next() == Some(TLS_CHALLENGE) && offered.next().is_none() {
            return self.live.acme.challenge(name?);
        }
        let table = self.live.table();
        let found = name.and_then(|name| {
            let own = || table.certificates.get(name).cloned();
            let automatic = || self.live.acme.certificate(name);
            own().or_else(automatic).or_else(|| table.certificates.matches(name).next().cloned())
        });
        Some(found.unwrap_or_else(|| self.fallback.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn a_certificate_and_its_key_are_taken_and_nothing_else_is() {
        let ((chain, key), (_, other)) = (pair(), pair());
        certified(&chain, &key).unwrap();
        assert!(matches!(certified(&chain, &other), Err(CertificateError::Pair(_))));
        assert!(matches!(certified("", &key), Err(CertificateError::Chain(_))));
        assert!(matches!(certified("nonsense", &key), Err(CertificateError::Chain(_))));
        assert!(matches!(certified(&chain, "nonsense"), Err(CertificateError::Key(_))));
        assert!(matches!(certified(&key, &key), Err(CertificateError::Chain(_))));
    }
}
