//! Ends of containers, from the engine's events and, for what those miss, from looking again; and what the kernel killed
//! in them for memory.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bollard::models::EventMessage;
use futures_util::StreamExt;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{backend::engine::Engine, domain::limits::died_of_memory};

/// How often every container that should run is looked at.
const LOOK: Duration = Duration::from_secs(10);
/// Pause before the event stream is opened again.
const PAUSE: Duration = Duration::from_millis(500);
/// Said of a container that is gone: nobody knows how it ended.
const UNKNOWN: i32 = 137;

/// Who waits for which container's end.
#[derive(Debug, Default)]
pub(crate) struct Deaths {
    waiting: Mutex<HashMap<String, watch::Sender<Fate>>>,
}

/// What befell a container.
#[derive(Debug, Clone, Copy, Default)]
struct Fate {
    /// Its end.
    status: Option<i32>,
    /// How often the kernel killed something in it for memory, and when last.
    kills: u32,
    killed_at: Option<Instant>,
}

/// A container's end, when it comes.
#[derive(Debug, Clone)]
pub(crate) struct Death {
    fate: watch::Receiver<Fate>,
    kills_seen: u32,
}

impl Death {
    /// Waits for the end; its exit status.
    pub(crate) async fn wait(&mut self) -> i32 {
        self.until(|fate| fate.status).await
    }

    /// Waits until the kernel has killed something in the container for memory that was not seen before.
    pub(crate) async fn killed_for_memory(&mut self) {
        let seen = self.kills_seen;
        self.kills_seen = self.until(|fate| (fate.kills > seen).then_some(fate.kills)).await;
    }

    /// Waits until an end with this status is known to be for want of memory, be it that this is told after the end.
    pub(crate) async fn of_memory(&mut self, status: i32) {
        let so = |fate: &Fate| {
            let ago = fate.killed_at.map(|at| at.elapsed());
            died_of_memory(status, false, ago).then_some(())
        };
        self.until(so).await;
    }

    /// How long ago the kernel did so last; `None` if this daemon has not seen it.
    pub(crate) fn since_killed(&self) -> Option<Duration> {
        self.fate.borrow().killed_at.map(|at| at.elapsed())
    }

    async fn until<T>(&mut self, so: impl Fn(&Fate) -> Option<T>) -> T {
        loop {
            let found = so(&self.fate.borrow_and_update());
            if let Some(found) = found {
                return found;
            }
            if self.fate.changed().await.is_err() {
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
        Death { fate: sender.subscribe(), kills_seen: 0 }
    }

    /// Nobody waits for it any more.
    pub(crate) fn forget(&self, container: &str) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(container);
    }

    /// Says that a container ended.
    pub(crate) fn tell(&self, container: &str, status: i32) {
        self.note(container, |fate| fate.status = fate.status.or(Some(status)));
    }

    /// The kernel killed something in a container for memory.
    fn tell_killed(&self, container: &str) {
        self.note(container, |fate| {
            fate.kills = fate.kills.saturating_add(1);
            fate.killed_at = Some(Instant::now());
        });
    }

    fn note(&self, container: &str, change: impl FnOnce(&mut Fate)) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = waiting.get(container) {
            sender.send_modify(change);
        }
    }

    fn alive(&self) -> Vec<String> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let alive = waiting.iter().filter(|(_, sender)| sender.borrow().status.is_none());
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
                            self.take(event);
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

    fn take(&self, event: EventMessage) {
        let actor = event.actor.unwrap_or_default();
        let Some(id) = actor.id else { return };
        if event.action.as_deref() == Some(Engine::OUT_OF_MEMORY) {
            return self.tell_killed(&id);
        }
        let attributes = actor.attributes.unwrap_or_default();
        let status = attributes.get("exitCode").and_then(|status| status.parse().ok());
        self.tell(&id, status.unwrap_or(UNKNOWN));
    }
}

fn now() -> String {
    let now = jiff::Timestamp::now();
    format!("{}.{:09}", now.as_second(), now.subsec_nanosecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(action: &str, exit: Option<&str>) -> EventMessage {
        let attributes = exit.map(|code| ("exitCode", code)).into_iter().collect::<HashMap<_, _>>();
        serde_json::from_value(serde_json::json!({
            "Action": action, "Actor": { "ID": "c", "Attributes": attributes },
        }))
        .unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_kernel_kills_is_told_apart_from_the_end_and_each_kill_once() {
        let deaths = Deaths::default();
        let mut death = deaths.of("c");
        let mut memory = death.clone();
        deaths.take(event("oom", None));
        deaths.take(event("oom", None));
        memory.killed_for_memory().await;
        let again = tokio::time::timeout(Duration::from_secs(9), memory.killed_for_memory()).await;
        assert!(again.is_err(), "both were seen at once");
        assert_eq!(death.since_killed(), Some(Duration::from_secs(9)));
        deaths.take(event("die", Some("137")));
        deaths.take(event("die", Some("1")));
        assert_eq!(death.wait().await, 137, "there is one end");
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_kernel_killed_may_be_told_after_the_end() {
        let deaths = Deaths::default();
        let mut death = deaths.of("c");
        deaths.take(event("die", Some("137")));
        assert_eq!(death.wait().await, 137);
        let long = Duration::from_secs(9);
        assert!(tokio::time::timeout(long, death.of_memory(137)).await.is_err());
        deaths.take(event("oom", None));
        death.of_memory(137).await;
    }
}
