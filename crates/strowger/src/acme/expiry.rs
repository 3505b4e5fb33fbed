//! Logs a warning for each certificate that expires soon, uploaded or automatic.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{live::Live, validity::validity};

/// What ends within this time is named.
const NOTICE: SignedDuration = SignedDuration::from_hours(14 * 24);
/// How often.
const NOTICE_INTERVAL: Duration = Duration::from_secs(12 * 3600);

/// Warns of what ends soon.
pub(crate) async fn keep_warned(live: Arc<Live>, stop: CancellationToken) {
    if stop.run_until_cancelled(live.until_known()).await.is_none() {
        return;
    }
    let mut tick = interval(NOTICE_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        let now = Timestamp::now();
        for (domain, not_after) in ends(&live).into_iter().filter(|(_, end)| is_soon(*end, now)) {
            warn!(domain, %not_after, "the certificate that is served for {domain} ends at {not_after}");
        }
    }
}

/// Domains and the ends of their certificates.
pub(crate) fn ends(live: &Live) -> Vec<(String, Timestamp)> {
    let (table, automatic) = (live.table(), live.acme.served());
    let own = table.all.iter().filter_map(|target| {
        let validity = validity(target.certificate.as_ref()?).ok()?;
        Some((target.route.domain.clone(), validity.not_after))
    });
    let automatic = automatic
        .certificates
        .iter()
        .filter_map(|(domain, pair)| Some((domain.clone(), validity(pair).ok()?.not_after)));
    own.chain(automatic).collect()
}

fn is_soon(end: Timestamp, now: Timestamp) -> bool {
    end.duration_since(now) < NOTICE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_within_two_weeks_or_has_ended_is_named() {
        let now: Timestamp = "2026-12-01T00:00:00Z".parse().unwrap();
        let end = |text: &str| text.parse::<Timestamp>().unwrap();
        assert!(is_soon(end("2026-11-01T00:00:00Z"), now));
        assert!(is_soon(end("2026-12-14T23:59:59Z"), now));
        assert!(!is_soon(end("2026-12-15T00:00:01Z"), now));
    }
}
