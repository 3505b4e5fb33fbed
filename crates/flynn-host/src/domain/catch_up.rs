//! Which lines of the engine's log are not yet in ours.
//!
//! While this daemon is away nobody is attached, and only the engine keeps a job's output. The two logs hold the same
//! lines of each stream in the same order; a line of ours carries the time at which it was read, which is never before
//! the time the engine gives it.

use std::collections::VecDeque;

use jiff::Timestamp;

use super::mux::Out;

/// A line, ours or the engine's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// Which output.
    pub(crate) out: Out,
    /// When.
    pub(crate) at: Timestamp,
    /// What, without its end.
    pub(crate) text: String,
}

/// The engine's lines that are missing in ours, in the engine's order.
pub(crate) fn missing(ours: &[Line], engine: &[Line]) -> Vec<Line> {
    let mut missing: Vec<(usize, &Line)> = Vec::new();
    for out in [Out::Stdout, Out::Stderr] {
        let ours: Vec<&Line> = ours.iter().filter(|line| line.out == out).collect();
        let theirs: Vec<(usize, &Line)> =
            engine.iter().enumerate().filter(|(_, line)| line.out == out).collect();
        missing.extend(&theirs[known(&ours, &theirs)..]);
    }
    missing.sort_by_key(|(n, _)| *n);
    missing.into_iter().map(|(_, line)| line.clone()).collect()
}

/// How many of the engine's lines are in ours: the most that end like ours and are not younger than our last.
fn known(ours: &[&Line], theirs: &[(usize, &Line)]) -> usize {
    let Some(last) = ours.last() else { return 0 };
    let old = theirs.iter().take_while(|(_, line)| line.at <= last.at).count();
    let ends_like_ours = |count: &usize| {
        let theirs = theirs[..*count].iter().rev();
        theirs.zip(ours.iter().rev()).all(|((_, theirs), ours)| theirs.text == ours.text)
    };
    (0..=old).rev().find(ends_like_ours).unwrap_or(0)
}

/// Lines that were taken from the engine's log and may come once more over the streams: those of the moments in which
/// the attachment was made.
#[derive(Debug, Default)]
pub(crate) struct Repeats {
    expected: [VecDeque<String>; 2],
}

impl Repeats {
    /// Expects a line once more.
    pub(crate) fn expect(&mut self, out: Out, text: &str) {
        self.expected[usize::from(out == Out::Stderr)].push_back(text.into());
    }

    /// Whether a line that came is a repeat. The streams begin somewhere among the expected lines and go on from there.
    pub(crate) fn is_repeat(&mut self, out: Out, text: &str) -> bool {
        let expected = &mut self.expected[usize::from(out == Out::Stderr)];
        let found = expected.iter().position(|line| line == text);
        match found {
            Some(at) => expected.drain(..=at),
            None => expected.drain(..),
        };
        found.is_some()
    }
}

/// A line of the engine's log with `timestamps=1`: the time, a space, the text.
pub(crate) fn parse(out: Out, line: &str) -> Option<Line> {
    let (at, text) = line.split_once(' ').unwrap_or((line, ""));
    Some(Line { out, at: at.parse().ok()?, text: text.into() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(second: i64, text: &str) -> Line {
        let at = Timestamp::from_second(second).unwrap();
        Line { out: Out::Stdout, at, text: text.into() }
    }

    fn texts(lines: &[Line]) -> Vec<&str> {
        lines.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn what_came_while_nobody_was_attached_is_missing() {
        let engine = [line(1, "a"), line(2, "b"), line(3, "c"), line(4, "d")];
        assert_eq!(texts(&missing(&engine[..2], &engine)), ["c", "d"]);
        assert_eq!(texts(&missing(&[], &engine)), ["a", "b", "c", "d"]);
        assert_eq!(texts(&missing(&engine, &engine)), Vec::<&str>::new());
    }

    #[test]
    fn lines_that_say_the_same_are_told_apart_by_their_time() {
        let engine: Vec<Line> = (1..=5).map(|second| line(second, "tick")).collect();
        assert_eq!(missing(&engine[..3], &engine).len(), 2);
    }

    #[test]
    fn the_streams_are_compared_each_by_itself() {
        let mut engine = vec![line(1, "a"), line(2, "b")];
        engine[1].out = Out::Stderr;
        assert_eq!(texts(&missing(&engine[..1], &engine)), ["b"]);
    }

    #[test]
    fn what_comes_twice_at_the_seam_is_told_from_what_is_new() {
        let mut repeats = Repeats::default();
        for text in ["1", "2", "3"] {
            repeats.expect(Out::Stdout, text);
        }
        let came = ["2", "3", "4", "2"].map(|text| repeats.is_repeat(Out::Stdout, text));
        assert_eq!(came, [true, true, false, false]);
        assert!(!repeats.is_repeat(Out::Stderr, "1"));
    }

    #[test]
    fn a_line_is_a_time_and_a_text() {
        let parsed = parse(Out::Stderr, "2026-11-23T12:00:00.5Z it works").unwrap();
        assert_eq!((parsed.out, parsed.text.as_str()), (Out::Stderr, "it works"));
        assert_eq!(parse(Out::Stdout, "2026-11-23T12:00:00Z").unwrap().text, "");
        assert_eq!(parse(Out::Stdout, "no time"), None);
    }

    proptest! {
        #[test]
        fn ours_and_the_missing_ones_are_the_engines(
            texts in prop::collection::vec("[ab]", 0..30),
            stop in 0usize..30,
            late in 0i64..1,
        ) {
            let engine: Vec<Line> = (1..).zip(&texts).map(|(n, text)| line(n * 2, text)).collect();
            let stop = stop.min(engine.len());
            let ours: Vec<Line> = engine[..stop]
                .iter()
                .map(|l| line(l.at.as_second() + late, &l.text))
                .collect();
            prop_assert_eq!(missing(&ours, &engine), engine[stop..].to_vec());
        }

        #[test]
        fn comparing_and_parsing_never_panic(a in prop::collection::vec("[ab]", 0..6), text in ".{0,40}") {
            let a: Vec<Line> = (0..).zip(&a).map(|(n, text)| line(n, text)).collect();
            missing(&a, &a[a.len() / 2..]);
            parse(Out::Stdout, &text);
        }
    }
}
