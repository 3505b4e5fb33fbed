//! Limits of process types, as people write them.

use api::host::Limits;

use super::suggest::nearest;

/// The names a limit may be called by, in the order they are listed.
const NAMES: [&str; 5] = ["memory", "cpu", "temp_disk", "max_fd", "max_procs"];

/// What was typed is no limit.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LimitError {
    #[error("{0:?} is not of the form NAME=VALUE, as memory=512MB")]
    NotAPair(String),
    #[error("there is no limit {name:?}{}; there are: memory, cpu, temp_disk, max_fd, max_procs", hint(.nearest))]
    Unknown { name: String, nearest: Option<&'static str> },
    #[error("{value:?} is no size: write a number with B, KB, MB, GB or TB, as {name}=512MB")]
    NoSize { name: &'static str, value: String },
    #[error(
        "{value:?} is no number that {name} can have: it is a whole number from {least} to {most}"
    )]
    NoNumber { name: &'static str, value: String, least: u64, most: u64 },
}

fn hint(nearest: &Option<&'static str>) -> String {
    nearest.map(|name| format!(" (did you mean {name}?)")).unwrap_or_default()
}

/// The limits after the assignments `NAME=VALUE`; the value `default` takes a change back.
pub(crate) fn changed(mut limits: Limits, assignments: &[String]) -> Result<Limits, LimitError> {
    let default = Limits::default();
    for assignment in assignments {
        let pair = assignment.split_once('=');
        let (name, value) = pair.ok_or_else(|| LimitError::NotAPair(assignment.clone()))?;
        let reset = value == "default";
        match name {
            "memory" if reset => limits.memory = default.memory,
            "memory" => limits.memory = size("memory", value)?,
            "temp_disk" if reset => limits.temp_disk = default.temp_disk,
            "temp_disk" => limits.temp_disk = size("temp_disk", value)?,
            "cpu" if reset => limits.cpu = default.cpu,
            "cpu" => limits.cpu = number("cpu", value, 0, 1_000_000)?,
            "max_fd" if reset => limits.max_fd = default.max_fd,
            "max_fd" => limits.max_fd = number("max_fd", value, 1, 1_048_576)?,
            "max_procs" if reset => limits.max_procs = default.max_procs,
            "max_procs" => limits.max_procs = number("max_procs", value, 1, 4_194_304)?,
            _ => {
                let nearest = nearest(name, NAMES);
                return Err(LimitError::Unknown { name: name.into(), nearest });
            }
        }
    }
    Ok(limits)
}

/// Bytes; units are powers of 1024, however they are spelled.
fn size(name: &'static str, text: &str) -> Result<u64, LimitError> {
    api::size::parse(text).ok_or_else(|| LimitError::NoSize { name, value: text.into() })
}

fn number(name: &'static str, text: &str, least: u32, most: u32) -> Result<u32, LimitError> {
    let number = text.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| LimitError::NoNumber {
        name,
        value: text.into(),
        least: least.into(),
        most: most.into(),
    })
}

/// One row of `flynn limit`: `memory=1GB cpu=1000 temp_disk=1GB max_fd=10000 max_procs=1024`.
pub(crate) fn shown(limits: &Limits) -> String {
    let Limits { memory, cpu, max_procs, max_fd, temp_disk } = limits;
    let (memory, temp_disk) = (bytes(*memory), bytes(*temp_disk));
    format!("memory={memory} cpu={cpu} temp_disk={temp_disk} max_fd={max_fd} max_procs={max_procs}")
}

/// A size in the largest unit that says it exactly.
pub(crate) fn bytes(count: u64) -> String {
    let units = [(40, "TB"), (30, "GB"), (20, "MB"), (10, "KB")];
    let fits = |(power, _): &&(u32, &str)| count > 0 && count.is_multiple_of(1 << power);
    match units.iter().find(fits) {
        Some((power, unit)) => format!("{}{unit}", count >> power),
        None => format!("{count}B"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn change(words: &[&str]) -> Result<Limits, LimitError> {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        changed(Limits::default(), &words)
    }

    #[test]
    fn limits_are_set_one_by_one_and_taken_back() {
        let limits = change(&["memory=512MB", "cpu=250", "max_fd=20"]).unwrap();
        assert_eq!(shown(&limits), "memory=512MB cpu=250 temp_disk=1GB max_fd=20 max_procs=1024");
        let back = changed(limits, &["memory=default".into(), "cpu=default".into()]).unwrap();
        assert_eq!(back, Limits { max_fd: 20, ..Limits::default() });
    }

    #[test]
    fn what_is_no_limit_is_refused_with_what_to_write() {
        for (typed, said) in [
            ("memory", "NAME=VALUE"),
            ("memry=1GB", "did you mean memory?"),
            ("memory=lots", "memory=512MB"),
            ("memory=-1", "is no size"),
            ("memory=0", "is no size"),
            ("memory=99999999TB", "is no size"),
            ("cpu=1.5", "from 0 to 1000000"),
            ("max_procs=0", "from 1 to"),
        ] {
            let err = change(&[typed]).unwrap_err().to_string();
            assert!(err.contains(said), "{typed}: {err}");
        }
    }

    proptest! {
        #[test]
        fn a_size_that_is_shown_is_read_as_the_same(count in 1u64..) {
            prop_assert_eq!(size("memory", &bytes(count)), Ok(count));
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = changed(Limits::default(), &[text]);
        }
    }
}
