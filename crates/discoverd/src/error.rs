//! How our errors become HTTP.

use api::error::ErrorCode;
use daemon::ApiError;

use crate::domain::name::{InvalidInstance, InvalidName};

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("etcd is away; reads are answered from memory, writes can be tried again")]
    EtcdAway,
    #[error(
        "this discoverd does not watch etcd at the moment; follow that of a host with a member of etcd"
    )]
    WatchesNot,
    #[error("too many others begin to follow this discoverd at once; ask again or ask another")]
    TooManyFollow,
    #[error("there is no service {0}")]
    NoService(String),
    #[error("{0} has no leader at the moment")]
    NoLeader(String),
    #[error("{0} has no meta")]
    NoMeta(String),
    #[error("there is a service {0} already")]
    ServiceExists(String),
    #[error("the instance is not registered for {0}")]
    NoInstance(String),
    #[error("the meta of {service} was changed meanwhile (its index is {index}); read it again")]
    MetaChanged { service: String, index: u64 },
    #[error(
        "the leader of {0} is its oldest instance; create the service with leader_type manual to set it"
    )]
    NotManual(String),
    #[error(transparent)]
    Name(#[from] InvalidName),
    #[error(transparent)]
    Instance(#[from] InvalidInstance),
    #[error(transparent)]
    Etcd(#[from] keyspace::Error),
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        let says = failure.to_string();
        match failure {
            Failure::EtcdAway | Failure::WatchesNot | Failure::TooManyFollow => {
                Self::unavailable(says)
            }
            Failure::NoService(_)
            | Failure::NoLeader(_)
            | Failure::NoMeta(_)
            | Failure::NoInstance(_) => Self::new(ErrorCode::ObjectNotFound, says),
            Failure::ServiceExists(_) => Self::new(ErrorCode::ObjectExists, says),
            Failure::MetaChanged { .. } => Self::new(ErrorCode::Conflict, says),
            Failure::NotManual(_) => Self::invalid("leader", format!("cannot be set: {says}")),
            Failure::Name(err) => Self::invalid("service", err),
            Failure::Instance(err) => Self::invalid(err.field, err.message),
            Failure::Etcd(err) if err.is_unavailable() => Self::unavailable(says),
            // Another lease is on its way.
            Failure::Etcd(keyspace::Error::LeaseGone { .. }) => Self::unavailable(says),
            Failure::Etcd(err) => Self::internal("writing to etcd", &err),
        }
    }
}
