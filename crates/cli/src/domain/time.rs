//! Times as people say them.

use std::time::Duration;

use jiff::Timestamp;

/// How long ago `then` was, at `now`: `8 seconds ago`.
pub(crate) fn ago(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(then).as_secs();
    if seconds < 1 { "just now".into() } else { format!("{} ago", rough(seconds)) }
}

/// How long it is from `now` to `then`: `in 8 seconds`.
pub(crate) fn until(then: Timestamp, now: Timestamp) -> String {
    let seconds = then.duration_since(now).as_secs();
    if seconds < 1 { "now".into() } else { format!("in {}", rough(seconds)) }
}

/// `1.2s`, `2m05s`.
pub(crate) fn took(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds < 60 {
        format!("{:.1}s", duration.as_secs_f64())
    } else {
        format!("{}m{:02}s", seconds / 60, seconds % 60)
    }
}

fn rough(seconds: i64) -> String {
    let (count, unit) = match seconds {
        ..=119 => (seconds, "second"),
        120..=7199 => (seconds / 60, "minute"),
        7200..=172_799 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn ages_are_said_in_one_unit() {
        for (seconds, text) in [
            (-5, "just now"),
            (0, "just now"),
            (1, "1 second ago"),
            (119, "119 seconds ago"),
            (120, "2 minutes ago"),
            (7200, "2 hours ago"),
            (200_000, "2 days ago"),
        ] {
            assert_eq!(ago(at(0), at(seconds)), text);
        }
        assert_eq!(until(at(8), at(0)), "in 8 seconds");
        assert_eq!(until(at(0), at(8)), "now");
        assert_eq!(took(Duration::from_millis(1234)), "1.2s");
        assert_eq!(took(Duration::from_secs(125)), "2m05s");
    }

    proptest! {
        #[test]
        fn any_two_times_have_an_age(a in -1_000_000_000i64..9_000_000_000, b in -1_000_000_000i64..9_000_000_000) {
            ago(at(a), at(b));
            until(at(a), at(b));
        }
    }
}
