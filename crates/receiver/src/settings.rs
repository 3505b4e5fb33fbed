//! What an app may set about its builds. Pure.

use std::collections::BTreeMap;

use api::{host::Limits, size};

/// Meta of the app, or else a variable of its environment: the memory of its builds.
const META_MEMORY: &str = "build-memory";
/// See [`META_MEMORY`].
const ENV_MEMORY: &str = "BUILD_MEMORY";
/// Least memory a build can do anything in.
const MEMORY_MIN: u64 = 256 << 20;
/// Most memory asked for: more is a slip of the pen.
const MEMORY_MAX: u64 = 1 << 40;
/// Bytes a build may write: source, dependencies, cache and slug are there at once.
const DISK: u64 = 12 << 30;
/// Weight of a build when cores are short: apps that serve, which have 1000, go first.
const CPU_WEIGHT: u32 = 250;

/// The memory of builds is set to what is no size of a memory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{place} is {text:?}, which is no memory a build can have: write a size from 256MB on, such as 2GB"
)]
pub struct BadMemory {
    place: &'static str,
    text: String,
}

/// What a build may use.
pub(crate) fn limits(
    meta: &BTreeMap<String, String>,
    env: &BTreeMap<String, String>,
) -> Result<Limits, BadMemory> {
    let limits = Limits { temp_disk: DISK, cpu: CPU_WEIGHT, ..Limits::default() };
    let set = meta
        .get(META_MEMORY)
        .map(|text| (META_MEMORY, text))
        .or_else(|| env.get(ENV_MEMORY).map(|text| (ENV_MEMORY, text)))
        .filter(|(_, text)| !text.trim().is_empty());
    let Some((place, text)) = set else { return Ok(limits) };
    let usable = size::parse(text).filter(|bytes| (MEMORY_MIN..=MEMORY_MAX).contains(bytes));
    let bad = || BadMemory { place, text: text.chars().take(40).collect() };
    usable.map(|memory| Limits { memory, ..limits }).ok_or_else(bad)
}

/// `first`, `second`, ... as people say it.
pub(crate) fn ordinal(place: u32) -> String {
    match place {
        1 => "first".into(),
        2 => "second".into(),
        3 => "third".into(),
        _ => {
            let ending = match (place % 100, place % 10) {
                (11..=13, _) => "th",
                (_, 1) => "st",
                (_, 2) => "nd",
                (_, 3) => "rd",
                _ => "th",
            };
            format!("{place}{ending}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(name.to_owned(), value.to_owned())])
    }

    #[test]
    fn memory_is_settable_and_builds_come_after_apps() {
        let none = BTreeMap::new();
        let limits_of = |meta: &BTreeMap<_, _>, env: &BTreeMap<_, _>| limits(meta, env);
        let plain = limits_of(&none, &none).unwrap();
        assert_eq!(plain.memory, Limits::default().memory);
        assert!(plain.cpu < Limits::default().cpu);
        let env = one(ENV_MEMORY, "3g");
        assert_eq!(limits_of(&none, &env).unwrap().memory, 3 << 30);
        assert_eq!(limits_of(&one(META_MEMORY, "512MB"), &env).unwrap().memory, 512 << 20);
        assert_eq!(limits_of(&one(META_MEMORY, ""), &none).unwrap(), plain);
        for bad in ["lots", "10MB", "9999T"] {
            let err = limits_of(&none, &one(ENV_MEMORY, bad)).unwrap_err().to_string();
            assert!(err.contains("BUILD_MEMORY") && err.contains("2GB"), "{err}");
        }
    }

    #[test]
    fn places_are_told_in_words() {
        let places = [1, 2, 3, 4, 11, 12, 21, 22, 33, 111];
        let told = places.map(ordinal);
        let told: Vec<_> = told.iter().map(String::as_str).collect();
        let words =
            ["first", "second", "third", "4th", "11th", "12th", "21st", "22nd", "33rd", "111th"];
        assert_eq!(told, words);
    }
}
