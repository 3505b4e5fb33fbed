//! Turns of the operator's own checkers: so many at once, and so many for one source, so that checkers that hang for some
//! keep nobody else waiting.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Checkers that run at once.
const MAX: usize = 64;
/// Checkers that run at once for one source.
const OF_SOURCE_MAX: usize = 16;

/// Who has a turn, and who waits for one.
#[derive(Debug)]
pub(crate) struct Turns {
    all: Arc<Semaphore>,
    sources: Mutex<HashMap<IpAddr, Arc<Semaphore>>>,
}

/// A turn while this lives.
#[derive(Debug)]
pub(crate) struct Turn(#[expect(dead_code, reason = "held")] [Option<OwnedSemaphorePermit>; 2]);

impl Default for Turns {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(MAX)), sources: Mutex::default() }
    }
}

impl Turns {
    /// Waits for a turn: first among those of the same source, and then, as one of few, among all.
    pub(crate) async fn take(&self, source: IpAddr) -> Turn {
        let own = {
            let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
            // Those of sources that nobody is here from are forgotten: whoever waits or runs holds theirs.
            sources.retain(|_, own| Arc::strong_count(own) > 1);
            let new = || Arc::new(Semaphore::new(OF_SOURCE_MAX));
            sources.entry(source).or_insert_with(new).clone()
        };
        // Neither is ever closed.
        let own = own.acquire_owned().await.ok();
        Turn([own, self.all.clone().acquire_owned().await.ok()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_source_cannot_take_what_others_need() {
        let (turns, patience) = (Turns::default(), std::time::Duration::from_secs(60));
        let [crowd, honest] = [1, 2].map(|n| IpAddr::from([10, 0, 0, n]));
        let mut taken = Vec::new();
        for _ in 0..OF_SOURCE_MAX {
            taken.push(turns.take(crowd).await);
        }
        assert!(tokio::time::timeout(patience, turns.take(crowd)).await.is_err());
        drop(turns.take(honest).await);
        taken.pop();
        taken.push(turns.take(crowd).await);
        drop(taken);
        drop(turns.take(honest).await);
        assert_eq!(turns.sources.lock().unwrap().len(), 1);
    }
}
