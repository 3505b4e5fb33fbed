//! What a service may be called, and what an instance must look like.

use std::{fmt, net::SocketAddr};

use api::{
    discoverd::{Instance, META_HOST},
    reserved,
};
use serde::Serialize;

/// Longest name of a service. One longer than a DNS label (63) is found over HTTP only.
const NAME_LIMIT: usize = 128;
/// Most facts an instance may carry: every one is sent to every watcher.
const META_LIMIT: usize = 64;
/// The id of a host, in the facts of its own daemons.
const META_ID: &str = "id";
/// Most bytes all of them may have.
const META_BYTES: usize = 16 << 10;

/// Names of 2014 and of later Flynn that are read under what they are called here.
const ALIASES: [(&str, &str); 5] = [
    ("flynn-controller", "controller"),
    ("pg", "postgres"),
    ("pg-api", "postgres-api"),
    ("router-api", "strowger-api"),
    ("blobstore", "shelf"),
];

/// The name of a service: lower-case letters, digits and dashes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) struct ServiceName(String);

/// The text cannot be the name of a service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to {NAME_LIMIT} lower-case letters, digits and dashes")]
pub(crate) struct InvalidName;

impl ServiceName {
    /// Takes a name as it is.
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidName> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let fits = (1..=NAME_LIMIT).contains(&text.len());
        if fits && text.bytes().all(allowed) { Ok(Self(text.into())) } else { Err(InvalidName) }
    }

    /// Takes a name to read by; old names give the present one.
    pub(crate) fn parse_alias(text: &str) -> Result<Self, InvalidName> {
        let alias = ALIASES.iter().find(|(old, _)| *old == text);
        Self::parse(alias.map_or(text, |(_, present)| present))
    }

    /// The text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why an instance cannot be registered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct InvalidInstance {
    /// The field that is wrong.
    pub field: &'static str,
    /// What is wrong with it.
    pub message: String,
}

/// Whether an instance of a service may be registered under `id`.
pub(crate) fn check(
    service: &ServiceName,
    instance: &Instance,
    id: &str,
) -> Result<(), InvalidInstance> {
    let invalid = |field, message: &str| Err(InvalidInstance { field, message: message.into() });
    let Instance { addr, proto, meta, .. } = instance;
    // The oldest of them leads the cluster and is given its keys: a job's process must never be that one.
    if reserved::is_layer0_service(service.as_str())
        && (!meta.contains_key(META_ID) || meta.contains_key(META_HOST))
    {
        let message = format!("must name the host's {META_ID}: {service} is of hosts, not of jobs");
        return invalid("meta", &message);
    }
    if addr.parse::<SocketAddr>().is_err() {
        return invalid("addr", "must be ip:port");
    }
    let lower = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if !(1..=16).contains(&proto.len()) || !proto.bytes().all(lower) {
        return invalid("proto", "must be 1 to 16 lower-case letters and digits");
    }
    let expected = Instance::id_of(proto, addr);
    if instance.id != expected || id != expected {
        let message = format!("must be the hex MD5 of proto-addr, here {expected}");
        return invalid("id", &message);
    }
    let bytes: usize = meta.iter().map(|(key, value)| key.len() + value.len()).sum();
    if meta.len() > META_LIMIT || bytes > META_BYTES {
        let message = format!("must be at most {META_LIMIT} entries of {META_BYTES} bytes in all");
        return invalid("meta", &message);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn old_names_are_read_as_the_present_ones() {
        assert_eq!(ServiceName::parse_alias("pg").unwrap().as_str(), "postgres");
        assert_eq!(ServiceName::parse_alias("web").unwrap().as_str(), "web");
        assert!(ServiceName::parse("a/b").is_err());
        assert!(ServiceName::parse("").is_err());
    }

    #[test]
    fn an_instance_has_the_id_of_its_address() {
        let web = ServiceName::parse("web").unwrap();
        let check = |one: &Instance, id: &str| check(&web, one, id);
        let good = Instance::new("http", "10.0.0.1:80", [].into());
        assert_eq!(check(&good, &good.id), Ok(()));
        assert_eq!(check(&good, "other").unwrap_err().field, "id");
        let bad = Instance::new("http", "localhost:80", [].into());
        assert_eq!(check(&bad, &bad.id).unwrap_err().field, "addr");
        let bad = Instance::new("HTTP", "10.0.0.1:80", [].into());
        assert_eq!(check(&bad, &bad.id).unwrap_err().field, "proto");
        let large = [("a".to_owned(), "x".repeat(META_BYTES))];
        let bad = Instance::new("http", "10.0.0.1:80", large.into());
        assert_eq!(check(&bad, &bad.id).unwrap_err().field, "meta");
    }

    #[test]
    fn what_a_job_offers_is_no_host() {
        let hosts = ServiceName::parse("flynn-host").unwrap();
        let meta = |entries: &[(&str, &str)]| {
            entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let host = Instance::new("http", "10.0.0.1:1113", meta(&[("id", "h1")]));
        assert_eq!(check(&hosts, &host, &host.id), Ok(()));
        for facts in [&[][..], &[("FLYNN_JOB_ID", "h1-1")], &[("id", "h1"), (META_HOST, "h1")]] {
            let job = Instance::new("http", "10.0.0.1:80", meta(facts));
            assert_eq!(check(&hosts, &job, &job.id).unwrap_err().field, "meta");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in ".{0,150}") {
            let _ = ServiceName::parse_alias(&text);
        }
    }
}
