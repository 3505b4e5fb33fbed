//! Documents whose lines are typed exactly as they stand.
//!
//! In a fenced block a line that begins with `$ ` is typed; those below it are what it prints. Ids, numbers and spaces may
//! differ, `...` in a line stands for anything, and as a line for any lines.

use std::{fs, path::Path};

use crate::shell::run_with;

/// A line to type.
#[derive(Debug, PartialEq, Eq)]
pub struct Typed {
    /// Its number in the document.
    pub number: usize,
    /// What is typed.
    pub command: String,
    /// What it prints.
    pub shown: Vec<String>,
}

/// The lines of a document that are typed.
pub fn typed(document: &str) -> Vec<Typed> {
    let mut found: Vec<Typed> = Vec::new();
    let (mut inside, mut open) = (false, false);
    for (at, line) in document.lines().enumerate() {
        if line.starts_with("```") {
            (inside, open) = (!inside, false);
        } else if let Some(command) = line.strip_prefix("$ ").filter(|_| inside) {
            found.push(Typed { number: at + 1, command: command.into(), shown: Vec::new() });
            open = true;
        } else if let Some(last) = found.last_mut().filter(|_| open && line != "...") {
            last.shown.push(line.into());
        }
    }
    found
}

/// A line without what differs from time to time.
fn shape(line: &str) -> String {
    let is_id = |c: char| c.is_ascii_hexdigit() || c == '-';
    let mut shape = String::new();
    let mut rest = line.trim();
    while let Some(first) = rest.chars().next() {
        let word: String =
            rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
        let id = word.len() >= 8
            && word.chars().all(is_id)
            && word.contains(|c: char| c.is_ascii_digit());
        let digits = rest.chars().take_while(char::is_ascii_digit).count();
        let spaces = rest.len() - rest.trim_start().len();
        let (taken, shown) = match () {
            () if id => (word.len(), "#"),
            () if digits > 0 => (digits, "#"),
            () if spaces > 0 => (spaces, " "),
            () if !word.is_empty() => {
                let plain = word.find(|c: char| c.is_ascii_digit()).unwrap_or(word.len());
                (plain, &rest[..plain])
            }
            () => (first.len_utf8(), &rest[..first.len_utf8()]),
        };
        shape.push_str(shown);
        rest = &rest[taken..];
    }
    shape
}

/// Whether a printed line is one that was to be shown.
fn is_like(wanted: &str, printed: &str) -> bool {
    let mut pieces = wanted.split("...").map(shape);
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = printed.strip_prefix(first.as_str()) else { return false };
    for piece in pieces {
        let Some(at) = rest.find(&piece) else { return false };
        rest = &rest[at + piece.len()..];
    }
    rest.is_empty() || wanted.ends_with("...")
}

/// The first line that was to be shown and was not, in this order.
fn missing<'a>(shown: &'a [String], printed: &str) -> Option<&'a str> {
    let mut printed = printed.lines().map(shape);
    let mut wanted = shown.iter().map(String::as_str);
    wanted.find(|wanted| !printed.any(|printed| is_like(wanted, &printed)))
}

/// Both outputs are one, and git knows who commits.
const BEGIN: &str = "exec 2>&1; export GIT_AUTHOR_NAME=Tester GIT_AUTHOR_EMAIL=tester@example.com \
                     GIT_COMMITTER_NAME=Tester GIT_COMMITTER_EMAIL=tester@example.com";

/// Types a document in a folder, in one shell, each word of `names` replaced by the one it has here.
///
/// # Panics
/// When a line fails or prints something else.
pub fn play(folder: &Path, document: &Path, names: &[(&str, &str)]) {
    let mut text = fs::read_to_string(document).unwrap_or_else(|err| panic!("{document:?}: {err}"));
    for (name, here) in names {
        text = text.replace(name, here);
    }
    let lines = typed(&text);
    let script = folder.join(".typed.sh");
    let mark = "--typed--";
    let step = |line: &Typed| {
        format!(
            "{}\nstatus=$?; printf '\\n{mark}'; [ $status = 0 ] || exit $status\n",
            line.command
        )
    };
    let steps: String = lines.iter().map(step).collect();
    fs::write(&script, format!("{BEGIN}\n{steps}")).expect("files can be written");
    let said = run_with(folder, &["bash", &script.display().to_string()], b"");
    let outputs: Vec<&str> = said.out.split(mark).collect();
    for (line, printed) in lines.iter().zip(&outputs) {
        let at = format!("{}:{}: $ {}", document.display(), line.number, line.command);
        if let Some(missing) = missing(&line.shown, printed) {
            panic!("{at}\ndid not print\n{missing}\nbut\n{printed}");
        }
    }
    let reached = outputs.len() - 1;
    let last = &lines[reached.clamp(1, lines.len()) - 1];
    assert!(
        said.status == 0 && reached == lines.len(),
        "{}:{}: $ {}\nended with {}: {:?}",
        document.display(),
        last.number,
        last.command,
        said.status,
        &outputs[reached.saturating_sub(1)..]
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_is_told_from_what_is_shown() {
        let document = "text\n```\n$ flynn apps\nID  NAME\n...\n$ flynn env\n```\n$ no\n";
        let lines = typed(document);
        assert_eq!(lines.len(), 2);
        assert_eq!((lines[0].number, lines[0].shown.len()), (3, 1));
        assert_eq!(lines[1].command, "flynn env");
    }

    #[test]
    fn ids_numbers_and_spaces_may_differ_and_words_may_not() {
        assert_eq!(
            shape("Created release 6d2e0b7c9e8a4d35."),
            shape("Created release 0123456789abcdef.")
        );
        assert_eq!(shape("took 2 s  (web1)"), "took # s (web#)");
        assert_ne!(shape("Created shop"), shape("Created blog"));
        let shown = ["one".to_owned(), "deployed in ...".to_owned()];
        assert_eq!(missing(&shown, "zero\none\ndeployed in 3.2s\n"), None);
        assert_eq!(missing(&shown, "deployed in 3.2s\none\n"), Some("deployed in ..."));
        assert!(is_like("tcp:... web ...", &shape("tcp:3000  web  tcp/0123456789ab")));
        assert!(is_like("Job ... killed.", &shape("Job h1-0123 killed.")));
        assert!(!is_like("Job ... killed.", &shape("Job h1-0123 killed. Why?")));
    }

    #[test]
    fn a_document_is_typed_in_one_shell_and_the_line_that_fails_is_named() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let document = folder.path().join("x.md");
        let play = |text: &str| {
            fs::write(&document, text).expect("files can be written");
            let played = || play(folder.path(), &document, &[("NAME", "here")]);
            let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(played)).err();
            failed.map(|said| said.downcast_ref::<String>().cloned().unwrap_or_default())
        };
        assert_eq!(play("```\n$ a=NAME\n$ echo $a 12\nhere 7\n```\n"), None);
        let failed = play("```\n$ true\n$ echo why; false\n$ true\n```\n").expect("it fails");
        assert!(failed.contains(":3: $ echo why; false") && failed.contains("why"), "{failed}");
        let failed = play("```\n$ echo b\nc\n```\n").expect("it fails");
        assert!(failed.contains("did not print\nc"), "{failed}");
    }
}
