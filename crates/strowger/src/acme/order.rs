//! One certificate, from the order to its end.

use std::{sync::Arc, time::Duration};

use api::certificate::CertificateProblem;
use base64::{Engine, engine::general_purpose::STANDARD};
use instant_acme::{
    Account as AcmeAccount, AuthorizationStatus, ChallengeType, Error, Identifier, Key, NewOrder,
    Order as AcmeOrder, OrderStatus, RetryPolicy,
};
use jiff::Timestamp;
use md5::{Digest, Md5};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio::{
    sync::{Mutex, watch},
    time::{sleep, timeout},
};
use tracing::{info, warn};

use super::{
    directory::Caller,
    failure::{Ended, Failure},
    known::Known,
    plan::Spent,
    probe::Probe,
    records::{Account, Certificate, Lead, Order, Place, Way, decode},
};
use crate::tls;

/// How often and how long an authority is asked whether it is done.
const PATIENCE: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(100))
    .backoff(1.5)
    .timeout(Duration::from_secs(60));
/// This router is told within this time of what it has stored.
const TOLD_TIMEOUT: Duration = Duration::from_secs(5);
/// The others are told so much later, at most.
const TOLD_DELAY: Duration = Duration::from_secs(1);
/// What an authority says of an account that it does not have (RFC 8555, 6.7).
const UNKNOWN_ACCOUNT: &str = "urn:ietf:params:acme:error:accountDoesNotExist";
/// An order that is older has come to nothing.
const ORDER_AGE_MAX: i64 = 24 * 3600;

/// What orders are made with while this router leads.
#[derive(Debug)]
pub(crate) struct Orders {
    pub(crate) lead: Lead,
    pub(crate) http: reqwest::Client,
    /// URL of the authority's directory.
    pub(crate) directory: String,
    pub(crate) contact: Vec<String>,
    pub(crate) probe: Probe,
    /// When orders were made; one is counted before it is made.
    pub(crate) spent: Mutex<Spent>,
    /// What this router serves is known from it.
    pub(crate) known: watch::Receiver<Arc<Known>>,
    /// Held while the account is made, so that it is made once.
    pub(crate) account: Arc<Mutex<()>>,
}

impl Orders {
    /// Orders a certificate for a name, if the name leads here. The revision with which it was stored.
    pub(crate) async fn order(&self, name: &str) -> Result<u64, Ended> {
        let way = self.probe.way(&self.lead, name).await?;
        let caller = Caller::new(self.http.clone());
        let account = self.account(&caller).await?;
        self.spend().await?;
        let mut made = self.place(&account, name, way).await;
        if made.as_ref().is_err_and(is_of_unknown_account) {
            self.forget_account().await?;
            let account = self.account(&caller).await?;
            made = self.place(&account, name, way).await;
        }
        let (order, record) = made.map_err(|err| heard(err, &caller))?;
        let revision = self.lead.keep_order(name, &record).await?;
        if way == Way::Tls {
            self.until_told(revision).await;
        }
        info!(domain = name, "a certificate for {name} is ordered");
        self.complete(&caller, order, name, &record).await
    }

    /// Brings an order to its end that was made before, perhaps by a router that is no more.
    pub(crate) async fn finish(&self, name: &str, record: &Order) -> Result<u64, Ended> {
        let age = Timestamp::now().as_second() - record.begun.as_second();
        if record.directory != self.directory || age.abs() > ORDER_AGE_MAX {
            let detail = "the order came to nothing within a day, or was made elsewhere";
            return Err(Failure::new(CertificateProblem::Refused, detail).ending().into());
        }
        let caller = Caller::new(self.http.clone());
        let account = self.account(&caller).await?;
        let order = account.order(record.url.clone()).await;
        let order = match order {
            Ok(order) => order,
            Err(err) => {
                if is_of_unknown_account(&err) {
                    self.forget_account().await?;
                }
                return Err(heard(err, &caller).into());
            }
        };
        info!(domain = name, "the order of a certificate for {name} is gone on with");
        self.complete(&caller, order, name, record).await
    }

