//! How output looks.

/// A line longer than this is shown in pieces.
const MAX_LINE: usize = 8 * 1024;

/// Cuts a stream of bytes into lines.
#[derive(Debug, Default)]
pub struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// Takes bytes, and gives the lines that are whole now, without their ends.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut lines = Vec::new();
        while !bytes.is_empty() {
            let room = MAX_LINE - self.rest.len();
            let end = bytes.iter().take(room).position(|&b| b == b'\n');
            let taken = end.unwrap_or_else(|| room.min(bytes.len()));
            self.rest.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken + usize::from(end.is_some())..];
            if end.is_some() || self.rest.len() == MAX_LINE {
                if self.rest.last() == Some(&b'\r') {
                    self.rest.pop();
                }
                lines.push(std::mem::take(&mut self.rest));
            }
        }
        lines
    }

    /// What is left when the stream ends.
    pub fn end(self) -> Option<Vec<u8>> {
        (!self.rest.is_empty()).then_some(self.rest)
    }
}

/// Puts a line of a buildpack where it belongs: titles and what is indented stay, the rest is indented.
pub fn placed(line: &[u8]) -> Vec<u8> {
    let stays = [&b"----->"[..], b"       ", b" !", b"\x1b[1G"];
    if line.is_empty() || stays.iter().any(|start| line.starts_with(start)) {
        return line.to_vec();
    }
    [b"       ", line].concat()
}

/// A line with stars in place of secrets.
pub fn without(line: &[u8], secrets: &[String]) -> Vec<u8> {
    let mut line = line.to_vec();
    for secret in secrets.iter().map(String::as_bytes).filter(|secret| !secret.is_empty()) {
        while let Some(at) = line.windows(secret.len()).position(|part| part == secret) {
            // What is put there must not be found again.
            line.splice(at..at + secret.len(), secret.iter().map(|_| 0u8));
        }
    }
    line.iter().map(|&b| if b == 0 { b'*' } else { b }).collect()
}

/// A number of bytes as people say it: `2.9M`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["B", "K", "M", "G"];
    let (mut value, mut unit) = (bytes, 0);
    let mut tenths = 0;
    while value >= 1024 && unit + 1 < UNITS.len() {
        tenths = value % 1024 * 10 / 1024;
        value /= 1024;
        unit += 1;
    }
    if unit == 0 { format!("{value}B") } else { format!("{value}.{tenths}{}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn titles_stay_and_the_rest_is_indented() {
        assert_eq!(placed(b"-----> Title"), b"-----> Title");
        assert_eq!(placed(b"npm warn"), b"       npm warn");
        assert_eq!(placed(b"         deeper"), b"         deeper");
        assert_eq!(placed(b" !     no"), b" !     no");
    }

    #[test]
    fn secrets_are_covered_wherever_they_stand() {
        let secrets = ["key=t0ken".to_owned(), String::new(), "*".to_owned()];
        assert_eq!(without(b"a?key=t0ken/ key=t0ken", &secrets), b"a?*********/ *********");
        assert_eq!(without(b"plain", &[]), b"plain");
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!(size(12), "12B");
        assert_eq!(size(3 << 20), "3.0M");
        assert_eq!(size((29 << 20) / 10), "2.8M");
        assert_eq!(size(5 << 40), "5120.0G");
    }

    proptest! {
        #[test]
        fn lines_are_the_same_however_the_bytes_arrive(text in "([a-c]{0,5}\n?){0,20}", cut in 0..50usize) {
            let bytes = text.as_bytes();
            let cut = cut.min(bytes.len());
            let mut lines = Lines::default();
            let mut seen = lines.feed(&bytes[..cut]);
            seen.extend(lines.feed(&bytes[cut..]));
            seen.extend(lines.end());
            let expected: Vec<_> = text.lines().map(|line| line.as_bytes().to_vec()).collect();
            prop_assert_eq!(seen, expected);
        }

        #[test]
        fn no_line_is_longer_than_the_limit(bytes in prop::collection::vec(prop::sample::select(b"a\r\n".to_vec()), 0..40_000)) {
            let mut lines = Lines::default();
            prop_assert!(lines.feed(&bytes).iter().all(|line| line.len() <= MAX_LINE));
        }
    }
}
