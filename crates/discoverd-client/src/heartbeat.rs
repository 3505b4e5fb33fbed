//! Heartbeats.

use std::time::Duration;

use api::discoverd::{Instance, Revision};
use api_client::Error;
use tokio::task::AbortHandle;
use tracing::warn;

use crate::{Discoverd, watch::spawn};

/// An instance that is registered, and kept registered by heartbeats. Dropped, it ends 10 s later.
#[derive(Debug)]
pub struct Registration {
    discoverd: Discoverd,
    service: String,
    instance: Instance,
    beating: AbortHandle,
}

impl Registration {
    pub(crate) fn begin(discoverd: Discoverd, service: String, instance: Instance) -> Self {
        let beating = spawn(beat(discoverd.clone(), service.clone(), instance.clone()));
        Self { discoverd, service, instance, beating }
    }

    /// The instance.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// Withdraws it.
    pub async fn withdraw(self) -> Result<Revision, Error> {
        self.beating.abort();
        self.discoverd.unregister(&self.service, &self.instance.id).await
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.beating.abort();
    }
}

/// Beats for ever, at uneven intervals so that many do not beat together.
async fn beat(discoverd: Discoverd, service: String, instance: Instance) {
    let mut pause = healthy();
    let mut failing = false;
    loop {
        tokio::time::sleep(pause).await;
        match discoverd.register(&service, &instance).await {
            Ok(_) => (pause, failing) = (healthy(), false),
            Err(err) => {
                if !std::mem::replace(&mut failing, true) {
                    let err = &err as &dyn std::error::Error;
                    warn!(service, error = err, "a heartbeat of {service} failed; trying again");
                }
                pause = Duration::from_millis(rand::random_range(200..400));
            }
        }
    }
}

fn healthy() -> Duration {
    Duration::from_millis(rand::random_range(3000..5000))
}