    /// The account at the authority. Its key is stored before the authority hears of it: whoever makes the account again,
    /// because an answer or a router was lost, makes the same one.
    async fn account(&self, caller: &Caller) -> Result<AcmeAccount, Ended> {
        let _one_at_a_time = self.account.lock().await;
        let place = self.account_place();
        let mut record = match self.lead.records().value(&place).await? {
            Some(value) => decode::<Account>(&value)?,
            None => self.new_account(&place).await?,
        };
        let sealed = self.lead.records().open(&place, &record.key);
        let der = STANDARD.decode(sealed.map_err(super::records::RecordError::from)?);
        let der = der.map_err(|_| Failure::of(&Error::KeyRejected, None))?;
        let failed = |err| Ended::from(Failure::of(&err, caller.asked()));
        let builder = AcmeAccount::builder_with_http(Box::new(caller.clone()));
        let Some(id) = record.id.clone() else {
            let key = Key::from_pkcs8_der(PrivatePkcs8KeyDer::from(&*der)).map_err(failed)?;
            let der = PrivatePkcs8KeyDer::from(der);
            let made = builder.create_from_key((key, der.into()), self.directory.clone()).await;
            let (account, _) = made.map_err(failed)?;
            record.id = Some(account.id().to_owned());
            self.lead.keep_account(&place, &record).await?;
            info!(directory = %self.directory, "an account was made at {}", self.directory);
            return self.with_contact(account, &place, record, caller).await;
        };
        let key = PrivatePkcs8KeyDer::from(&*der);
        let account = builder.from_parts(id, key, self.directory.clone()).await.map_err(failed)?;
        self.with_contact(account, &place, record, caller).await
    }

    fn account_place(&self) -> Place {
        Place::Account(hex::encode(Md5::digest(&self.directory)))
    }

    /// Has the account made once more, with the key it had: the authority has lost it, or is another one at the same place.
    async fn forget_account(&self) -> Result<(), Ended> {
        let _one_at_a_time = self.account.lock().await;
        let place = self.account_place();
        if let Some(value) = self.lead.records().value(&place).await? {
            let record = Account { id: None, contact: vec![], ..decode::<Account>(&value)? };
            self.lead.keep_account(&place, &record).await?;
            warn!(directory = %self.directory, "{} does not know our account; it is made again", self.directory);
        }
        Ok(())
    }

    /// A record of an account that the authority does not know yet.
    async fn new_account(&self, place: &Place) -> Result<Account, Ended> {
        let (_, key) = Key::generate_pkcs8().map_err(|err| Failure::of(&err, None))?;
        let key = STANDARD.encode(key.secret_pkcs8_der());
        let key = self.lead.records().close(place, &key);
        let account = Account { directory: self.directory.clone(), key, id: None, contact: vec![] };
        self.lead.keep_account(place, &account).await?;
        Ok(account)
    }

    /// Tells the authority whom it may write to, if that changed.
    async fn with_contact(
        &self,
        account: AcmeAccount,
        place: &Place,
        record: Account,
        caller: &Caller,
    ) -> Result<AcmeAccount, Ended> {
        if record.contact != self.contact {
            let contact: Vec<_> = self.contact.iter().map(String::as_str).collect();
            let told = account.update_contacts(&contact).await;
            told.map_err(|err| Failure::of(&err, caller.asked()))?;
            let record = Account { contact: self.contact.clone(), ..record };
            self.lead.keep_account(place, &record).await?;
        }
        Ok(account)
    }

    /// Waits until the routers can answer over TLS: in a handshake they have no time to ask etcd, as they have over HTTP.
    async fn until_told(&self, revision: u64) {
        let mut known = self.known.clone();
        let told = known.wait_for(|known| known.revision >= revision);
        let _ = timeout(TOLD_TIMEOUT, told).await;
        sleep(TOLD_DELAY).await;
    }

    /// Counts an order before it is made.
    async fn spend(&self) -> Result<(), Ended> {
        let mut spent = self.spent.lock().await;
        let next = spent.with(Timestamp::now()).ok_or(Ended::Postponed)?;
        self.lead.keep_spent(&next).await?;
        *spent = next;
        Ok(())
    }

