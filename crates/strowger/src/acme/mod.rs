//! Certificates by themselves, over ACME (RFC 8555).
//!
//! Every router watches what is stored below `/strowger-acme/` in etcd and serves it: certificates, what authorities ask
//! for, nonces. One of them, which holds a lease there, orders. What it orders is stored before the authority is asked to
//! look, with all that another router needs to bring it to its end, so it may be killed at any moment.
//!
//! * `plan` decides what is due, from what is known and the time; it knows no IO.
//! * `names` says which names are wanted, `probe` whether a name leads here, `order` talks with the authority.
//! * `records` is what is stored, `known` what of it is known here, `served` what is served of it.
//! * `leader` is the router that orders, `expiry` warns of what ends.

mod directory;
mod dns;
pub(crate) mod expiry;
mod failure;
mod known;
mod leader;
mod names;
mod order;
mod plan;
mod probe;
mod records;
mod served;
mod settings;

use std::{sync::Arc, time::Duration};

use daemon::Lifetime;
use tokio::sync::watch;

pub use self::settings::AcmeSettings;
use self::{known::keep_known, leader::Orderer, probe::Probe, settings::SettingsError};
pub(crate) use self::{
    probe::NONCES,
    records::Records,
    served::{Acme, Served},
};
use crate::live::Live;

/// Below it, authorities ask over plain HTTP whether a name is its owner's.
pub(crate) const CHALLENGES: &str = "/.well-known/acme-challenge/";
/// The protocol by which authorities ask over TLS.
pub(crate) const TLS_CHALLENGE: &[u8] = b"acme-tls/1";
/// Requests for which etcd is asked at once, because what they ask for is not known here yet.
const LOOKUPS_MAX: usize = 8;
/// Longest time for that.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);

/// Serves what was ordered, and orders if there is a directory.
pub(crate) fn start(
    settings: &AcmeSettings,
    records: Records,
    live: &Arc<Live>,
    lifetime: &Lifetime,
) -> Result<(), SettingsError> {
    let orderer = orderer(settings, &records)?;
    let (sender, known) = watch::channel(Arc::default());
    let shared = live.clone();
    lifetime.spawn("certificates", |stop| keep_known(records, shared, sender, stop));
    let shared = live.clone();
    lifetime.spawn("expiry", |stop| expiry::keep_warned(shared, stop));
    if let Some(orderer) = orderer {
        lifetime.spawn("orders", |stop| leader::keep_ordering(orderer, known, stop));
    }
    Ok(())
}

/// What orders are made with, if there is a directory.
fn orderer(settings: &AcmeSettings, records: &Records) -> Result<Option<Orderer>, SettingsError> {
    let contact = settings.contact()?;
    let probe = Probe {
        dns: settings.dns()?,
        http_port: settings.http_port,
        tls_port: settings.tls_port,
        is_on: settings.check,
    };
    let http = directory::client(settings)?;
    let orderer = |directory| Orderer { records: records.clone(), http, directory, contact, probe };
    Ok(settings.directory()?.map(orderer))
}
