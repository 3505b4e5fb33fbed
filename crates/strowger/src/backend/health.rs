//! What the router has seen of a backend: shared by all who send there, and locked by none.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::domain::{
    ewma::Latency,
    outlier::{Fault, Outlier, Peers, Success},
    pick::Standing,
    warmth::warmth,
};

#[derive(Debug)]
pub(super) struct Health {
    /// An [`Outlier`].
    outlier: AtomicU64,
    /// A [`Latency`].
    latency: AtomicU64,
    since_ms: u64,
}

impl Health {
    /// That of a backend that is there since now.
    pub(super) fn new(now_ms: u64) -> Self {
        let (outlier, latency) = (Outlier::default().to_bits(), Latency::default().to_bits());
        Self {
            outlier: AtomicU64::new(outlier),
            latency: AtomicU64::new(latency),
            since_ms: now_ms,
        }
    }

    fn outlier(&self) -> Outlier {
        Outlier::from_bits(self.outlier.load(Relaxed))
    }

    pub(super) fn standing(&self, now_ms: u64) -> Standing {
        self.outlier().standing(now_ms)
    }

    pub(super) fn latency(&self) -> Latency {
        Latency::from_bits(self.latency.load(Relaxed))
    }

    pub(super) fn warmth(&self, now_ms: u64) -> f32 {
        warmth(self.since_ms, now_ms)
    }

    /// Whether it is ejected.
    pub(super) fn is_ejected(&self) -> bool {
        !self.outlier().is_serving()
    }

    /// Answers whether a request may go there. One that tries an ejected backend must be the only one.
    pub(super) fn admit(&self, now_ms: u64) -> bool {
        let before = self.outlier();
        let Some(tried) = before.try_again(now_ms) else { return true };
        let (before, tried) = (before.to_bits(), tried.to_bits());
        self.outlier.compare_exchange(before, tried, Relaxed, Relaxed).is_ok()
    }

    pub(super) fn fail(&self, fault: Fault, peers: Peers, now_ms: u64) {
        self.change(|outlier| outlier.fail(fault, peers, now_ms));
    }

    pub(super) fn succeed(&self, success: Success, now_ms: u64) {
        self.change(|outlier| outlier.succeed(success, now_ms));
    }

    fn change(&self, change: impl Fn(Outlier) -> Outlier) {
        let changed = |bits| {
            let after = change(Outlier::from_bits(bits)).to_bits();
            (after != bits).then_some(after)
        };
        // An error says that nothing was to be changed.
        let _ = self.outlier.fetch_update(Relaxed, Relaxed, changed);
    }

    /// It answered after so long. If two tell so at once, one of them is not counted.
    pub(super) fn observe(&self, micros: u32, now_ms: u64) {
        self.latency.store(self.latency().observe(micros, now_ms).to_bits(), Relaxed);
    }
}