    async fn place(
        &self,
        account: &AcmeAccount,
        name: &str,
        way: Way,
    ) -> Result<(AcmeOrder, Order), Error> {
        let names = [Identifier::Dns(name.to_owned())];
        let mut order = account.new_order(&NewOrder::new(&names)).await?;
        let (mut token, mut authorization) = (String::new(), String::new());
        let mut authorizations = order.authorizations();
        while let Some(found) = authorizations.next().await {
            let mut found = found?;
            if let Some(challenge) = found.challenge(kind(way)) {
                token.clone_from(&challenge.token);
                authorization = challenge.key_authorization().as_str().to_owned();
            }
        }
        let key = KeyPair::generate().map_err(|err| Error::Other(Box::new(err)))?;
        let key = key.serialize_pem();
        let key = self.lead.records().close(&Place::Order(name.into()), &key);
        let (url, directory) = (order.url().to_owned(), self.directory.clone());
        let begun = Timestamp::now();
        Ok((order, Order { url, directory, key, way, token, authorization, begun }))
    }

    /// From an order that every router answers for to a certificate that every router serves.
    async fn complete(
        &self,
        caller: &Caller,
        mut order: AcmeOrder,
        name: &str,
        record: &Order,
    ) -> Result<u64, Ended> {
        let records = self.lead.records();
        let key = records.open(&Place::Order(name.into()), &record.key);
        let key = key.map_err(super::records::RecordError::from)?;
        let chain = fetch(&mut order, name, record.way, &key).await;
        let chain = match chain {
            Ok(chain) => chain,
            Err(err) => {
                let failure = heard(err, caller);
                return Err(why(&mut order, record.way).await.unwrap_or(failure).into());
            }
        };
        if let Err(err) = tls::certified(&chain, &key) {
            let detail = format!("what the authority gave {err}");
            return Err(Failure::new(CertificateProblem::Refused, detail).ending().into());
        }
        let place = Place::Certificate(name.into());
        let key = records.close(&place, &key);
        let certificate = Certificate { chain, key, issued_at: Timestamp::now() };
        let revision = self.lead.keep_certificate(name, &certificate).await?;
        info!(domain = name, "there is a certificate for {name}");
        Ok(revision)
    }
}

fn kind(way: Way) -> ChallengeType {
    match way {
        Way::Http => ChallengeType::Http01,
        Way::Tls => ChallengeType::TlsAlpn01,
    }
}

/// Whether an authority says that it has no such account.
fn is_of_unknown_account(err: &Error) -> bool {
    matches!(err, Error::Api(problem) if problem.r#type.as_deref() == Some(UNKNOWN_ACCOUNT))
}

fn heard(err: Error, caller: &Caller) -> Failure {
    Failure::of(&err, caller.asked())
}

/// The chain of an order's certificate, wherever the order stands.
async fn fetch(order: &mut AcmeOrder, name: &str, way: Way, key: &str) -> Result<String, Error> {
    let mut status = order.refresh().await?.status;
    if status == OrderStatus::Pending {
        let mut authorizations = order.authorizations();
        while let Some(found) = authorizations.next().await {
            let mut found = found?;
            if found.status != AuthorizationStatus::Pending {
                continue;
            }
            let Some(mut challenge) = found.challenge(kind(way)) else {
                return Err(Error::Str("the authority offers no way that is known here"));
            };
            challenge.set_ready().await?;
        }
        status = order.poll_ready(&PATIENCE).await?;
    }
    if status == OrderStatus::Ready {
        let other = |err: rcgen::Error| Error::Other(Box::new(err));
        let key = KeyPair::from_pem(key).map_err(other)?;
        let mut params = CertificateParams::new([name.to_owned()]).map_err(other)?;
        params.distinguished_name = DistinguishedName::new();
        order.finalize_csr(params.serialize_request(&key).map_err(other)?.der()).await?;
        status = order.state().status;
    }
    if status == OrderStatus::Invalid {
        return Err(Error::Str("the order is invalid"));
    }
    order.poll_certificate(&PATIENCE).await
}

/// What the authority found wrong, if the order is over: it is said of the challenge, and not always of the order.
async fn why(order: &mut AcmeOrder, way: Way) -> Option<Failure> {
    if order.refresh().await.ok()?.status != OrderStatus::Invalid {
        return None;
    }
    let mut authorizations = order.authorizations();
    while let Some(found) = authorizations.next().await {
        let mut found = found.ok()?;
        let state = found.refresh().await.ok()?;
        let challenge = state.challenges.iter().find(|one| one.r#type == kind(way));
        if let Some(problem) = challenge.and_then(|challenge| challenge.error.as_ref()) {
            return Some(Failure::of_problem(problem).ending());
        }
    }
    let detail = "the order is invalid, and it was not said why";
    Some(Failure::new(CertificateProblem::Refused, detail).ending())
}
