//! The cluster's CA.

use std::net::IpAddr;

use jiff::Span;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use sha2::{Digest, Sha256};

/// Days a host's certificate is valid. It is made anew every day.
const VALID_DAYS: i64 = 90;
/// Days it is valid before it was made: clocks differ.
const BEFORE_DAYS: i64 = 2;
/// The subject of every cluster's CA: what tells them apart is the key.
const NAME: &str = "Flynn cluster CA";

/// The CA cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The key or a certificate cannot be made or read.
    #[error("the cluster's CA or a certificate of it cannot be {0}")]
    Certificate(&'static str, #[source] rcgen::Error),
    /// The file is not what it should be.
    #[error("the certificate of the cluster's CA cannot be read: it is not PEM")]
    NotPem,
}

/// The CA of a cluster, with its key.
pub struct Authority {
    cert_pem: String,
    key: KeyPair,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

/// A certificate with its key, in PEM.
#[derive(Clone)]
pub struct Certificate {
    /// The host's certificate, then the CA's.
    pub chain: String,
    /// The CA's alone.
    pub ca: String,
    /// The private key.
    pub key: String,
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Certificate")
    }
}

impl Authority {
    /// Makes a new one.
    pub fn make() -> Result<Self, AuthorityError> {
        let key = KeyPair::generate().map_err(|err| AuthorityError::Certificate("made", err))?;
        let cert = params().self_signed(&key);
        let cert = cert.map_err(|err| AuthorityError::Certificate("made", err))?;
        Ok(Self { cert_pem: cert.pem(), key })
    }

    /// Reads one from PEM.
    pub fn read(cert: &str, key: &str) -> Result<Self, AuthorityError> {
        let key = KeyPair::from_pem(key).map_err(|err| AuthorityError::Certificate("read", err))?;
        der(cert)?;
        Ok(Self { cert_pem: cert.into(), key })
    }

    /// Its certificate, in PEM.
    pub fn cert(&self) -> &str {
        &self.cert_pem
    }

    /// Its private key, in PEM.
    pub fn key(&self) -> String {
        self.key.serialize_pem()
    }

    /// SHA-256 of its certificate, in hex.
    pub fn fingerprint(&self) -> Result<String, AuthorityError> {
        Ok(fingerprint(&der(&self.cert_pem)?))
    }

    /// A certificate for the host of that id and address.
    pub fn issue(&self, id: &str, addr: IpAddr) -> Result<Certificate, AuthorityError> {
        let failed = |err| AuthorityError::Certificate("issued", err);
        let names = vec![host_name(id), "localhost".into()];
        let mut leaf = CertificateParams::new(names).map_err(failed)?;
        leaf.subject_alt_names.push(SanType::IpAddress(addr));
        leaf.subject_alt_names.push(SanType::IpAddress(IpAddr::from([127, 0, 0, 1])));
        leaf.distinguished_name = named(id);
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        leaf.use_authority_key_identifier_extension = true;
        let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
        let day = |days: i64| {
            let day = today.saturating_add(Span::new().days(days));
            date_time_ymd(day.year().into(), day.month().unsigned_abs(), day.day().unsigned_abs())
        };
        (leaf.not_before, leaf.not_after) = (day(-BEFORE_DAYS), day(VALID_DAYS));
        let key = KeyPair::generate().map_err(failed)?;
        let ca = params();
        let cert = leaf.signed_by(&key, &Issuer::from_params(&ca, &self.key)).map_err(failed)?;
        Ok(Certificate {
            chain: format!("{}{}", cert.pem(), self.cert_pem),
            ca: self.cert_pem.clone(),
            key: key.serialize_pem(),
        })
    }
}

/// The name a host's certificate is for.
pub(crate) fn host_name(id: &str) -> String {
    format!("{id}.host.flynn")
}

/// The id in such a name.
pub(crate) fn host_id(name: &str) -> Option<&str> {
    name.strip_suffix(".host.flynn")
}

/// SHA-256 of a certificate, in hex.
pub(crate) fn fingerprint(cert: &CertificateDer<'_>) -> String {
    hex::encode(Sha256::digest(cert))
}

fn der(pem: &str) -> Result<CertificateDer<'static>, AuthorityError> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| AuthorityError::NotPem)
}

fn params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}
