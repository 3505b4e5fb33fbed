//! What etcd has, in memory, and those who watch it: watchers of services, and discoverds of other hosts.

use std::sync::{Arc, PoisonError, RwLock};

use api::discoverd::{Event, EventKind};
use bytes::Bytes;
use tokio::{
    sync::{broadcast, watch},
    time::{Duration, timeout},
};

use crate::{
    domain::directory::Directory,
    relay::{After, Recent, Told},
};

/// Lines kept for a slow watcher of one service; past it the watcher is cut off and starts again from a listing.
const SERVICE_BACKLOG: usize = 256;
/// The same for a watcher of all services.
const ALL_BACKLOG: usize = 4096;
/// The same of whole changes, for the discoverd of another host.
const RELAY_BACKLOG: usize = 1024;
/// Longest wait for our own watch to tell us of our own write.
const ECHO_LIMIT: Duration = Duration::from_secs(2);

/// One event, written once for all watchers.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) kind: EventKind,
    pub(crate) bytes: Bytes,
}

impl Line {
    pub(crate) fn of(event: &Event) -> Arc<Self> {
        let json = serde_json::to_string(event).expect("events serialise");
        Arc::new(Self { kind: event.kind, bytes: format!("data: {json}\n\n").into() })
    }
}

/// Whether what is known is what is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// Nothing was ever heard from etcd.
    Unknown,
    /// etcd is away; the last answer stands.
    Stale,
    /// The discoverd of another host is followed, which watches etcd.
    Relayed,
    /// etcd is watched.
    Current,
}

impl Freshness {
    /// Whether etcd can be written to, as far as is known.
    pub(crate) fn is_fresh(self) -> bool {
        matches!(self, Self::Relayed | Self::Current)
    }
}

/// The mirror. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Mirror {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Watchers subscribe and events are sent under the same lock as the directory, so that no watcher misses one or
    /// sees one twice.
    state: RwLock<State>,
    revision: watch::Sender<u64>,
    freshness: watch::Sender<Freshness>,
}

#[derive(Debug)]
struct State {
    directory: Directory,
    all: broadcast::Sender<Arc<Line>>,
    relays: broadcast::Sender<Bytes>,
    recent: Recent,
    services: std::collections::HashMap<String, broadcast::Sender<Arc<Line>>>,
}

/// The beginning of another discoverd that follows this one: what there is, and what comes.
#[derive(Debug)]
pub(crate) struct Following {
    pub(crate) present: Vec<Bytes>,
    pub(crate) live: broadcast::Receiver<Bytes>,
}

/// A watcher's beginning: what there is, and what comes.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) present: Vec<Arc<Line>>,
    pub(crate) live: broadcast::Receiver<Arc<Line>>,
}

impl Mirror {
    pub(crate) fn new() -> Self {
        let state = State {
            directory: Directory::default(),
            all: broadcast::Sender::new(ALL_BACKLOG),
            relays: broadcast::Sender::new(RELAY_BACKLOG),
            recent: Recent::default(),
            services: Default::default(),
        };
        Self {
            inner: Arc::new(Inner {
                state: RwLock::new(state),
                revision: watch::Sender::new(0),
                freshness: watch::Sender::new(Freshness::Unknown),
            }),
        }
    }

