//! Secrets: drawn once, on disk before anybody uses them.

use base64::{Engine, engine::general_purpose::STANDARD};
use rand::RngExt;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Context;
use crate::{domain::manifest::GenRandom, error::StepError};

/// `gen-random`: hex digits of `length` random bytes, or `data`.
pub(super) fn random(random: GenRandom, context: Context<'_>) -> Result<Value, StepError> {
    let data = context.state.draw(context.id, "data", || {
        if random.data.is_empty() {
            let mut bytes = vec![0_u8; random.length];
            rand::rng().fill(&mut bytes[..]);
            hex::encode(bytes)
        } else {
            random.data
        }
    })?;
    Ok(json!({ "data": data, "controller_key": random.controller_key }))
}

/// `gen-ssh-key`: an Ed25519 and an ECDSA P-256 host key, as PEM.
pub(super) fn ssh_key(context: Context<'_>) -> Result<Value, StepError> {
    use russh::keys::{Algorithm, EcdsaCurve, PrivateKey, ssh_key::LineEnding};
    let make = |algorithm| {
        let failed = || StepError::Crypto("an SSH host key");
        let key = PrivateKey::random(&mut rand::rng(), algorithm).map_err(|_| failed())?;
        let private = key.to_openssh(LineEnding::LF).map_err(|_| failed())?;
        let public = key.public_key().to_openssh().map_err(|_| failed())?;
        Ok::<_, StepError>((private.to_string(), public))
    };
    let ed25519 = make(Algorithm::Ed25519)?;
    let ecdsa = make(Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 })?;
    let made = json!({
        "private_keys": format!("{}{}", ed25519.0, ecdsa.0),
        "ed25519_public": ed25519.1,
        "ecdsa_public": ecdsa.1,
    });
    Ok(context.state.draw(context.id, "keys", || made)?)
}

/// `gen-tls-cert`: a self-signed certificate; `pin` is the base64 SHA-256 of its DER form.
pub(super) fn tls_cert(hosts: &[String], context: Context<'_>) -> Result<Value, StepError> {
    let failed = || StepError::Crypto("a certificate");
    let mut params = rcgen::CertificateParams::new(hosts).map_err(|_| failed())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "Flynn");
    let name = hosts.first().map_or("flynn", String::as_str);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let key = rcgen::KeyPair::generate().map_err(|_| failed())?;
    let cert = params.self_signed(&key).map_err(|_| failed())?;
    let made = json!({
        "cert": cert.pem(),
        "private_key": key.serialize_pem(),
        "pin": STANDARD.encode(Sha256::digest(cert.der())),
    });
    Ok(context.state.draw(context.id, "cert", || made)?)
}
