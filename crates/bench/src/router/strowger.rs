//! What is asked of strowger's API in a run.

use std::time::Duration;

use api::{
    discoverd::Instance,
    route::{NewRoute, Route},
};
use discoverd_client::Discoverd;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::time::sleep;

use super::world::{APP, ECHO};

pub(super) const KEY: &str = "the key";

/// Routes made at once.
const AT_ONCE: usize = 32;
/// Between two changes while requests are served.
const CHANGE_INTERVAL: Duration = Duration::from_millis(100);
/// An unavailable API is one of a router that is starting.
const TRIES: usize = 300;

pub(super) struct Strowger {
    client: strowger_client::Strowger,
    discoverd: Discoverd,
    /// A backend that comes and goes.
    other: u16,
}

impl Strowger {
    pub(super) fn new(api: u16, discoverd: Discoverd, other: u16) -> Self {
        let client =
            strowger_client::Strowger::new(format!("http://127.0.0.1:{api}"), Some(KEY.into()));
        Self { client, discoverd, other }
    }

    /// Makes the routes of the two apps and registers their backends.
    pub(super) async fn serve(&self, app: u16, echo: u16) -> anyhow::Result<()> {
        self.discoverd.register_for_host("app", &instance(app)).await?;
        self.discoverd.register_for_host("echo", &instance(echo)).await?;
        for (domain, service) in [(APP, "app"), (ECHO, "echo")] {
            let mut tries = 0;
            while let Err(err) = self.client.create_route(&route(domain, service)).await {
                tries += 1;
                if tries == TRIES {
                    return Err(err.into());
                }
                sleep(CHANGE_INTERVAL).await;
            }
        }
        Ok(())
    }

    /// Makes many routes more.
    pub(super) async fn crowd(&self, count: usize) -> anyhow::Result<()> {
        let create = async |n: usize| {
            self.client.create_route(&route(&format!("app-{n}.example"), "app")).await.map(drop)
        };
        let created = stream::iter(0..count).map(create).buffer_unordered(AT_ONCE);
        created.try_collect::<Vec<()>>().await?;
        Ok(())
    }

    /// Makes and removes routes, and registers and withdraws a backend, until it is dropped.
    pub(super) async fn change(&self) -> anyhow::Result<()> {
        let other = instance(self.other);
        for n in 0.. {
            let stored =
                self.client.create_route(&route(&format!("new-{n}.example"), "app")).await?;
            self.discoverd.register_for_host("app", &other).await?;
            sleep(CHANGE_INTERVAL).await;
            self.client.delete_route(&stored.route.id).await?;
            self.discoverd.unregister("app", &other.id).await?;
            sleep(CHANGE_INTERVAL).await;
        }
        Ok(())
    }
}

fn instance(port: u16) -> Instance {
    Instance::new("http", &format!("127.0.0.1:{port}"), Default::default())
}

fn route(domain: &str, service: &str) -> NewRoute {
    let (kind, domain, service) = ("http".into(), domain.into(), service.into());
    Route { kind, domain, service, ..Route::default() }.into()
}
