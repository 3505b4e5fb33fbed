//! Numbers of bytes, as people write them.

/// Reads `512MB`, `2g`, `1048576`. Units are powers of 1024, however they are spelled. None if it is no such number, or
/// zero.
pub fn parse(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let power = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    let count: u64 = digits.parse().ok()?;
    count.checked_mul(1 << power).filter(|bytes| *bytes > 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn units_are_powers_of_1024() {
        for (text, bytes) in [("512MB", 512 << 20), ("2g", 2 << 30), (" 1KiB ", 1024), ("7", 7)] {
            assert_eq!(parse(text), Some(bytes), "{text}");
        }
        for bad in ["", "MB", "0", "-1G", "1.5G", "2 GB", "99999999T", "1X"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn reading_never_panics(text in "\\PC{0,12}|[0-9]{0,22}[a-zA-Z]{0,3}") {
            let _ = parse(&text);
        }
    }
}
