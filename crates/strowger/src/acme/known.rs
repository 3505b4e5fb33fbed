//! What is stored about certificates, as it is known here: kept by a watch, and served.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    error::Error,
    sync::Arc,
};

use api::certificate::CertificateProblem;
use jiff::Timestamp;
use keyspace::{Change, Update};
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::{crypto::aws_lc_rs::sign::any_supported_type, sign::CertifiedKey};
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::{
    names,
    plan::{Attempts, Held, NameState, Spent},
    records::{Certificate, Order, Place, RecordError, Records, Way, decode},
    served::{Served, status},
};
use crate::{
    live::Live,
    tls::{self, CertificateError},
    validity::{Validity, ValidityError, validity},
};

/// A certificate that can be served.
#[derive(Debug, Clone)]
struct Usable {
    pair: Arc<CertifiedKey>,
    held: Held,
}

/// What is stored.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    /// Every change up to this revision is in it.
    pub(crate) revision: u64,
    /// Whether some router orders.
    pub(crate) is_led: bool,
    pub(crate) spent: Spent,
    pub(crate) orders: BTreeMap<String, Order>,
    certificates: BTreeMap<String, Usable>,
    challenges: BTreeMap<String, Arc<CertifiedKey>>,
    attempts: BTreeMap<String, Attempts>,
    nonces: BTreeMap<String, String>,
    /// What routes want.
    wanted: BTreeMap<String, Option<CertificateProblem>>,
}

/// A record that cannot be used.
#[derive(Debug, thiserror::Error)]
enum UnusableError {
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("the certificate {0}")]
    Certificate(#[from] CertificateError),
    #[error("the certificate {0}")]
    Validity(#[from] ValidityError),
    #[error("the answer to a challenge cannot be made")]
    Challenge(#[from] rcgen::Error),
    #[error("the key of the answer to a challenge cannot be used")]
    ChallengeKey(#[from] rustls::Error),
}

/// Keeps what is known the same as in etcd and in the routes, and serves it.
pub(crate) async fn keep_known(
    records: Records,
    live: Arc<Live>,
    known: watch::Sender<Arc<Known>>,
    stop: CancellationToken,
) {
    let mut watch = records.watch();
    let mut routes = live.revision();
    // They may have been read already.
    routes.mark_changed();
    let mut own = Known::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            update = watch.next() => match update {
                Update::Change(change) => {
                    own.apply(&records, change);
                    continue;
                }
                Update::Synced { revision } => own.revision = revision,
                // What is known still stands.
                Update::Lost { .. } => continue,
            },
            // The sender lives as long as live.
            _ = routes.changed() => own.wanted = names::wanted(&live.table()),
        }
        live.serve_automatic(own.served(Timestamp::now()));
        known.send_replace(Arc::new(own.clone()));
    }
}

impl Known {
    /// What is known of each name that a route wants a certificate for, or that something is stored about.
    pub(crate) fn states(&self) -> BTreeMap<String, NameState> {
        let wanted = self.wanted.iter().filter(|(_, problem)| problem.is_none());
        let names: BTreeSet<&String> = wanted
            .map(|(name, _)| name)
            .chain(self.certificates.keys())
            .chain(self.orders.keys())
            .chain(self.attempts.keys())
            .collect();
        names.into_iter().map(|name| (name.clone(), self.state(name))).collect()
    }

    /// What failed for a name.
    pub(crate) fn attempts(&self, name: &str) -> Option<&Attempts> {
        self.attempts.get(name)
    }

    fn state(&self, name: &str) -> NameState {
        NameState {
            is_wanted: self.wanted.get(name).is_some_and(Option::is_none),
            held: self.certificates.get(name).map(|usable| usable.held),
            attempts: self.attempts.get(name).cloned(),
            is_ordered: self.orders.contains_key(name),
        }
    }

    fn served(&self, now: Timestamp) -> Served {
        let is_wanted = |name: &str| self.wanted.contains_key(name);
        let certificates = self.certificates.iter().filter(|(name, _)| is_wanted(name));
        let certificates = certificates.map(|(name, usable)| (name.clone(), usable.pair.clone()));
        let statuses = self
            .wanted
            .iter()
            .map(|(name, problem)| (name.clone(), status(*problem, &self.state(name), now)));
        Served {
            certificates: certificates.collect(),
            orders: self.orders.clone().into_iter().collect(),
            challenges: self.challenges.clone().into_iter().collect(),
            nonces: self.nonces.clone().into_iter().collect::<HashMap<_, _>>(),
            statuses: statuses.collect(),
        }
    }

    fn apply(&mut self, records: &Records, change: Change) {
        let Some(place) = Place::of(&change.key) else { return };
        let Some(value) = change.value else {
            self.remove(&place);
            return;
        };
        if let Err(err) = self.take(records, &place, &value) {
            let (error, key) = (&err as &dyn Error, &change.key);
            error!(key, error, "{key} cannot be used; what was known before stands");
        }
    }

    fn remove(&mut self, place: &Place) {
        match place {
            Place::Leader => self.is_led = false,
            Place::Spent => self.spent = Spent::default(),
            Place::Account(_) => {}
            Place::Certificate(name) => drop(self.certificates.remove(name)),
            Place::Order(name) => {
                self.orders.remove(name);
                self.challenges.remove(name);
            }
            Place::Attempts(name) => drop(self.attempts.remove(name)),
            Place::Nonce(nonce) => drop(self.nonces.remove(nonce)),
        }
    }

    fn take(
        &mut self,
        records: &Records,
        place: &Place,
        value: &[u8],
    ) -> Result<(), UnusableError> {
        match place {
            Place::Leader => self.is_led = true,
            Place::Spent => self.spent = decode(value)?,
            Place::Account(_) => {}
            Place::Certificate(name) => {
                let stored: Certificate = decode(value)?;
                let key = records.open(place, &stored.key).map_err(RecordError::from)?;
                let pair = tls::certified(&stored.chain, &key)?;
                let Validity { not_before, not_after } = validity(&pair)?;
                let held = Held { not_before, not_after, issued_at: stored.issued_at };
                self.certificates.insert(name.clone(), Usable { pair, held });
            }
            Place::Order(name) => {
                let order: Order = decode(value)?;
                if order.way == Way::Tls && !order.authorization.is_empty() {
                    self.challenges.insert(name.clone(), challenge(name, &order.authorization)?);
                }
                self.orders.insert(name.clone(), order);
            }
            Place::Attempts(name) => drop(self.attempts.insert(name.clone(), decode(value)?)),
            Place::Nonce(nonce) => {
                let answer = String::from_utf8_lossy(value).into_owned();
                self.nonces.insert(nonce.clone(), answer);
            }
        }
        Ok(())
    }
}

/// The certificate with which an authority is answered over TLS (RFC 8737 §3).
fn challenge(name: &str, authorization: &str) -> Result<Arc<CertifiedKey>, UnusableError> {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, authorization.as_bytes());
    let mut params = CertificateParams::new([name.to_owned()])?;
    params.custom_extensions.push(CustomExtension::new_acme_identifier(digest.as_ref()));
    let key = KeyPair::generate()?;
    let made = params.self_signed(&key)?;
    let der = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    // Not looked into: that nobody takes it for another certificate, it has an extension that only authorities know.
    let pair = CertifiedKey::new(vec![made.der().clone()], any_supported_type(&der)?);
    Ok(Arc::new(pair))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_over_tls_can_be_made() {
        challenge("a.example", "token.thumbprint").unwrap();
    }
}
