//! A new backend is given more and more ("slow start").
//!
//! After Envoy's slow start mode
//! (<https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/load_balancing/slow_start>): a process that
//! has just begun compiles, connects and fills its caches while it serves. Among others that are as new it makes no
//! difference.

/// A backend is new for so long.
const WARM_UP_MS: u64 = 10_000;
/// Its share of what others get, at first.
const FIRST_SHARE: f32 = 0.1;

/// How much of what the others get is for a backend that is there since a moment: from [`FIRST_SHARE`] to 1.
pub(crate) fn warmth(since_ms: u64, now_ms: u64) -> f32 {
    let age = now_ms.saturating_sub(since_ms).min(WARM_UP_MS);
    FIRST_SHARE + (1.0 - FIRST_SHARE) * (age as f32 / WARM_UP_MS as f32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_backend_becomes_warm_and_stays_so(since in 0u64.., now in 0u64.., later in 0u64..) {
            let (one, other) = (warmth(since, now), warmth(since, now.saturating_add(later)));
            prop_assert!(FIRST_SHARE <= one && one <= other && other <= 1.0);
            prop_assert!(now.saturating_sub(since) < WARM_UP_MS || one == 1.0);
        }
    }
}
