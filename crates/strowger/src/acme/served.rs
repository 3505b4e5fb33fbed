//! What every router serves of what is stored, and what it tells of it.

use std::{collections::HashMap, sync::Arc};

use api::certificate::{
    CertificateIssuer, CertificateProblem, CertificateState, CertificateStatus,
};
use arc_swap::{ArcSwap, Guard};
use jiff::Timestamp;
use rustls::sign::CertifiedKey;
use tokio::{sync::Semaphore, time::timeout};

use super::{
    LOOKUP_TIMEOUT, LOOKUPS_MAX,
    plan::NameState,
    records::{Order, Place, Records, decode},
};

/// What is served of what routers share.
#[derive(Debug, Default)]
pub(crate) struct Served {
    /// The certificates that were ordered, by name.
    pub(crate) certificates: HashMap<String, Arc<CertifiedKey>>,
    /// What is answered to authorities.
    pub(crate) orders: HashMap<String, Order>,
    /// The certificates with which authorities are answered over TLS.
    pub(crate) challenges: HashMap<String, Arc<CertifiedKey>>,
    /// What is answered to the other routers.
    pub(crate) nonces: HashMap<String, String>,
    /// How the names stand that routes want a certificate for.
    pub(crate) statuses: HashMap<String, CertificateStatus>,
}

/// The part of the router's state that certificates by themselves are.
#[derive(Debug)]
pub(crate) struct Acme {
    served: ArcSwap<Served>,
    /// Where to look for what the watch has not told yet; none while nothing is ordered.
    records: Option<Records>,
    lookups: Semaphore,
}

impl Default for Acme {
    fn default() -> Self {
        Self::new(None)
    }
}

impl Acme {
    /// Nothing yet.
    pub(crate) fn new(records: Option<Records>) -> Self {
        Self { served: ArcSwap::default(), records, lookups: Semaphore::new(LOOKUPS_MAX) }
    }

    /// What is served now.
    pub(crate) fn served(&self) -> Guard<Arc<Served>> {
        self.served.load()
    }

    /// Serves something else from now on.
    pub(crate) fn replace(&self, served: Served) {
        self.served.store(Arc::new(served));
    }

    /// What an authority wants to hear that asks a host for a token.
    pub(crate) async fn authorization(&self, host: &str, token: &str) -> Option<String> {
        let answer = |order: &Order| {
            let is_asked = order.token == token && !order.authorization.is_empty();
            is_asked.then(|| order.authorization.clone())
        };
        if let Some(found) = self.served().orders.get(host).and_then(answer) {
            return Some(found);
        }
        // Only for names that something may be ordered for; the others are the apps'.
        if !self.served().statuses.contains_key(host) {
            return None;
        }
        let value = self.look_up(&Place::Order(host.into())).await?;
        answer(&decode(&value).ok()?)
    }

    /// What a router wants to hear that finds out whether a name leads to its cluster.
    pub(crate) async fn answer(&self, nonce: &str) -> Option<String> {
        if let Some(found) = self.served().nonces.get(nonce) {
            return Some(found.clone());
        }
        let is_nonce = nonce.len() == 32 && nonce.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_nonce {
            return None;
        }
        let value = self.look_up(&Place::Nonce(nonce.into())).await?;
        String::from_utf8(value.to_vec()).ok()
    }

    /// What was stored a moment ago: who asks may be faster than the watch. Strangers can ask, so only some at once.
    async fn look_up(&self, place: &Place) -> Option<bytes::Bytes> {
        let records = self.records.as_ref()?;
        let _one_of_few = self.lookups.try_acquire().ok()?;
        timeout(LOOKUP_TIMEOUT, records.value(place)).await.ok()?.ok()?
    }

    /// The certificate that was ordered for a name.
    pub(crate) fn certificate(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        self.served().certificates.get(name).cloned()
    }

    /// The certificate with which an authority is answered that asks about a name over TLS.
    pub(crate) fn challenge(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        self.served().challenges.get(name).cloned()
    }

    /// How many names the last try to have a certificate for came to nothing.
    pub(crate) fn failing(&self) -> u64 {
        let served = self.served();
        served.statuses.values().filter(|status| status.problem.is_some()).count() as u64
    }

    /// How a domain stands that has no certificate of its own. While nothing is ordered, only what is served is told.
    pub(crate) fn status(&self, domain: &str) -> Option<CertificateStatus> {
        let status = self.served().statuses.get(domain).cloned();
        status.filter(|told| self.records.is_some() || told.state == CertificateState::Served)
    }
}

/// How a name stands.
pub(crate) fn status(
    problem: Option<CertificateProblem>,
    state: &NameState,
    now: Timestamp,
) -> CertificateStatus {
    let failed = state.attempts.as_ref();
    let state_now = match (&state.held, problem, failed) {
        (Some(_), ..) => CertificateState::Served,
        (None, Some(_), _) => CertificateState::Impossible,
        (None, None, Some(_)) => CertificateState::Failing,
        (None, None, None) => CertificateState::Ordered,
    };
    CertificateStatus {
        issuer: CertificateIssuer::Automatic,
        state: state_now,
        not_after: state.held.map(|held| held.not_after),
        problem: problem.or(failed.map(|failed| failed.problem)),
        detail: failed.map(|failed| failed.detail.clone()).filter(|detail| !detail.is_empty()),
        next_try: failed.map(|failed| failed.next).filter(|next| *next > now),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acme::plan::{Held, failed};

    #[test]
    fn a_name_is_served_or_why_it_is_not_is_told() {
        let now = Timestamp::from_second(1000).unwrap();
        let state = NameState { is_wanted: true, ..NameState::default() };
        let plain = status(None, &state, now);
        assert_eq!((plain.state, plain.problem), (CertificateState::Ordered, None));
        let never = status(Some(CertificateProblem::Wildcard), &state, now);
        assert_eq!(never.state, CertificateState::Impossible);
        let why = (CertificateProblem::PortClosed, String::new());
        let attempts = Some(failed(None, why, None, 0.0, now));
        let failing = status(None, &NameState { attempts: attempts.clone(), ..state.clone() }, now);
        assert_eq!(failing.state, CertificateState::Failing);
        assert_eq!(failing.problem, Some(CertificateProblem::PortClosed));
        assert_eq!(failing.next_try.unwrap().as_second(), 1060);
        let held = Some(Held { not_before: now, not_after: now, issued_at: now });
        let renewing = status(None, &NameState { held, attempts, ..state }, now);
        assert_eq!(renewing.state, CertificateState::Served);
        assert_eq!(renewing.problem, Some(CertificateProblem::PortClosed));
    }
}
