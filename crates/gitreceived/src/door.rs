//! Connections that have not said yet who they are: they cost little, they have a bound, and when it is reached one of them
//! goes, not the newcomer. Behind a router all have one source, so the source alone may not decide.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio_util::sync::CancellationToken;

/// Strangers at once.
const STRANGERS_MAX: usize = 256;

/// The strangers, oldest first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Door(Arc<Mutex<Strangers>>);

#[derive(Debug, Default)]
struct Strangers {
    next: u64,
    waiting: BTreeMap<u64, Stranger>,
}

#[derive(Debug)]
struct Stranger {
    source: IpAddr,
    cut: CancellationToken,
}

/// A place among the strangers while this lives.
#[derive(Debug)]
pub(crate) struct Place {
    door: Door,
    id: u64,
    /// Where it comes from.
    pub(crate) source: IpAddr,
    /// Is cancelled when the place is needed for another.
    pub(crate) cut: CancellationToken,
}

impl Door {
    /// Lets one in; where there is no room, the one leaves that has waited longest of the source that has most.
    pub(crate) fn enter(&self, source: IpAddr) -> Place {
        let mut strangers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if strangers.waiting.len() >= STRANGERS_MAX
            && let Some(id) = victim(strangers.waiting.iter().map(|(id, s)| (*id, s.source)))
            && let Some(gone) = strangers.waiting.remove(&id)
        {
            gone.cut.cancel();
        }
        let (id, cut) = (strangers.next, CancellationToken::new());
        strangers.next += 1;
        strangers.waiting.insert(id, Stranger { source, cut: cut.clone() });
        Place { door: self.clone(), id, source, cut }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.door.0.lock().unwrap_or_else(PoisonError::into_inner).waiting.remove(&self.id);
    }
}

/// The oldest of the source that has most; of sources that have as many, the one whose oldest is oldest.
fn victim(waiting: impl Iterator<Item = (u64, IpAddr)>) -> Option<u64> {
    let mut sources: BTreeMap<IpAddr, (usize, u64)> = BTreeMap::new();
    for (id, source) in waiting {
        sources.entry(source).or_insert((0, id)).0 += 1;
    }
    let most = sources.values().max_by_key(|(count, oldest)| (*count, u64::MAX - oldest));
    most.map(|(_, oldest)| *oldest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_most_strangers_loses_the_oldest_of_them() {
        let (a, b) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        assert_eq!(victim([(1, a), (2, b), (3, b)].into_iter()), Some(2));
        assert_eq!(victim([(1, a), (2, b)].into_iter()), Some(1));
        assert_eq!(victim([].into_iter()), None);
        let door = Door::default();
        let honest = door.enter(a);
        let crowd: Vec<Place> = (0..STRANGERS_MAX).map(|_| door.enter(b)).collect();
        assert!(!honest.cut.is_cancelled() && crowd[0].cut.is_cancelled());
        assert_eq!(crowd.iter().filter(|place| place.cut.is_cancelled()).count(), 1);
        drop(crowd);
        assert_eq!(door.0.lock().unwrap().waiting.len(), 1);
    }
}
