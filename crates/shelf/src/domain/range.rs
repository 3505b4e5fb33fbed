//! Which part of a blob a request gets. Source: RFC 9110, sections 13 and 14.

use std::ops::Range;

/// What a `GET` is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// 200 and everything.
    Whole,
    /// 206 and these bytes.
    Bytes(Range<u64>),
    /// 304: the client has it.
    NotModified,
    /// 416: there are no such bytes.
    Unsatisfiable,
}

/// The headers that decide.
#[derive(Debug, Clone, Copy, Default)]
pub struct Conditions<'a> {
    /// `If-None-Match`.
    pub if_none_match: Option<&'a str>,
    /// `Range`.
    pub range: Option<&'a str>,
    /// `If-Range`.
    pub if_range: Option<&'a str>,
}

/// Decides for a blob of `size` bytes with this quoted `etag`.
pub fn part(conditions: Conditions<'_>, etag: &str, size: u64) -> Part {
    if conditions.if_none_match.is_some_and(|tags| names(tags, etag)) {
        return Part::NotModified;
    }
    let same = conditions.if_range.is_none_or(|tag| tag.trim() == etag);
    match conditions.range.filter(|_| same) {
        Some(range) => bytes(range, size),
        None => Part::Whole,
    }
}

/// Whether a list of entity tags names `etag`, by weak comparison.
fn names(tags: &str, etag: &str) -> bool {
    tags.split(',').map(str::trim).any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag)
}

/// One range; what is not understood, and several at once, count as none.
fn bytes(range: &str, size: u64) -> Part {
    let Some((first, last)) = range.trim().strip_prefix("bytes=").and_then(|r| r.split_once('-'))
    else {
        return Part::Whole;
    };
    let (first, last) = (first.trim(), last.trim());
    let range = match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => first..size.min(last.saturating_add(1)),
        (Some(first), None) if last.is_empty() => first..size,
        (None, Some(count)) if first.is_empty() => size.saturating_sub(count)..size,
        _ => return Part::Whole,
    };
    if range.is_empty() { Part::Unsatisfiable } else { Part::Bytes(range) }
}

/// A plain number: `u64::from_str` would take a sign too.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_are_read_as_the_standard_says() {
        let cases = [
            ("bytes=0-", Part::Bytes(0..10)),
            ("bytes=0-0", Part::Bytes(0..1)),
            ("bytes=3-5", Part::Bytes(3..6)),
            ("bytes=3-500", Part::Bytes(3..10)),
            ("bytes=-3", Part::Bytes(7..10)),
            ("bytes=-30", Part::Bytes(0..10)),
            ("bytes=10-", Part::Unsatisfiable),
            ("bytes=-0", Part::Unsatisfiable),
            ("bytes=5-3", Part::Whole),
            ("bytes=0-1,3-4", Part::Whole),
            ("bytes=+1-2", Part::Whole),
            ("bytes=-", Part::Whole),
            ("lines=0-1", Part::Whole),
        ];
        for (range, want) in cases {
            let conditions = Conditions { range: Some(range), ..Default::default() };
            assert_eq!(part(conditions, "\"a\"", 10), want, "{range}");
        }
    }

    #[test]
    fn tags_decide_whether_anything_is_sent() {
        let none_match = |tags| Conditions { if_none_match: Some(tags), ..Default::default() };
        assert_eq!(part(none_match("\"b\", W/\"a\""), "\"a\"", 10), Part::NotModified);
        assert_eq!(part(none_match("*"), "\"a\"", 10), Part::NotModified);
        assert_eq!(part(none_match("\"b\""), "\"a\"", 10), Part::Whole);
        let ranged =
            |tag| Conditions { range: Some("bytes=1-"), if_range: Some(tag), ..Default::default() };
        assert_eq!(part(ranged("\"a\""), "\"a\"", 10), Part::Bytes(1..10));
        assert_eq!(part(ranged("\"b\""), "\"a\"", 10), Part::Whole);
    }

    proptest! {
        #[test]
        fn a_part_is_never_outside_the_blob(range in "(bytes=)?[-0-9,+ ]{0,24}", size: u64) {
            let conditions = Conditions { range: Some(&range), ..Default::default() };
            if let Part::Bytes(bytes) = part(conditions, "\"a\"", size) {
                prop_assert!(bytes.start < bytes.end && bytes.end <= size);
            }
        }
    }
}
