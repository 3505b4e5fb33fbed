//! Text as Postgres takes it: all of Unicode but NUL, which is kept spelt out.

use std::borrow::Cow;

use serde_json::Value;

/// How NUL is spelt in a stored text.
const SPELT: &str = "\\x00";

/// The text, as it can be stored.
pub(super) fn stored(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { text.replace('\0', SPELT).into() } else { text.into() }
}

/// The value, with every text in it as it can be stored.
pub(super) fn stored_json(value: Value) -> Value {
    match value {
        Value::String(text) if text.contains('\0') => Value::String(text.replace('\0', SPELT)),
        Value::Array(values) => values.into_iter().map(stored_json).collect(),
        Value::Object(fields) => fields
            .into_iter()
            .map(|(name, value)| (stored(&name).into_owned(), stored_json(value)))
            .collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nul_is_spelt_out_wherever_it_is_and_nothing_else_changes() {
        assert_eq!(stored("bad\0byte"), "bad\\x00byte");
        assert_eq!(stored("\u{1b}[1mé"), "\u{1b}[1mé");
        let value = json!({"a\0": ["b\0", {"c": "\0"}], "d": 1});
        let kept = json!({"a\\x00": ["b\\x00", {"c": "\\x00"}], "d": 1});
        assert_eq!(stored_json(value), kept);
    }
}
