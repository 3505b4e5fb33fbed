//! What a terminal is shown of a text that a stranger wrote.

use std::iter::Peekable;

/// Takes colours and all else that was begun back.
const RESET: &str = "\x1b[0m";
/// Longest list of numbers of a colour.
const NUMBERS_MAX: usize = 64;

/// The text with control characters made visible, but for ends of lines, tabs, and colours, which end with their line.
pub(crate) fn shown(text: &str) -> String {
    if !text.chars().any(char::is_control) {
        return text.to_owned();
    }
    let mut shown = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let (line, end) = line.strip_suffix('\n').map_or((line, ""), |line| (line, "\n"));
        show_line(line.strip_suffix('\r').unwrap_or(line), &mut shown);
        shown.push_str(end);
    }
    shown
}

fn show_line(line: &str, shown: &mut String) {
    let mut chars = line.chars().peekable();
    let mut coloured = false;
    while let Some(c) = chars.next() {
        match c {
            '\x1b' => match colour(&mut chars) {
                Some(colour) => {
                    coloured = true;
                    shown.push_str(&colour);
                }
                None => shown.push('\u{fffd}'),
            },
            '\t' => shown.push(c),
            c if c.is_control() => shown.push('\u{fffd}'),
            c => shown.push(c),
        }
    }
    if coloured {
        shown.push_str(RESET);
    }
}

/// The colour after an escape character: `[1;31m`. Nothing is taken if it is something else.
fn colour(chars: &mut Peekable<std::str::Chars<'_>>) -> Option<String> {
    let mut ahead = chars.clone();
    if ahead.next() != Some('[') {
        return None;
    }
    let mut numbers = String::new();
    loop {
        match ahead.next()? {
            c @ ('0'..='9' | ';' | ':') if numbers.len() < NUMBERS_MAX => numbers.push(c),
            'm' => break,
            _ => return None,
        }
    }
    *chars = ahead;
    Some(format!("\x1b[{numbers}m"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn colours_pass_and_what_else_moves_a_terminal_is_seen() {
        assert_eq!(shown("a\tb\r\nc\n"), "a\tb\nc\n");
        assert_eq!(shown("\x1b[1;31mred\nnext"), "\x1b[1;31mred\x1b[0m\nnext");
        assert_eq!(shown("\x1b]0;title\x07x"), "\u{fffd}]0;title\u{fffd}x");
        assert_eq!(shown("\x1b[2Jx\0\u{9b}2J"), "\u{fffd}[2Jx\u{fffd}\u{fffd}2J");
        assert_eq!(shown("fake\rtrue"), "fake\u{fffd}true");
        assert_eq!(shown("\x1b["), "\u{fffd}[");
    }

    proptest! {
        #[test]
        fn what_is_left_of_control_characters_is_colours(text in "([a-z\n\r\t\x07\x1b\u{9b}]|\x1b\\[|[0-9;m]|.){0,30}") {
            let shown = shown(&text);
            let rest = shown.replace(['\n', '\t'], "");
            for part in rest.split('\x1b').skip(1) {
                let numbers = part.strip_prefix('[').and_then(|rest| rest.split_once('m')).unwrap().0;
                prop_assert!(numbers.chars().all(|c| c.is_ascii_digit() || ";:".contains(c)));
            }
            prop_assert!(!rest.chars().any(|c| c.is_control() && c != '\x1b'));
            prop_assert_eq!(shown.matches('\n').count(), text.matches('\n').count());
        }
    }
}
