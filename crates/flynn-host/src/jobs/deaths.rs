//! Ends of containers, from the engine's events and, for what those miss, from looking again.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures_util::StreamExt;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::backend::engine::Engine;

/// How often every container that should run is looked at.
const LOOK: Duration = Duration::from_secs(10);
/// Pause before the event stream is opened again.
const PAUSE: Duration = Duration::from_millis(500);
/// Said of a container that is gone: nobody knows how it ended.
const UNKNOWN: i32 = 137;

/// Who waits for which container's end.
#[derive(Debug, Default)]
pub(crate) struct Deaths {
    waiting: Mutex<HashMap<String, watch::Sender<Option<i32>>>>,
}

/// A container's end, when it comes.
#[derive(Debug, Clone)]
pub(crate) struct Death(watch::Receiver<Option<i32>>);

impl Death {
    /// Waits for the end; its exit status.
    pub(crate) async fn wait(&mut self) -> i32 {
        loop {
            if let Some(status) = *self.0.borrow_and_update() {
                return status;
            }
            if self.0.changed().await.is_err() {
                // Nobody watches any more: the daemon ends, and with it whoever waits here.
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Deaths {
    /// Waits for a container from now on. Call it before the container is started.
    pub(crate) fn of(&self, container: &str) -> Death {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = waiting.entry(container.into()).or_default();
        Death(sender.subscribe())
    }

    /// Nobody waits for it any more.
    pub(crate) fn forget(&self, container: &str) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(container);
    }

    /// Says that a container ended.
    pub(crate) fn tell(&self, container: &str, status: i32) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = waiting.get(container) {
            sender.send_if_modified(|known| known.replace(status).is_none());
        }
    }

    fn alive(&self) -> Vec<String> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let alive = waiting.iter().filter(|(_, sender)| sender.borrow().is_none());
        alive.map(|(container, _)| container.clone()).collect()
    }

    /// Looks at every container that should run.
    async fn look(&self, engine: &Engine) {
        for id in self.alive() {
            match engine.container(&id).await {
                Ok(Some(container)) if container.running || !container.was_started => {}
                Ok(Some(container)) => self.tell(&id, container.exit_status),
                Ok(None) => self.tell(&id, UNKNOWN),
                Err(err) => {
                    warn!(error = &err as &dyn std::error::Error, "containers cannot be looked at");
                    return;
                }
            }
        }
    }

    /// Listens to the engine, again and again, until the daemon stops.
    pub(crate) async fn keep(&self, engine: &Engine, label: &str, stop: CancellationToken) {
        let mut since = now();
        let mut tick = interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !stop.is_cancelled() {
            let mut events = Box::pin(engine.deaths(label, &since));
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    _ = tick.tick() => self.look(engine).await,
                    event = events.next() => match event {
                        Some(Ok(event)) => {
                            if let Some(nanos) = event.time_nano {
                                since = format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000 + 1);
                            }
                            let actor = event.actor.unwrap_or_default();
                            let attributes = actor.attributes.unwrap_or_default();
                            let status = attributes.get("exitCode").and_then(|s| s.parse().ok());
                            if let Some(id) = actor.id {
                                self.tell(&id, status.unwrap_or(UNKNOWN));
                            }
                        }
                        Some(Err(err)) => {
                            debug!(error = %err, "the engine's event stream broke");
                            break;
                        }
                        None => break,
                    },
                }
            }
            tokio::time::sleep(PAUSE).await;
            self.look(engine).await;
        }
    }
}

fn now() -> String {
    let now = jiff::Timestamp::now();
    format!("{}.{:09}", now.as_second(), now.subsec_nanosecond())
}
