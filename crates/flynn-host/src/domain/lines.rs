//! From pieces of output to lines of a log.

/// Longest line kept whole; a longer one becomes several, so that output without line ends cannot grow in memory.
pub(crate) const LONGEST_LINE: usize = 64 << 10;

/// Cuts one output stream into lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// Takes a piece and gives each line it completes, without line ends.
    pub(crate) fn push(&mut self, mut piece: &[u8], mut line: impl FnMut(String)) {
        while let Some(end) = piece.iter().position(|&b| b == b'\n') {
            self.keep(&piece[..end], &mut line);
            self.end(&mut line);
            piece = &piece[end + 1..];
        }
        self.keep(piece, &mut line);
    }

    fn keep(&mut self, mut piece: &[u8], line: &mut impl FnMut(String)) {
        while self.rest.len() + piece.len() > LONGEST_LINE {
            let (head, tail) = piece.split_at(LONGEST_LINE - self.rest.len());
            self.rest.extend_from_slice(head);
            // Not in the middle of a letter.
            let letter = self.rest.split_off(self.rest.len() - unfinished_letter(&self.rest));
            let text = std::mem::replace(&mut self.rest, letter);
            line(String::from_utf8_lossy(&text).into_owned());
            piece = tail;
        }
        self.rest.extend_from_slice(piece);
    }

    fn end(&mut self, line: &mut impl FnMut(String)) {
        let text = self.rest.strip_suffix(b"\r").unwrap_or(&self.rest);
        line(String::from_utf8_lossy(text).into_owned());
        self.rest.clear();
    }

    /// The beginning of a line whose end has not come.
    pub(crate) fn unfinished(&self) -> &[u8] {
        &self.rest
    }

    /// Gives the unfinished line, if there is one: nothing follows.
    pub(crate) fn finish(&mut self, mut line: impl FnMut(String)) {
        if !self.rest.is_empty() {
            self.end(&mut line);
        }
    }
}

/// How many bytes at the end are the beginning of a UTF-8 sequence that goes on.
fn unfinished_letter(text: &[u8]) -> usize {
    let last = &text[text.len().saturating_sub(3)..];
    let lead = last.iter().rposition(|&byte| byte & 0xc0 != 0x80);
    let Some(lead) = lead.filter(|&lead| last[lead] >= 0xc0) else { return 0 };
    let length = match last[lead] {
        0xc0..0xe0 => 2,
        0xe0..0xf0 => 3,
        _ => 4,
    };
    let there = last.len() - lead;
    if there < length { there } else { 0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(pieces: &[&[u8]]) -> Vec<String> {
        let (mut lines, mut got) = (Lines::default(), Vec::new());
        for piece in pieces {
            lines.push(piece, |line| got.push(line));
        }
        lines.finish(|line| got.push(line));
        got
    }

    #[test]
    fn lines_are_cut_at_their_ends_and_the_last_one_at_the_end() {
        assert_eq!(cut(&[b"a\r\n", b"", b"b", b"c\n\nd"]), ["a", "bc", "", "d"]);
    }

    #[test]
    fn a_line_without_end_is_cut_at_the_limit() {
        let long = vec![b'x'; LONGEST_LINE * 2 + 5];
        let lengths: Vec<usize> = cut(&[&long]).iter().map(String::len).collect();
        assert_eq!(lengths, [LONGEST_LINE, LONGEST_LINE, 5]);
    }

    #[test]
    fn no_letter_is_cut_in_two() {
        for start in ["", "a", "ab", "abc"] {
            for letter in ["é", "名", "🦀"] {
                let long = start.to_owned() + &letter.repeat(LONGEST_LINE);
                let lines = cut(&[long.as_bytes()]);
                assert!(lines.iter().all(|line| line.len() <= LONGEST_LINE));
                assert!(lines.concat() == long, "{start}{letter}");
            }
        }
        let odd = [b"x".repeat(LONGEST_LINE - 1), vec![0xf0], vec![0x80; 9]].concat();
        assert_eq!(cut(&[&odd]).len(), 2, "bytes that are no text pass");
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_lines(text in "[a-c\n]{0,60}", at in 0usize..60) {
            let bytes = text.as_bytes();
            let (head, tail) = bytes.split_at(at.min(bytes.len()));
            prop_assert_eq!(cut(&[head, tail]), cut(&[bytes]));
        }
    }
}
