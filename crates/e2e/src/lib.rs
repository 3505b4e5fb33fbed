#![doc = include_str!("../README.md")]
#![expect(
    clippy::disallowed_methods,
    reason = "tests are the daemons' users: they sleep between looks and own their tasks"
)]

pub mod app;
pub mod attached;
pub mod cluster;
pub mod document;
pub mod hosts;
pub mod image;
pub mod load;
pub mod platform;
pub mod shell;

use std::{
    fmt::Debug,
    time::{Duration, Instant},
};

/// Looks until something is so; fails with what was seen last.
///
/// # Panics
/// When it is not so in time.
pub async fn until<T, E: Debug>(
    what: &str,
    bound: Duration,
    mut look: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let end = Instant::now() + bound;
    loop {
        match look().await {
            Ok(found) => return found,
            Err(seen) => {
                assert!(Instant::now() < end, "waited {bound:?} for {what}; last seen: {seen:?}")
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
