//! sampi on the leading host.

use std::time::Duration;

use api::{
    cluster::{Committed, Rejected, State, Tx},
    discoverd::Term,
    error::ErrorCode,
    host::TERM_HEADER,
};
use api_client::{Client, Endpoint, Error, body};
use reqwest::Method;

/// Longest time a transaction may take: every host it touches acknowledges its part.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest answer to a transaction: it names what was lost of it.
const COMMITTED_LEN_MAX: usize = 16 << 20;

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

    /// The same, told with every transaction under which term of its own the planner gives it.
    pub fn with_term(&self, term: Term) -> Self {
        Self { client: self.client.with_header(TERM_HEADER, &term.to_header()) }
    }

    /// The whole cluster at one instant.
    pub async fn state(&self) -> Result<State, Error> {
        self.client.get("/cluster/state").await
    }

    /// Does all of a transaction, or nothing.
    pub async fn commit(&self, tx: &Tx) -> Result<Committed, CommitError> {
        self.post(tx).await.map_err(|err| match rejected(&err) {
            Some(rejected) => CommitError::Rejected(rejected),
            None => CommitError::Client(err),
        })
    }

    async fn post(&self, tx: &Tx) -> Result<Committed, Error> {
        let response = self
            .client
            .send(Method::POST, "/cluster/commit", |request| {
                request.timeout(COMMIT_TIMEOUT).json(tx)
            })
            .await?;
        let url = response.url().to_string();
        let bytes = body::read(response, COMMITTED_LEN_MAX).await?;
        serde_json::from_slice(&bytes).map_err(|source| Error::Decode { url, source })
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
