//! Where the mirror learns from: the discoverd of a host that has a member of etcd, if one can be followed, else etcd.

use std::{error::Error, time::Duration};

use api::discoverd::Event;
use api_client::Client;
use keyspace::Update;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::{
    mirror::{Freshness, Mirror},
    relay::{After, Followed, Lost, Told},
    store::{self, Store},
};

/// Whoever lost the one it followed tries another so often before it watches etcd itself.
const ATTEMPTS: u32 = 4;
/// Pause before the second attempt; doubles with each.
const PAUSE: Duration = Duration::from_millis(50);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Where etcd is away for others, it is asked ourselves only after this: when it comes back, not everybody shall list
/// everything at once.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often whoever watches etcd tries to follow another, up to twice as long. It tries for ever on a host with a member
/// of etcd, where nobody listens.
const AGAIN: Duration = Duration::from_secs(5);

/// What the mirror is fed with.
pub(crate) struct Source<L> {
    pub(crate) mirror: Mirror,
    pub(crate) store: Store,
    /// Where another discoverd may be followed.
    pub(crate) relay: Option<Client>,
    /// Is told of all events.
    pub(crate) learned: L,
}

impl<L: Fn(&[Event]) + Send + Sync> Source<L> {
    /// Feeds the mirror until the daemon stops.
    pub(crate) async fn keep(self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.feed() => {}
        }
    }

    async fn feed(&self) {
        let mut followed = self.ask_again(1).await;
        loop {
            followed = match followed {
                Some(followed) => {
                    let lost = self.follow(followed).await;
                    self.mirror.lose();
                    info!(
                        error = &lost as &dyn Error,
                        "the followed discoverd is lost; trying another"
                    );
                    self.ask_again(ATTEMPTS).await
                }
                None => Some(self.watch().await),
            };
        }
    }

    async fn ask(&self) -> Result<Followed, Lost> {
        match &self.relay {
            Some(client) => Followed::begin(client, self.mirror.read(After::of)).await,
            None => Err(Lost::Ended),
        }
    }

    /// Looks for one to follow. `None` after so many attempts that failed.
    async fn ask_again(&self, mut attempts: u32) -> Option<Followed> {
        let mut pause = PAUSE;
        let end = Instant::now() + PATIENCE;
        loop {
            match self.ask().await {
                Ok(followed) if !self.is_behind(&followed) => return Some(followed),
                Ok(_) => attempts -= 1,
                Err(lost) if lost.is_for_a_while() && Instant::now() < end => {}
                Err(lost) => {
                    debug!(error = &lost as &dyn Error, "no discoverd can be followed");
                    attempts -= 1;
                }
            }
            if attempts == 0 {
                return None;
            }
            sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// One that is behind would take back what was told already.
    fn is_behind(&self, followed: &Followed) -> bool {
        followed.first.revision < self.mirror.revision()
    }

    async fn follow(&self, mut followed: Followed) -> Lost {
        let mut told = std::mem::take(&mut followed.first);
        let (revision, listing) = (told.revision, told.listing);
        info!(revision, listing, "following the discoverd of another host");
        if !listing {
            // It may have heard in one what was heard here in two.
            let known = self.mirror.revision();
            told.facts.retain(|fact| fact.revision > known);
        }
        loop {
            (self.learned)(&self.mirror.change(told, Freshness::Relayed));
            told = match followed.next().await {
                Ok(told) => told,
                Err(lost) => return lost,
            };
        }
    }

    /// Watches etcd until another discoverd can be followed.
    async fn watch(&self) -> Followed {
        let mut watch = self.store.watch();
        let mut facts = Vec::new();
        // The first answer tells everything there is, whatever was known before.
        let mut listing = true;
        let mut other = Box::pin(self.another());
        loop {
            let update = tokio::select! {
                update = watch.next() => update,
                followed = &mut other => return followed,
            };
            match update {
                Update::Change(change) => facts.extend(store::fact(&change)),
                Update::Synced { revision } => {
                    let (facts, listing) =
                        (std::mem::take(&mut facts), std::mem::take(&mut listing));
                    let told = Told { facts, revision, listing };
                    (self.learned)(&self.mirror.change(told, Freshness::Current));
                }
                Update::Lost { .. } => self.mirror.lose(),
            }
        }
    }

    async fn another(&self) -> Followed {
        if self.relay.is_none() {
            std::future::pending::<()>().await;
        }
        loop {
            sleep(AGAIN.mul_f64(rand::random_range(1.0..2.0))).await;
            match self.ask().await {
                Ok(followed) if !self.is_behind(&followed) => return followed,
                Ok(_) => {}
                Err(err) => debug!(error = &err as &dyn Error, "no discoverd can be followed"),
            }
        }
    }
}
