//! What `bin/release` prints: a little YAML, two levels deep.

use std::collections::BTreeMap;

use api::slug::SlugRelease;

/// It is not what `bin/release` may print.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} is not understood: {text:?}")]
pub struct BadRelease {
    line: usize,
    text: String,
}

/// Reads it: YAML maps of strings under `default_process_types` and `config_vars`, or the same as JSON. Other sections
/// are passed over.
pub fn parse(text: &str) -> Result<SlugRelease, BadRelease> {
    if let Ok(release) = serde_json::from_str(text) {
        return Ok(release);
    }
    let mut release = SlugRelease::default();
    let mut section = Section::Other;
    for (at, line) in text.lines().enumerate() {
        let bad = || BadRelease { line: at + 1, text: line.chars().take(100).collect() };
        let trimmed = line.trim();
        let trimmed = trimmed.strip_prefix("---").map_or(trimmed, str::trim);
        if trimmed.is_empty() || trimmed.starts_with('#') || ["...", "{}"].contains(&trimmed) {
            continue;
        }
        let indented = line.starts_with([' ', '\t']);
        if !indented && !trimmed.starts_with('-') {
            let (name, value) = pair(trimmed).ok_or_else(bad)?;
            section = Section::named(&name);
            if section != Section::Other && !["", "{}", "null", "~"].contains(&value.text.as_str())
            {
                return Err(bad());
            }
            continue;
        }
        let map = match section {
            Section::Types => &mut release.default_process_types,
            Section::Vars => &mut release.config_vars,
            Section::Other => continue,
        };
        insert(map, trimmed).ok_or_else(bad)?;
    }
    Ok(release)
}

fn insert(map: &mut BTreeMap<String, String>, line: &str) -> Option<()> {
    let (name, value) = pair(line)?;
    // Values that span lines, and nested ones.
    let strange = value.text.is_empty() || value.text.starts_with(['|', '>', '[', '{', '&', '*']);
    if name.is_empty() || (strange && !value.quoted) {
        return None;
    }
    map.insert(name, value.text);
    Some(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Section {
    Types,
    Vars,
    Other,
}

impl Section {
    fn named(name: &str) -> Self {
        match name.trim_start_matches(':') {
            "default_process_types" => Self::Types,
            "config_vars" => Self::Vars,
            _ => Self::Other,
        }
    }
}

/// A scalar.
struct Value {
    text: String,
    quoted: bool,
}

/// `name: value`, either in quotes or not.
fn pair(line: &str) -> Option<(String, Value)> {
    let (name, rest) = match scalar_in_quotes(line) {
        Some((name, rest)) => (name, rest.trim_start().strip_prefix(':')?),
        None => {
            let at = line.find(": ").or_else(|| line.ends_with(':').then(|| line.len() - 1))?;
            (line[..at].trim().to_owned(), &line[at + 1..])
        }
    };
    let rest = rest.trim();
    let value = match scalar_in_quotes(rest) {
        Some((value, after)) => {
            let after = after.trim_start();
            let ends = after.is_empty() || after.starts_with('#');
            ends.then_some(Value { text: value, quoted: true })?
        }
        None if rest.starts_with(['"', '\'']) => return None,
        None => {
            let text = rest.split(" #").next().unwrap_or_default().trim().to_owned();
            Value { text, quoted: false }
        }
    };
    Some((name, value))
}

/// A quoted text at the beginning of another, and what follows it.
fn scalar_in_quotes(text: &str) -> Option<(String, &str)> {
    if let Some(rest) = text.strip_prefix('\'') {
        let mut from = 0;
        loop {
            let end = from + rest[from..].find('\'')?;
            if rest[end + 1..].starts_with('\'') {
                from = end + 2;
                continue;
            }
            return Some((rest[..end].replace("''", "'"), &rest[end + 1..]));
        }
    }
    if !text.starts_with('"') {
        return None;
    }
    let mut strings = serde_json::Deserializer::from_str(text).into_iter::<String>();
    let value = strings.next()?.ok()?;
    let end = strings.byte_offset();
    Some((value, text.get(end..)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_buildpacks_print_is_understood() {
        let release = parse(
            "---\naddons:\n  - heroku-postgresql:hobby-dev\nconfig_vars:\n  A: \"x: \\\"y\\\"\" # c\n  'B': it''s\n\
             default_process_types:\n  web: node server.js -p $PORT # run\n  rake: 'bundle exec \"rake\"'\n",
        )
        .unwrap();
        assert_eq!(release.default_process_types["web"], "node server.js -p $PORT");
        assert_eq!(release.default_process_types["rake"], "bundle exec \"rake\"");
        assert_eq!(release.config_vars["A"], "x: \"y\"");
        assert_eq!(release.config_vars["B"], "it''s");
        for empty in ["--- {}\n", "---\n", "default_process_types: {}\n"] {
            assert_eq!(parse(empty).unwrap(), SlugRelease::default());
        }
        let json = parse(r#"{"default_process_types":{"web":"x"},"addons":[]}"#).unwrap();
        assert_eq!(json.default_process_types["web"], "x");
    }

    #[test]
    fn what_is_not_understood_is_said() {
        for bad in [
            "web: x\ndefault_process_types:\n  web: |\n    x\n",
            "what is this",
            "config_vars:\n  A: 'x\n",
            "config_vars: 1\n",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn reading_never_panics(text in "(config_vars|default_process_types|:| |\n|'|\"|\\\\|-|\\PC){0,60}") {
            let _ = parse(&text);
        }

        #[test]
        fn quoted_values_are_read_back(value in "\\PC{1,40}") {
            let text = format!("config_vars:\n  A: {}\n", serde_json::to_string(&value).unwrap());
            let read = parse(&text).unwrap();
            prop_assert_eq!(&read.config_vars["A"], &value);
            let text = format!("config_vars:\n  A: '{}'\n", value.replace('\'', "''"));
            let read = parse(&text).unwrap();
            prop_assert_eq!(&read.config_vars["A"], &value);
        }
    }
}
