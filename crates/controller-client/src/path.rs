//! Names in paths.

use std::fmt::Write;

/// A name as one segment of a path, or one value of a query: whatever it holds, it stays that.
pub fn escape(name: &str) -> String {
    name.bytes().fold(String::with_capacity(name.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-_~.".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_escaped_name_has_nothing_that_ends_a_segment(name in ".{0,40}") {
            let escaped = escape(&name);
            prop_assert!(escaped.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_~.%".contains(&b)));
        }
    }

    #[test]
    fn names_of_apps_and_jobs_stay_as_they_are() {
        assert_eq!(escape("my-app-2"), "my-app-2");
        assert_eq!(escape("a/b c"), "a%2Fb%20c");
    }
}
