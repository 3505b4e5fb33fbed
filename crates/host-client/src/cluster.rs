//! sampi on the leading host.

use api::{
    cluster::{Committed, Rejected, State, Tx},
    error::ErrorCode,
};
use api_client::{Client, Endpoint, Error};

/// The shared state of the cluster, as the leading flynn-host serves it.
#[derive(Debug, Clone)]
pub struct Cluster {
    client: Client,
}

/// A transaction did not happen, or it is not known whether it did.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// It did not happen: the state is not the one it was planned on.
    #[error("the transaction was refused: {}", reasons(.0))]
    Rejected(Rejected),
    /// The leader could not be asked, or its answer was lost. Look at the state before trying again.
    #[error(transparent)]
    Client(#[from] Error),
}

fn reasons(rejected: &Rejected) -> String {
    let reasons = rejected.hosts.iter().map(|(host, refusal)| match host.as_str() {
        "" => refusal.to_string(),
        host => format!("{host}: {refusal}"),
    });
    reasons.collect::<Vec<_>>().join(", ")
}

impl Cluster {
    /// sampi at the leader's address.
    pub fn new(leader: impl Into<Endpoint>, key: Option<String>) -> Self {
        Self { client: Client::new(leader, key) }
    }

    /// sampi behind a client of the caller's own making (time limits, retries).
    pub fn with_client(client: Client) -> Self {
        Self { client }
    }

    /// The whole cluster at one instant.
    pub async fn state(&self) -> Result<State, Error> {
        self.client.get("/cluster/state").await
    }

    /// Does all of a transaction, or nothing.
    pub async fn commit(&self, tx: &Tx) -> Result<Committed, CommitError> {
        self.client.post("/cluster/commit", tx).await.map_err(|err| match rejected(&err) {
            Some(rejected) => CommitError::Rejected(rejected),
            None => CommitError::Client(err),
        })
    }
}

fn rejected(err: &Error) -> Option<Rejected> {
    match err {
        Error::Api { body, .. } if body.code == ErrorCode::Conflict => {
            serde_json::from_value(body.detail.clone()?).ok()
        }
        _ => None,
    }
}
