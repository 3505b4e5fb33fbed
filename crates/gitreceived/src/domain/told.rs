//! How names are told to pushers: as what they are typed like, and so that a terminal shows them and obeys nothing in them.

/// A full name as it is spoken of.
pub(crate) fn short(name: &str) -> &str {
    let name = name.strip_prefix("refs/heads/").unwrap_or(name);
    name.strip_prefix("refs/tags/").unwrap_or(name)
}

/// A name as it is shown: whole, for it may be in a command that is copied. What a terminal does not show as a character of its own
/// is written as its number.
pub(crate) fn shown(name: &str) -> String {
    let mut shown = String::new();
    for c in name.chars() {
        match is_seen(c) {
            true => shown.push(c),
            false => shown.extend(c.escape_unicode()),
        }
    }
    shown
}

/// A refspec as a person types it: what a branch or a tag is pushed as.
pub(crate) fn refspec(name: &str, suffix: &str, to: &str) -> String {
    // One that begins with a dash would be an option.
    let source = if short(name).starts_with('-') { name } else { short(name) };
    quoted(&format!("{}{suffix}:{}", shown(source), shown(to)))
}

/// A word of a command line, also of a shell that a person types into: those do something with `!` and `{a,b}`.
pub(crate) fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "_-./:+@,=".contains(c);
    match word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// Whether a terminal shows something for a character, and nothing else changes by it: neither control characters nor those that
/// are nothing themselves and turn what is beside them around.
fn is_seen(c: char) -> bool {
    let is_format = matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}');
    !c.is_control() && !is_format
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_is_whole_and_turns_nothing_around() {
        let long = format!("refs/heads/{}", "a".repeat(240));
        assert_eq!(shown(&long), long);
        assert_eq!(shown("a\u{202e}b\x1b[1m\u{e9}"), "a\\u{202e}b\\u{1b}[1m\u{e9}");
    }

    #[test]
    fn what_is_to_be_copied_is_one_word_and_no_option() {
        assert_eq!(refspec("refs/heads/x", "", "master"), "x:master");
        assert_eq!(refspec("refs/heads/-x", "", "master"), "refs/heads/-x:master");
        for name in ["$(x)", "a!b", "{a,b}"] {
            let typed = refspec(&format!("refs/heads/{name}"), "", "master");
            assert_eq!(typed, format!("'{name}:master'"));
        }
        assert_eq!(refspec("refs/heads/a'b", "", "master"), r"'a'\''b:master'");
        assert_eq!(
            refspec("refs/tags/v1", "^{commit}", "refs/heads/master"),
            "'v1^{commit}:refs/heads/master'"
        );
    }

    proptest! {
        #[test]
        fn a_shell_reads_the_refspec_as_it_is(name in "[a-z'\"$ ();&|`\\\\*-]{1,20}") {
            let typed = refspec(&format!("refs/heads/{name}"), "", "main");
            let words = shell_words::split(&typed).unwrap();
            prop_assert_eq!(words.len(), 1);
            let ends = format!("{name}:main");
            prop_assert!(words[0].ends_with(&ends) && !words[0].starts_with('-'));
        }
    }
}
