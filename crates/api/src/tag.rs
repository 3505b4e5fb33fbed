//! Tags of hosts, by which processes are placed.

use std::collections::BTreeMap;

/// Most tags of one host, or of one process type.
pub const TAGS_MAX: usize = 32;
/// Longest name and longest value, in bytes.
pub const TAG_LEN_MAX: usize = 63;

/// Tags that cannot be kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TagError {
    /// A name or a value.
    #[error(
        "have {name:?} = {value:?}: use letters, digits, dots, -, _ and :, at most {TAG_LEN_MAX}"
    )]
    Text {
        /// The name.
        name: String,
        /// The value.
        value: String,
    },
    /// How many.
    #[error("are {0}, which is more than {TAGS_MAX}")]
    Count(usize),
}

/// Checks names, values and number.
///
/// # Errors
/// The first that is wrong.
pub fn check(tags: &BTreeMap<String, String>) -> Result<(), TagError> {
    if let Some((name, value)) =
        tags.iter().find(|(name, value)| !is_valid(name) || !is_valid(value))
    {
        return Err(TagError::Text { name: shortened(name), value: shortened(value) });
    }
    if tags.len() > TAGS_MAX { Err(TagError::Count(tags.len())) } else { Ok(()) }
}

/// Whether a text may be a tag's name or value.
pub fn is_valid(text: &str) -> bool {
    // A time is a value, too: that of [`crate::cluster::TAG_DRAINING`].
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-:".contains(&b);
    (1..=TAG_LEN_MAX).contains(&text.len()) && text.bytes().all(plain)
}

fn shortened(text: &str) -> String {
    text.chars().take(TAG_LEN_MAX + 1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_discovery_would_not_take_is_no_tag() {
        let tags = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
        assert_eq!(check(&tags("disk", "ssd")), Ok(()));
        let drained = jiff::Timestamp::now().to_string();
        assert_eq!(check(&tags(crate::cluster::TAG_DRAINING, &drained)), Ok(()));
        for (name, value) in [("a b", "x"), ("a\0", "x"), ("", "x"), ("a", &*"x".repeat(100_000))] {
            assert!(matches!(check(&tags(name, value)), Err(TagError::Text { .. })));
        }
        let many = (0..=TAGS_MAX).map(|n| (n.to_string(), "x".to_owned())).collect();
        assert_eq!(check(&many), Err(TagError::Count(TAGS_MAX + 1)));
    }
}
