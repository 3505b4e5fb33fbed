//! How much the router takes on at once, and how much of it one app or one client may have.

/// What the router keeps of its descriptors for itself: etcd, discoverd, its API, what it tells those it refuses.
const RESERVE_DIVISOR: u64 = 8;
/// Most of that.
const RESERVE_MAX: u64 = 4096;
/// What a client's connection takes of memory while it waits, and a request that is under way, in bytes (measured).
const CONNECTION_SIZE: u64 = 16 << 10;
const REQUEST_SIZE: u64 = 32 << 10;

/// Most there may be at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Connections of clients.
    pub(crate) connections: u32,
    /// Requests, and connections of other protocols to backends.
    pub(crate) requests: u32,
}

impl Limits {
    /// None.
    pub(crate) const NONE: Self = Self { connections: u32::MAX, requests: u32::MAX };

    /// Those that a process keeps which may have so many descriptors and, if that is limited, so much memory in bytes: half
    /// of both is for connections of clients, half for what is done for them.
    pub(crate) fn of(descriptors: Option<u64>, memory: Option<u64>) -> Self {
        let descriptors = descriptors.unwrap_or(u64::MAX);
        let usable = descriptors - (descriptors / RESERVE_DIVISOR).min(RESERVE_MAX);
        let fitting = |size: u64| memory.map_or(u64::MAX, |memory| memory / 2 / size);
        let most = |size| (usable / 2).min(fitting(size)).max(1).try_into().unwrap_or(u32::MAX);
        Self { connections: most(CONNECTION_SIZE), requests: most(REQUEST_SIZE) }
    }
}

/// Whether one of many that share `limit` places may take one more, if it has `own` and all together have `taken`: as long
/// as it has fewer than are free. Alone it gets half of all, and whoever has none gets one while there is any.
pub(crate) fn may_take(own: u32, taken: u32, limit: u32) -> bool {
    own < limit.saturating_sub(taken)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_router_of_the_usual_size_has_room_for_many() {
        let limits = Limits::of(Some(65_536), Some(1 << 30));
        assert_eq!(limits, Limits { connections: 30_720, requests: 16_384 });
        assert_eq!(Limits::of(None, None), Limits::NONE);
        assert_eq!(Limits::of(Some(3), Some(1)), Limits { connections: 1, requests: 1 });
    }

    proptest! {
        #[test]
        fn all_that_it_takes_on_fits_into_what_there_is(descriptors in 0u64..1 << 40, memory: u64) {
            let limits = Limits::of(Some(descriptors), Some(memory));
            let (connections, requests) = (u64::from(limits.connections), u64::from(limits.requests));
            prop_assert!(connections + requests <= descriptors.max(2));
            let bytes = connections * CONNECTION_SIZE + requests * REQUEST_SIZE;
            prop_assert!(bytes <= memory.max(CONNECTION_SIZE + REQUEST_SIZE));
        }

        #[test]
        fn who_takes_all_it_can_leaves_half_of_it(limit in 1u32..10_000, greedy in 1usize..6) {
            let mut taken = 0;
            for _ in 0..greedy {
                let (mut own, before) = (0, limit - taken);
                while may_take(own, taken, limit) {
                    (own, taken) = (own + 1, taken + 1);
                }
                prop_assert!(limit - taken >= before / 2);
                prop_assert!(before < 2 || taken < limit, "nothing is left");
            }
        }

        #[test]
        fn no_more_are_taken_than_there_are(limit: u32, taken: u32, own: u32) {
            prop_assert!(!may_take(own, taken, limit) || taken < limit);
            prop_assert_eq!(may_take(0, taken, limit), taken < limit);
        }
    }
}
