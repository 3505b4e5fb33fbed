//! What an app may be called.

use std::collections::BTreeMap;

use api::controller::META_SYSTEM_PREFIX;

use crate::{
    error::{Error, Result},
    store::Map,
};

/// Longest name: it becomes part of service and host names.
const LONGEST: usize = 30;

/// Checks an app's name.
pub(crate) fn check_name(name: &str) -> Result<()> {
    if name.is_empty() {
        return Err(Error::invalid("name", "must not be blank"));
    }
    if name.len() > LONGEST {
        return Err(Error::invalid("name", format!("must have at most {LONGEST} characters")));
    }
    let word = |word: &str| {
        !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    if name.split('-').all(word) {
        Ok(())
    } else {
        Err(Error::invalid(
            "name",
            format!(
                "{name:?} is invalid: use lower-case letters, digits and single dashes between them"
            ),
        ))
    }
}

/// Checks the seconds a step of a deployment may take.
pub(crate) fn check_deploy_timeout(seconds: Option<u32>) -> Result<()> {
    match seconds {
        Some(0) => Err(Error::invalid("deploy_timeout", "must be at least 1 second")),
        Some(86_401..) => Err(Error::invalid("deploy_timeout", "must be at most a day")),
        _ => Ok(()),
    }
}

/// The meta of an app after a change: entries are set, or with `None` removed. `whole`: what the change does not name goes.
///
/// What says that an app is a part of Flynn is neither set, changed nor dropped by a change of the app.
pub(crate) fn changed_meta(
    before: &Map,
    change: &BTreeMap<String, Option<String>>,
    whole: bool,
) -> Result<Map> {
    let is_safety = |key: &String| key.starts_with(META_SYSTEM_PREFIX);
    let stays = |(key, _): &(&String, &String)| !whole || is_safety(key);
    let mut after: Map =
        before.iter().filter(stays).map(|(key, value)| (key.clone(), value.clone())).collect();
    for (key, value) in change {
        if is_safety(key) && value.as_ref() != before.get(key) {
            let message = format!(
                "cannot change {key}: it says what Flynn may do with the app, and is given at creation"
            );
            return Err(Error::invalid("meta", message));
        }
        match value {
            Some(value) => drop(after.insert(key.clone(), value.clone())),
            None => drop(after.remove(key)),
        }
    }
    Ok(after)
}

/// A name for an app whose owner gave none, out of a random number.
pub(crate) fn name_of(random: u64) -> String {
    const FIRST: [&str; 16] = [
        "amber", "brave", "calm", "crisp", "eager", "fancy", "gentle", "golden", "happy", "jolly",
        "lucky", "misty", "quiet", "rapid", "silver", "sunny",
    ];
    const SECOND: [&str; 16] = [
        "badger", "brook", "cedar", "cloud", "falcon", "field", "forest", "harbor", "island",
        "meadow", "otter", "pine", "river", "stone", "summit", "willow",
    ];
    let pick = |words: [&'static str; 16], shift: u32| words[(random >> shift) as usize & 15];
    format!("{}-{}-{:05}", pick(FIRST, 60), pick(SECOND, 56), (random & 0xffff_ffff) % 100_000)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_words_joined_by_single_dashes() {
        for good in ["a", "my-app", "2048", "a-1-b", &"x".repeat(30)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "a--b", "A", "a_b", "a.b", "ä", &"x".repeat(31)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    fn meta(entries: &[(&str, &str)]) -> Map {
        entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_change_of_meta_leaves_the_rest_and_never_touches_what_keeps_flynn_safe() {
        let before = meta(&[("flynn-system-critical", "true"), ("a", "1"), ("b", "2")]);
        let change = |entries: &[(&str, Option<&str>)]| -> BTreeMap<_, _> {
            let owned =
                |(key, value): &(&str, Option<&str>)| ((*key).into(), value.map(Into::into));
            entries.iter().map(owned).collect()
        };
        let changed = changed_meta(&before, &change(&[("b", Some("3")), ("a", None)]), false);
        assert_eq!(changed.unwrap(), meta(&[("flynn-system-critical", "true"), ("b", "3")]));
        let whole = changed_meta(&before, &change(&[("c", Some("4"))]), true).unwrap();
        assert_eq!(whole, meta(&[("flynn-system-critical", "true"), ("c", "4")]));
        for bad in [Some("false"), None] {
            let change = change(&[("flynn-system-critical", bad)]);
            assert!(changed_meta(&before, &change, false).is_err());
        }
        let same = change(&[("flynn-system-critical", Some("true"))]);
        assert!(changed_meta(&before, &same, true).is_ok());
        let new = change(&[("flynn-system-app", Some("true"))]);
        assert!(changed_meta(&before, &new, false).is_err());
    }

    proptest! {
        #[test]
        fn a_drawn_name_is_a_name(random: u64) {
            prop_assert!(check_name(&name_of(random)).is_ok());
        }
    }
}
