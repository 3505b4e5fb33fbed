//! Bounds on pushes at once: of one key, and of all.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Pushes one key may have under way.
const OF_KEY_MAX: usize = 8;
/// Pushes there may be under way: each is a git or several, of half a gigabyte at most.
const MAX: usize = 32;

/// The pushes under way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Slots(Arc<Mutex<HashMap<String, usize>>>);

/// A push that counts while this lives.
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
    /// Counts a push of a key.
    pub(crate) fn take(&self, key: &str) -> Result<Slot, NoSlot> {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.values().sum::<usize>() >= MAX {
            return Err(NoSlot::All);
        }
        let of_key = slots.entry(key.into()).or_default();
        if *of_key >= OF_KEY_MAX {
            return Err(NoSlot::Key);
        }
        *of_key += 1;
        Ok(Slot { slots: self.clone(), key: key.into() })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut slots = self.slots.0.lock().unwrap_or_else(PoisonError::into_inner);
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
        let slots = Slots::default();
        let mine: Vec<Slot> = (0..OF_KEY_MAX).map(|_| slots.take("me").unwrap()).collect();
        assert_eq!(slots.take("me").unwrap_err(), NoSlot::Key);
        let others: Vec<Slot> =
            (OF_KEY_MAX..MAX).map(|n| slots.take(&format!("{}", n / 8)).unwrap()).collect();
        assert_eq!(slots.take("you").unwrap_err(), NoSlot::All);
        drop(mine);
        slots.take("me").unwrap();
        drop(others);
        assert!(slots.0.lock().unwrap().is_empty());
    }
}
