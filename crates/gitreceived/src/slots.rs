//! Bounds on pushes and connections at once: of one key, and of all.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Pushes one key may have under way.
const OF_KEY_MAX: usize = 8;
/// Pushes there may be under way: each is a git or several, of half a gigabyte at most.
const MAX: usize = 32;
/// Connections one key may have: enough for its pushes, and for as many that are told that there is no slot.
pub(crate) const CONNECTIONS_OF_KEY_MAX: usize = 32;

/// The pushes under way, or the connections.
#[derive(Debug, Clone)]
pub(crate) struct Slots {
    taken: Arc<Mutex<HashMap<String, usize>>>,
    of_key_max: usize,
    max: usize,
}

/// A push, or a connection, that counts while this lives.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Slots,
    key: String,
}

/// Why there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoSlot {
    #[error("Your key has {OF_KEY_MAX} pushes under way. Push again when one has ended.")]
    Key,
    #[error("This server has {MAX} pushes under way. Push again in a minute.")]
    All,
}

impl Slots {
    /// For pushes.
    pub(crate) fn for_pushes() -> Self {
        Self { taken: Arc::default(), of_key_max: OF_KEY_MAX, max: MAX }
    }

    /// For connections, of which all together have a bound elsewhere.
    pub(crate) fn for_connections() -> Self {
        Self { taken: Arc::default(), of_key_max: CONNECTIONS_OF_KEY_MAX, max: usize::MAX }
    }

    /// Counts one more of a key.
    pub(crate) fn take(&self, key: &str) -> Result<Slot, NoSlot> {
        let mut slots = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.values().sum::<usize>() >= self.max {
            return Err(NoSlot::All);
        }
        let of_key = slots.entry(key.into()).or_default();
        if *of_key >= self.of_key_max {
            return Err(NoSlot::Key);
        }
        *of_key += 1;
        Ok(Slot { slots: self.clone(), key: key.into() })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut slots = self.slots.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_key) = slots.get_mut(&self.key) {
            *of_key -= 1;
            if *of_key == 0 {
                slots.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_key_cannot_take_what_others_need_and_all_together_have_a_bound() {
        let slots = Slots::for_pushes();
        let mine: Vec<Slot> = (0..OF_KEY_MAX).map(|_| slots.take("me").unwrap()).collect();
        assert_eq!(slots.take("me").unwrap_err(), NoSlot::Key);
        let others: Vec<Slot> =
            (OF_KEY_MAX..MAX).map(|n| slots.take(&format!("{}", n / 8)).unwrap()).collect();
        assert_eq!(slots.take("you").unwrap_err(), NoSlot::All);
        drop(mine);
        slots.take("me").unwrap();
        drop(others);
        assert!(slots.taken.lock().unwrap().is_empty());
    }
}
