//! One at a time for each name.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::OwnedMutexGuard;

/// Who works on what at present.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    under_way: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Turns {
    /// Waits until nobody else works on a thing of that name; nobody does until the answer is dropped.
    pub(crate) async fn of(&self, name: &str) -> OwnedMutexGuard<()> {
        let turn = {
            let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
            // Whoever has or awaits one has a second handle of it.
            under_way.retain(|_, turn| Arc::strong_count(turn) > 1);
            under_way.entry(name.into()).or_default().clone()
        };
        turn.lock_owned().await
    }

    /// Whether somebody works on it or is about to.
    pub(crate) fn is_taken(&self, name: &str) -> bool {
        let under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.get(name).is_some_and(|turn| Arc::strong_count(turn) > 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_at_a_time_and_other_names_besides() {
        let turns = Turns::default();
        let first = turns.of("a").await;
        let other = turns.of("b").await;
        let short = std::time::Duration::from_secs(1);
        assert!(tokio::time::timeout(short, turns.of("a")).await.is_err());
        assert!(turns.is_taken("a"));
        drop((first, other));
        assert!(!turns.is_taken("a"));
        turns.of("a").await;
        assert_eq!(turns.under_way.lock().unwrap().len(), 1, "nothing is left of the others");
    }
}
