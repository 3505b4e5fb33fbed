#![doc = include_str!("../README.md")]

mod apps;
mod builds;
mod deployments;
mod images;
mod jobs;
mod lines;
mod pages;
mod path;
mod resources;
mod streams;
mod volumes;

use api_client::{Client, Endpoint};
pub use api_client::{Error, Upgraded};
pub use deployments::Progress;
pub use jobs::LogQuery;
pub use path::escape;
pub use streams::EventQuery;

/// Protocol that attached jobs upgrade the connection to.
pub const ATTACH_PROTOCOL: &str = "flynn-attach/0";

/// A client of the controller. Clones share its connections.
#[derive(Debug, Clone)]
pub struct Controller {
    client: Client,
}

impl Controller {
    /// A client that finds the controller at `endpoint` and sends `key`.
    pub fn new(endpoint: impl Into<Endpoint>, key: Option<String>) -> Self {
        Self::with_client(Client::new(endpoint, key))
    }

    /// A client over an HTTP client of the caller's making (certificate pins).
    pub fn with_client(client: Client) -> Self {
        Self { client }
    }

    /// The HTTP client below, for calls this crate has no method for.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Whether the controller answers.
    pub async fn ping(&self) -> Result<(), Error> {
        self.client.send(reqwest::Method::GET, "/ping", |request| request).await.map(drop)
    }
}
