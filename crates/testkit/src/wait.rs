//! Waiting for a condition.

use std::{fmt::Debug, future::Future, time::Duration};

use tokio::time::Instant;

/// Longest wait of [`wait_until`]: far beyond what anything should take, for the machine may be busy.
pub const LIMIT: Duration = Duration::from_secs(15);
/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Asks until the answer is `Ok`, at most [`LIMIT`]. The panic says what was awaited and what was seen last.
#[track_caller]
pub fn wait_until<T, E, F>(what: &str, probe: impl FnMut() -> F) -> impl Future<Output = T>
where
    E: Debug,
    F: Future<Output = Result<T, E>>,
{
    wait_until_for(LIMIT, what, probe)
}

/// As [`wait_until`], with a limit of the caller's.
#[track_caller]
pub fn wait_until_for<T, E, F>(
    limit: Duration,
    what: &str,
    mut probe: impl FnMut() -> F,
) -> impl Future<Output = T>
where
    E: Debug,
    F: Future<Output = Result<T, E>>,
{
    let caller = std::panic::Location::caller();
    async move {
        let end = Instant::now() + limit;
        let mut seen = None;
        loop {
            match tokio::time::timeout_at(end, probe()).await {
                Ok(Ok(value)) => return value,
                Ok(Err(last)) => seen = Some(last),
                Err(_) => break,
            }
            if Instant::now() >= end {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        match seen {
            Some(seen) => panic!("{caller}: not within {limit:?}: {what}; last seen: {seen:?}"),
            None => panic!("{caller}: not within {limit:?}: {what}; no answer at all"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_value_is_given_as_soon_as_there_is_one() {
        let mut asked = 0;
        let value = wait_until("three questions", || {
            asked += 1;
            let asked = asked;
            async move { if asked == 3 { Ok(asked) } else { Err(asked) } }
        })
        .await;
        assert_eq!(value, 3);
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "pigs fly; last seen: \"a pig on the ground\"")]
    async fn the_panic_says_what_was_seen_last() {
        wait_until("pigs fly", || async { Err::<(), _>("a pig on the ground") }).await;
    }
}
