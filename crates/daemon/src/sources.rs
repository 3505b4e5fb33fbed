//! How much one source may have of what there is for all.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

/// Counts what each source has at once, so that one of them does not take the others' part.
///
/// This machine's own processes are not counted: what other hosts bring comes through one of them.
#[derive(Debug, Clone)]
pub struct Sources {
    most: usize,
    present: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One of what a source may have; given back when it is dropped.
#[derive(Debug)]
pub struct Share {
    of: Option<(Sources, IpAddr)>,
}

impl Sources {
    /// Lets every source have this number of connections at once.
    pub fn new(most: usize) -> Self {
        Self { most, present: Arc::default() }
    }

    /// One more for a source; `None` when it has all it may have.
    pub fn enter(&self, source: IpAddr) -> Option<Share> {
        let source = source.to_canonical();
        if source.is_loopback() {
            return Some(Share { of: None });
        }
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        let count = present.entry(source).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Share { of: Some((self.clone(), source)) })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let Some((sources, source)) = &self.of else { return };
        let mut present = sources.present.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = present.get_mut(source) {
            *count -= 1;
            if *count == 0 {
                present.remove(source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_its_part_and_not_the_others() {
        let sources = Sources::new(2);
        let of = |last: u8| IpAddr::from([10, 0, 0, last]);
        let (first, second) = (sources.enter(of(1)), sources.enter(of(1)));
        assert!(first.is_some() && second.is_some() && sources.enter(of(1)).is_none());
        assert!(sources.enter(of(2)).is_some());
        drop(first);
        assert!(sources.enter(of(1)).is_some(), "what it gave back is there again");
        drop(second);
        assert!(sources.present.lock().unwrap().is_empty(), "nothing is kept of who has nothing");
    }

    #[test]
    fn this_machine_itself_is_not_counted_and_mapped_addresses_are_one_source() {
        let sources = Sources::new(1);
        let own: Vec<_> = (0..5).map(|_| sources.enter([127, 0, 0, 1].into())).collect();
        assert!(own.iter().all(Option::is_some));
        let _plain = sources.enter([10, 0, 0, 1].into()).unwrap();
        assert!(sources.enter("::ffff:10.0.0.1".parse().unwrap()).is_none());
    }
}
