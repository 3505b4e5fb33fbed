//! Each command is in the documentation as it is typed, and a story types it.

use std::{fs, path::Path};

use crate::person::Person;

/// The files that people read.
const DOCUMENTS: [&str; 4] =
    ["README.md", "examples/README.md", "docs/commands.md", "docs/providers.md"];
/// Documents that a story types from top to bottom.
const PLAYED: [&str; 1] = ["docs/commands.md"];
const STORIES: &str = "crates/e2e/tests";

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

/// Whether a text types a command: after `flynn`, and perhaps options with a value each.
fn types(text: &str, command: &str) -> bool {
    text.split("flynn ").skip(1).any(|rest| {
        let mut words = rest.split(|c: char| c.is_whitespace() || "`;)\"'".contains(c));
        let mut word = words.next().unwrap_or_default();
        while word.starts_with('-') {
            words.next();
            word = words.next().unwrap_or_default();
        }
        word == command
    })
}

/// The lines of a document that are typed.
fn typed(document: &str) -> String {
    document.lines().filter(|line| line.starts_with("$ ")).collect::<Vec<_>>().join("\n")
}

#[test]
fn each_command_is_documented_as_typed_and_typed_by_a_story() {
    let person = Person::new();
    let help = person.flynn(&["help", "--json"]).ok().stdout;
    let usages: std::collections::BTreeMap<String, String> = serde_json::from_str(&help).unwrap();
    assert!(usages.len() > 40, "{usages:?}");
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let documents: String = DOCUMENTS.iter().map(|name| read(&top.join(name))).collect();
    let mut stories: String =
        PLAYED.iter().map(|name| typed(&read(&top.join(name)))).collect::<Vec<_>>().join("\n");
    for file in fs::read_dir(top.join(STORIES)).unwrap() {
        stories += &read(&file.unwrap().path());
    }
    // Some are typed as words of a list.
    let is_played =
        |command: &str| types(&stories, command) || stories.contains(&format!("[\"{command}\""));
    let missing: Vec<_> = usages
        .keys()
        .filter_map(|command| match (types(&documents, command), is_played(command)) {
            (true, true) => None,
            (documented, _) => {
                Some((command, if documented { "no story types it" } else { "is in no document" }))
            }
        })
        .collect();
    assert!(missing.is_empty(), "{missing:#?}");
}
