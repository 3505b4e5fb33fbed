//! What an app may be called.

use crate::error::{Error, Result};

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

    proptest! {
        #[test]
        fn a_drawn_name_is_a_name(random: u64) {
            prop_assert!(check_name(&name_of(random)).is_ok());
        }
    }
}
