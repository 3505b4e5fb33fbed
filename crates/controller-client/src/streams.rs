//! Events and formations as they change.

use api::controller::{Event, ExpandedFormation};
use api_client::Error;
use futures_util::Stream;
use jiff::Timestamp;

use crate::{Controller, escape};

/// Which events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventQuery<'a> {
    /// Only those of this app (id or name).
    pub app: Option<String>,
    /// Only those of these object types; all if empty.
    pub types: &'a [&'a str],
    /// First all after this id, then what comes. Absent: only what comes.
    pub since: Option<i64>,
}

impl EventQuery<'_> {
    fn to_query(&self) -> String {
        let mut query = format!("object_types={}", escape(&self.types.join(",")));
        if let Some(app) = &self.app {
            query += &format!("&app_id={}", escape(app));
        }
        if let Some(since) = self.since {
            query += &format!("&since_id={since}");
        }
        query
    }
}

impl Controller {
    /// Events as they happen, in order. Subscribe again with the last id when it ends: nothing is missed.
    pub async fn events(
        &self,
        query: &EventQuery<'_>,
    ) -> Result<impl Stream<Item = Result<Event, Error>> + Send + use<>, Error> {
        self.client.events(&format!("/events?{}", query.to_query())).await
    }

    /// The newest events that match, newest first, at most `count`.
    pub async fn past_events(
        &self,
        query: &EventQuery<'_>,
        count: u32,
    ) -> Result<Vec<Event>, Error> {
        self.client.get(&format!("/events?{}&count={count}", query.to_query())).await
    }

    /// All formations changed since then (all, if absent), then `None`, then every change as it happens. A formation with
    /// no processes is one that shall not run. When the stream ends, subscribe again: the backlog is the whole truth.
    pub async fn stream_formations(
        &self,
        since: Option<Timestamp>,
    ) -> Result<impl Stream<Item = Result<Option<ExpandedFormation>, Error>> + Send + use<>, Error>
    {
        let query = since.map(|since| format!("?since={}", escape(&since.to_string())));
        self.client.events(&format!("/formations{}", query.unwrap_or_default())).await
    }
}
