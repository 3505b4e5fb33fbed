//! A watch that never loses anything.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use etcd_client::{EventType, WatchOptions, WatchResponse, WatchStream};
use futures_util::Stream;
use tokio::time::Instant;

use crate::{
    Entry, Error, Keyspace, LeaseId,
    difference::{Known, difference, tell},
    entry,
};

/// How often a quiet server is asked whether it is still there.
const PROBE: Duration = Duration::from_secs(1);
/// A server that said nothing for so long, though asked, has hung.
const SILENCE: Duration = Duration::from_secs(4);
/// Pause before the first attempt to list again; doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause.
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// What a watch tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// A key was set or deleted.
    Change(Change),
    /// Every change up to this revision has been told.
    Synced {
        /// etcd's revision.
        revision: u64,
    },
    /// Changes cannot be seen for now. They will be told as soon as they can; what was told before still stands.
    Lost {
        /// Why.
        reason: String,
    },
}

/// A key was set or deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Which.
    pub key: String,
    /// Its value, `None` if it was deleted.
    pub value: Option<Bytes>,
    /// The revision that created it.
    pub create_revision: u64,
    /// The revision of this change. Of a deletion that nobody saw: the one at which it was noticed.
    pub mod_revision: u64,
    /// The lease it has, or had before it was deleted.
    pub lease: Option<LeaseId>,
}

/// Watches all below a prefix, and goes on whatever happens to etcd.
pub struct Watch {
    keyspace: Keyspace,
    prefix: String,
    known: Known,
    waiting: VecDeque<Update>,
    state: State,
    pause: Duration,
    lost: bool,
}

enum State {
    /// A listing is due then.
    Due(Instant),
    Open(Box<Opened>),
}

struct Opened {
    stream: WatchStream,
    /// etcd was asked then and has said nothing since.
    asked: Option<Instant>,
    /// It is asked again then.
    probe: Instant,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Watch({})", self.prefix)
    }
}

impl Watch {
    pub(crate) fn new(keyspace: Keyspace, prefix: &str) -> Self {
        Self {
            keyspace,
            prefix: prefix.into(),
            known: Known::new(),
            waiting: VecDeque::new(),
            state: State::Due(Instant::now()),
            pause: FIRST_PAUSE,
            lost: false,
        }
    }

    /// The next update. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Update {
        loop {
            if let Some(update) = self.waiting.pop_front() {
                return update;
            }
            let failed = match &mut self.state {
                State::Due(then) => {
                    tokio::time::sleep_until(*then).await;
                    self.list().await.err().map(|err| with_causes(&err))
                }
                State::Open(opened) => match opened.next().await {
                    Ok(response) => self.take(&response),
                    Err(reason) => Some(reason),
                },
            };
            if let Some(reason) = failed {
                self.lose(reason);
            }
        }
    }

    /// The updates as a stream, which never ends.
    pub fn into_stream(self) -> impl Stream<Item = Update> + Send {
        futures_util::stream::unfold(self, async |mut watch| {
            let update = watch.next().await;
            Some((update, watch))
        })
    }

    fn lose(&mut self, reason: String) {
        self.state = State::Due(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(LAST_PAUSE);
        if !self.lost {
            self.lost = true;
            tracing::warn!(prefix = %self.prefix, %reason, "etcd cannot be watched; trying again");
            self.waiting.push_back(Update::Lost { reason });
        }
    }

    /// Lists at a revision and watches from the next one.
    async fn list(&mut self) -> Result<(), Error> {
        let listing = self.keyspace.list(&self.prefix).await?;
        let revision = listing.revision;
        let options = WatchOptions::new()
            .with_range(crate::write::after(&self.prefix))
            .with_start_revision(revision as i64 + 1)
            .with_prev_key();
        let mut client =
            self.keyspace.client.watch_client().max_decoding_message_size(crate::MESSAGE_LIMIT);
        let opening = client.watch(self.prefix.as_str(), Some(options));
        let stream = self.keyspace.once("watching", &self.prefix, opening).await?;
        let now = Instant::now();
        self.state = State::Open(Box::new(Opened { stream, asked: None, probe: now + PROBE }));
        for change in difference(&self.known, listing) {
            self.tell(change);
        }
        self.synced(revision);
        Ok(())
    }

    fn tell(&mut self, change: Change) {
        tell(&mut self.known, &change);
        self.waiting.push_back(Update::Change(change));
    }

    fn synced(&mut self, revision: u64) {
        if std::mem::take(&mut self.lost) {
            tracing::info!(prefix = %self.prefix, revision, "etcd is watched again");
        }
        self.pause = FIRST_PAUSE;
        self.waiting.push_back(Update::Synced { revision });
    }

    /// Takes what etcd said; a reason if the watch is over.
    fn take(&mut self, response: &WatchResponse) -> Option<String> {
        if response.canceled() || response.compact_revision() > 0 {
            return Some(match response.compact_revision() {
                0 => format!("etcd cancelled the watch: {}", response.cancel_reason()),
                revision => format!("the watch fell behind compaction {revision}"),
            });
        }
        let mut last = 0;
        for event in response.events() {
            let Some(entry) = event.kv().and_then(entry) else { continue };
            last = last.max(entry.mod_revision);
            let change = match event.event_type() {
                EventType::Put => Change::put(entry),
                EventType::Delete => deleted(entry, event.prev_kv()),
            };
            self.tell(change);
        }
        if last > 0 {
            self.synced(last);
        }
        None
    }
}

fn deleted(entry: Entry, before: Option<&etcd_client::KeyValue>) -> Change {
    Change {
        key: entry.key,
        value: None,
        create_revision: before.map_or(0, |before| before.create_revision() as u64),
        mod_revision: entry.mod_revision,
        lease: before.and_then(|before| LeaseId::of(before.lease())),
    }
}

impl Opened {
    /// The next thing etcd says. A server that hangs is asked, and given up when it stays silent.
    async fn next(&mut self) -> Result<WatchResponse, String> {
        loop {
            tokio::select! {
                biased;
                said = self.stream.message() => {
                    self.asked = None;
                    return match said {
                        Ok(Some(response)) => Ok(response),
                        Ok(None) => Err("etcd closed the watch".into()),
                        Err(err) => Err(err.to_string()),
                    };
                }
                () = tokio::time::sleep_until(self.probe) => {
                    let now = Instant::now();
                    if self.asked.is_some_and(|asked| now - asked > SILENCE) {
                        return Err(format!("etcd did not answer for {SILENCE:?}"));
                    }
                    self.asked.get_or_insert(now);
                    self.probe = now + PROBE;
                    if let Err(err) = self.stream.request_progress().await {
                        return Err(err.to_string());
                    }
                }
            }
        }
    }
}

fn with_causes(err: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(err.source(), |err| err.source());
    causes.fold(err.to_string(), |text, cause| format!("{text}: {cause}"))
}
