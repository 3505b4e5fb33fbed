//! Places that are limited in number, and shared by takers of whom none may have all.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use crate::domain::limits::may_take;

/// All places.
#[derive(Debug)]
pub(crate) struct Whole {
    limit: u32,
    taken: AtomicU32,
}

/// What one taker has of them.
#[derive(Debug)]
pub(crate) struct Share {
    whole: Arc<Whole>,
    own: AtomicU32,
}

/// A place that is taken until this is dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<Share>);

/// There is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FullError {
    /// For this taker, which has as many as it may.
    #[error("too much is under way for it")]
    Share,
    /// For nobody.
    #[error("too much is under way in all")]
    Whole,
}

impl Whole {
    /// So many places.
    pub(crate) fn new(limit: u32) -> Arc<Self> {
        Arc::new(Self { limit, taken: AtomicU32::new(0) })
    }

    /// The share of one more taker.
    pub(crate) fn share(self: &Arc<Self>) -> Arc<Share> {
        Arc::new(Share { whole: self.clone(), own: AtomicU32::new(0) })
    }
}

impl Share {
    /// Takes a place.
    pub(crate) fn take(self: &Arc<Self>) -> Result<Place, FullError> {
        self.take_within(u32::MAX)
    }

    /// Takes a place if the taker has fewer than `most`.
    fn take_within(self: &Arc<Self>, most: u32) -> Result<Place, FullError> {
        // Counted before it is looked at: of several that come at once none sees a place that another takes.
        let place = Place(self.clone());
        let own = self.own.fetch_add(1, Ordering::Relaxed);
        let taken = self.whole.taken.fetch_add(1, Ordering::Relaxed);
        if taken >= self.whole.limit {
            return Err(FullError::Whole);
        }
        match own < most && may_take(own, taken, self.whole.limit) {
            true => Ok(place),
            false => Err(FullError::Share),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.own.fetch_sub(1, Ordering::Relaxed);
        self.0.whole.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The connections of all clients, told apart by their addresses.
#[derive(Debug)]
pub(crate) struct Clients {
    whole: Arc<Whole>,
    /// Most that one may have.
    most: u32,
    shares: Mutex<HashMap<IpAddr, Arc<Share>>>,
}

/// A client's connection, counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    clients: Arc<Clients>,
    addr: IpAddr,
    /// There until then.
    place: Option<Place>,
}

impl Clients {
    /// Of whom all have `limit` connections together, and one has `most`.
    pub(crate) fn new(limit: u32, most: u32) -> Arc<Self> {
        Arc::new(Self { whole: Whole::new(limit), most, shares: Mutex::default() })
    }

    /// Counts a connection.
    pub(crate) fn enter(self: &Arc<Self>, ip: IpAddr) -> Result<Arc<Seat>, FullError> {
        let addr = site(ip);
        let mut shares = self.shares();
        let share = shares.entry(addr).or_insert_with(|| self.whole.share());
        let taken = share.take_within(self.most);
        if taken.is_err() && share.own.load(Ordering::Relaxed) == 0 {
            shares.remove(&addr);
        }
        Ok(Arc::new(Seat { clients: self.clone(), addr, place: Some(taken?) }))
    }

    fn shares(&self) -> MutexGuard<'_, HashMap<IpAddr, Arc<Share>>> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut shares = self.clients.shares();
        drop(self.place.take());
        if shares.get(&self.addr).is_some_and(|share| share.own.load(Ordering::Relaxed) == 0) {
            shares.remove(&self.addr);
        }
    }
}

/// What stands for one client: its address, of which with IPv6 it has as many as it likes that begin alike.
fn site(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_taker_leaves_the_others_their_places_and_has_its_own_back_when_they_end() {
        let whole = Whole::new(8);
        let (one, other) = (whole.share(), whole.share());
        let mut places: Vec<_> = std::iter::from_fn(|| one.take().ok()).collect();
        assert_eq!(places.len(), 4);
        assert_eq!(one.take().unwrap_err(), FullError::Share);
        let of_other: Vec<_> = std::iter::from_fn(|| other.take().ok()).collect();
        assert_eq!(of_other.len(), 2);
        places.truncate(1);
        let more: Vec<_> = std::iter::from_fn(|| other.take().ok()).collect();
        assert_eq!(more.len(), 2);
        drop((places, of_other, more));
        assert_eq!(whole.taken.load(Ordering::Relaxed), 0);

        let all: Vec<_> = (0..8).map(|_| whole.share().take().unwrap()).collect();
        assert_eq!(one.take().unwrap_err(), FullError::Whole);
        drop(all);
        one.take().unwrap();
    }

    #[test]
    fn a_client_has_a_bound_of_its_own_and_is_forgotten_with_its_last_connection() {
        let clients = Clients::new(100, 2);
        let enter = |ip: &str| clients.enter(ip.parse().unwrap());
        let seats = [enter("10.0.0.1").unwrap(), enter("::ffff:10.0.0.1").unwrap()];
        assert_eq!(enter("10.0.0.1").unwrap_err(), FullError::Share);
        let other = [enter("2001:db8::1").unwrap(), enter("2001:db8::2:0:0:1").unwrap()];
        assert_eq!(enter("2001:db8::3").unwrap_err(), FullError::Share, "it is one client");
        enter("2001:db8:0:1::1").unwrap();
        assert_eq!(clients.shares().len(), 2);
        drop((seats, other));
        assert!(clients.shares().is_empty());
        enter("10.0.0.1").unwrap();
    }
}
