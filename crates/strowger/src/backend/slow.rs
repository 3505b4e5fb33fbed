//! The clock of a request's body.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::time::{Instant, Sleep, sleep_until};

use crate::domain::pace::{PACE_WINDOW, Pace};

/// Watches how fast a body comes, from the first time that there is nothing of it.
#[derive(Debug)]
pub(super) struct PaceWatch {
    pace: Pace,
    look: Pin<Box<Sleep>>,
}

impl PaceWatch {
    /// Begins now.
    pub(super) fn begin() -> Self {
        let now = Instant::now();
        let look = Box::pin(sleep_until(now + PACE_WINDOW));
        Self { pace: Pace::begin(now.into_std()), look }
    }

    /// So many bytes came.
    pub(super) fn add(&mut self, len: usize) {
        self.pace.add(len);
    }

    /// Ready when it comes too slowly; there is nothing of it at the moment.
    pub(super) fn poll_slow(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(next) = self.pace.next_look(Instant::now().into_std()) {
            let next = Instant::from_std(next);
            if self.look.deadline() != next {
                self.look.as_mut().reset(next);
            }
            ready!(self.look.as_mut().poll(cx));
        }
        Poll::Ready(())
    }
}