    /// Looks at the directory.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&Directory) -> T) -> T {
        let state = self.inner.state.read().unwrap_or_else(PoisonError::into_inner);
        look(&state.directory)
    }

    pub(crate) fn freshness(&self) -> Freshness {
        *self.inner.freshness.borrow()
    }

    /// The revision up to which everything is known.
    pub(crate) fn revision(&self) -> u64 {
        *self.inner.revision.borrow()
    }

    /// Tells of every change of the directory or its freshness.
    pub(crate) fn changes(&self) -> (watch::Receiver<u64>, watch::Receiver<Freshness>) {
        (self.inner.revision.subscribe(), self.inner.freshness.subscribe())
    }

    /// Waits, not long, until what a write changed is visible here.
    pub(crate) async fn until(&self, revision: u64) {
        let mut known = self.inner.revision.subscribe();
        // The write has happened: that it is not visible yet changes nothing about the answer.
        let _ = timeout(ECHO_LIMIT, known.wait_for(|known| *known >= revision)).await;
    }

    /// Begins to watch one service.
    pub(crate) fn subscribe(&self, service: &str) -> Subscription {
        let mut state = self.inner.state.write().unwrap_or_else(PoisonError::into_inner);
        let mut present = state.directory.present(service);
        present.push(state.directory.current(service));
        if state.services.len() % 64 == 63 {
            // Anybody may ask for any name: those nobody watches any more are dropped now and then.
            state.services.retain(|_, sender| sender.receiver_count() > 0);
        }
        let sender = state
            .services
            .entry(service.to_owned())
            .or_insert_with(|| broadcast::Sender::new(SERVICE_BACKLOG));
        Subscription { present: present.iter().map(Line::of).collect(), live: sender.subscribe() }
    }

    /// Begins to watch all services.
    pub(crate) fn subscribe_all(&self) -> Subscription {
        let state = self.inner.state.write().unwrap_or_else(PoisonError::into_inner);
        let names = state.directory.services().map(|(name, _)| name);
        let mut present: Vec<Event> =
            names.flat_map(|name| state.directory.present(name)).collect();
        // Only `current` tells the revision: before it the watcher does not know everything.
        present.iter_mut().for_each(|event| event.revision = 0);
        present.push(state.directory.current(""));
        Subscription {
            present: present.iter().map(Line::of).collect(),
            live: state.all.subscribe(),
        }
    }

    /// Begins to tell another discoverd everything, or what is new to it.
    pub(crate) fn subscribe_relay(&self, after: After) -> Following {
        let state = self.inner.state.read().unwrap_or_else(PoisonError::into_inner);
        let (directory, live) = (&state.directory, state.relays.subscribe());
        let revision = directory.revision();
        let present = match state.recent.after(after) {
            // It hears of a revision in any case.
            Some(news) if news.is_empty() => vec![Told { revision, ..Told::default() }.line()],
            Some(news) => news,
            None => Told::in_parts(directory.facts(), revision).iter().map(Told::line).collect(),
        };
        Following { present, live }
    }

    /// Learns what was told, and tells everybody what is new of it. Answers with the events.
    pub(crate) fn change(&self, told: Told, freshness: Freshness) -> Vec<Event> {
        let mut state = self.inner.state.write().unwrap_or_else(PoisonError::into_inner);
        let State { directory, relays, recent, .. } = &mut *state;
        let Told { facts, revision, listing } = told;
        let facts = if listing { directory.difference(facts, revision) } else { facts };
        // Nobody may follow who follows another, and who begins has no followers yet.
        let followed = freshness == Freshness::Current;
        let line = (followed && (!listing || relays.receiver_count() > 0))
            .then(|| Told { facts: facts.clone(), revision, listing: false }.line());
        let events = directory.learn(facts, revision);
        if listing {
            recent.restart(directory.epoch(), revision);
        }
        if let Some(line) = line {
            if !listing {
                recent.push(directory.epoch(), revision, line.clone());
            }
            let _ = relays.send(line);
        }
        for event in &events {
            let line = Line::of(event);
            if let Some(sender) = state.services.get(&event.service)
                && sender.send(line.clone()).is_err()
            {
                // Nobody watches it any more.
                state.services.remove(&event.service);
            }
            let _ = state.all.send(line);
        }
        drop(state);
        self.inner.freshness.send_if_modified(|known| {
            let changes = *known != freshness;
            *known = freshness;
            changes
        });
        self.inner.revision.send_replace(revision);
        events
    }

    /// Nothing new is heard for now.
    pub(crate) fn lose(&self) {
        self.inner.freshness.send_if_modified(|freshness| {
            let was_fresh = freshness.is_fresh();
            if was_fresh {
                *freshness = Freshness::Stale;
            }
            was_fresh
        });
    }
}
