//! Every router that is registered at the moment.

use std::{collections::BTreeMap, future::Future, time::Duration};

use api::route::{Drain, Drained, Sync};
use api_client::{Client, Endpoint, Error};
use discoverd_client::ServiceWatch;
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::debug;

use crate::{Ignored, drain_path, limit, sync_path};

/// How often the registered routers are read again while some have not answered.
const REREAD: Duration = Duration::from_secs(1);
/// Pause before a router that gave an error is asked again.
const PAUSE: Duration = Duration::from_millis(100);
/// How long after its time is over an answer is still taken.
const GRACE: Duration = Duration::from_millis(500);
/// Longest time to connect to a router.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// All routers registered as `strowger-api`, each asked by itself.
#[derive(Debug, Clone)]
pub struct Routers {
    http: reqwest::Client,
    endpoint: Endpoint,
    /// Where the endpoint comes from, if it may not be known yet.
    watch: Option<ServiceWatch>,
    key: Option<String>,
}

/// Some routers did not answer in time.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.text())]
pub struct Unanswered {
    /// Base URLs of the routers that did not; none if it is not known which there are.
    pub routers: Vec<String>,
    /// How long they were waited for.
    pub waited: Duration,
    /// What one of them said last, if it said anything.
    #[source]
    pub last: Option<Error>,
}

impl Unanswered {
    fn text(&self) -> String {
        let waited = self.waited;
        match &self.routers[..] {
            [] => {
                format!("service discovery did not tell within {waited:?} which routers there are")
            }
            routers => {
                format!("the router at {} did not confirm within {waited:?}", routers.join(", "))
            }
        }
    }
}

impl Routers {
    /// The routers that are registered: `discoverd.watch("strowger-api")`. Until it is known which those are, nothing has been confirmed.
    pub fn registered(watch: ServiceWatch, key: Option<String>) -> Self {
        Self { watch: Some(watch.clone()), ..Self::new(watch.endpoint(), key) }
    }

    /// The routers that `endpoint` names.
    pub fn new(endpoint: impl Into<Endpoint>, key: Option<String>) -> Self {
        let http = reqwest::Client::builder()
            // What was asked of one is not done by another.
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(Duration::from_secs(20))
            .tcp_nodelay(true)
            .http1_only()
            .no_proxy()
            .build()
            .expect("the options of the HTTP client are valid");
        Self { http, endpoint: endpoint.into(), watch: None, key }
    }

    /// Waits until each router registered at that moment serves both revisions: at once if there is none.
    pub async fn sync(&self, sync: Sync) -> Result<(), Unanswered> {
        let wait = Duration::from_millis(sync.timeout_ms);
        let ask = async |client: Client, left: Duration| {
            let path = sync_path(Sync { timeout_ms: millis(left), ..sync });
            client.get::<Ignored>(&path).await.map(drop)
        };
        self.all(wait, ask).await.map(drop)
    }

    /// Waits until no router has anything under way to a backend; what is open after the time is closed and counted.
    pub async fn drain(&self, drain: Drain) -> Result<Drained, Unanswered> {
        let wait = Duration::from_millis(drain.timeout_ms);
        let ask = async |client: Client, left: Duration| {
            let path = drain_path(&Drain { timeout_ms: millis(left), ..drain.clone() });
            client.get::<Drained>(&path).await
        };
        let answers = self.all(wait, ask).await?;
        Ok(Drained {
            closed: answers.iter().map(|answer| answer.closed).sum(),
            open: answers.iter().map(|answer| answer.open).sum(),
        })
    }

    /// Asks every router until each that is still registered has answered.
    async fn all<T, F>(
        &self,
        wait: Duration,
        ask: impl Fn(Client, Duration) -> F,
    ) -> Result<Vec<T>, Unanswered>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let deadline = Instant::now() + wait;
        if let Some(mut watch) = self.watch.clone()
            && timeout_at(deadline, watch.wait_current()).await.is_err()
        {
            return Err(Unanswered { routers: Vec::new(), waited: wait, last: None });
        }
        // A router that waited in vain says so just after the deadline.
        let patience = deadline + GRACE;
        let mut answers: BTreeMap<String, Option<T>> = BTreeMap::new();
        let mut pending = FuturesUnordered::new();
        let mut last = None;
        loop {
            let bases = self.endpoint.bases();
            answers.retain(|base, answer| answer.is_some() || bases.contains(base));
            for base in bases.iter() {
                if !answers.contains_key(base) {
                    answers.insert(base.clone(), None);
                    pending.push(self.one(base.clone(), Duration::ZERO, deadline, &ask));
                }
            }
            if answers.values().all(Option::is_some) {
                return Ok(answers.into_values().flatten().collect());
            }
            if Instant::now() >= deadline && (pending.is_empty() || Instant::now() >= patience) {
                let silent = answers.into_iter().filter(|(_, answer)| answer.is_none());
                let routers = silent.map(|(base, _)| base).collect();
                return Err(Unanswered { routers, waited: wait, last });
            }
            let reread = (Instant::now() + REREAD).min(patience);
            match timeout_at(reread, pending.next()).await {
                Ok(Some((base, Ok(answer)))) => {
                    answers.insert(base, Some(answer));
                }
                Ok(Some((base, Err(err)))) => {
                    debug!(error = %err, router = base, "a router did not confirm yet");
                    last = Some(err);
                    if answers.contains_key(&base) && Instant::now() < deadline {
                        pending.push(self.one(base, PAUSE, deadline, &ask));
                    }
                }
                Ok(None) | Err(_) => {}
            }
        }
    }

    async fn one<T, F: Future<Output = Result<T, Error>>>(
        &self,
        base: String,
        pause: Duration,
        deadline: Instant,
        ask: &impl Fn(Client, Duration) -> F,
    ) -> (String, Result<T, Error>) {
        sleep(pause).await;
        let left = deadline.saturating_duration_since(Instant::now());
        let client = Client::with_http(self.http.clone(), base.as_str(), self.key.clone());
        let client = client.with_timeout(limit(millis(left))).without_retries();
        let answer = ask(client, left).await;
        (base, answer)
    }
}

fn millis(left: Duration) -> u64 {
    u64::try_from(left.as_millis()).unwrap_or(u64::MAX)
}
