//! Environment variables of a release, and the release a change of them makes.

use std::collections::BTreeMap;

use api::controller::{NewRelease, Release};

use super::suggest::nearest;

/// What was typed cannot be done.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum EnvError {
    #[error("{0:?} is not of the form NAME=VALUE")]
    NotAPair(String),
    #[error(
        "{0:?} cannot be the name of a variable: it begins with a letter or `_`, and goes on with letters, digits and `_`"
    )]
    BadName(String),
    #[error("the release has no process type {kind:?}{}", hint(.nearest))]
    NoSuchType { kind: String, nearest: Option<String> },
}

fn hint(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!("; did you mean {name:?}?")).unwrap_or_default()
}

/// A change: what each variable becomes; `None` removes it.
pub(crate) type Change = BTreeMap<String, Option<String>>;

/// `NAME=VALUE` …; a value may hold anything, `=` included.
pub(crate) fn assignments(args: &[String]) -> Result<Change, EnvError> {
    args.iter()
        .map(|arg| {
            let (name, value) =
                arg.split_once('=').ok_or_else(|| EnvError::NotAPair(arg.clone()))?;
            Ok((checked(name)?, Some(value.to_owned())))
        })
        .collect()
}

/// Names to remove.
pub(crate) fn removals(args: &[String]) -> Result<Change, EnvError> {
    args.iter().map(|name| Ok((checked(name)?, None))).collect()
}

fn checked(name: &str) -> Result<String, EnvError> {
    let mut chars = name.chars();
    let first = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    let rest = chars.all(|c| c.is_ascii_alphanumeric() || c == '_');
    if first && rest { Ok(name.to_owned()) } else { Err(EnvError::BadName(name.into())) }
}

/// The environment of a release, or, of one of its types, what that type really gets.
pub(crate) fn of_release(
    release: &Release,
    kind: Option<&str>,
) -> Result<BTreeMap<String, String>, EnvError> {
    let mut env = release.env.clone();
    if let Some(kind) = kind {
        let process = release.processes.get(kind);
        env.extend(process.ok_or_else(|| no_such_type(release, kind))?.env.clone());
    }
    Ok(env)
}

/// The release that the change makes of this one, or `None` if it changes nothing.
pub(crate) fn changed(
    release: &Release,
    kind: Option<&str>,
    change: &Change,
) -> Result<Option<NewRelease>, EnvError> {
    let mut new = NewRelease {
        id: None,
        app_id: release.app_id,
        artifacts: release.artifacts.clone(),
        env: release.env.clone(),
        meta: release.meta.clone(),
        processes: release.processes.clone(),
    };
    let env = match kind {
        None => &mut new.env,
        Some(kind) => {
            let process = new.processes.get_mut(kind);
            &mut process.ok_or_else(|| no_such_type(release, kind))?.env
        }
    };
    let before = env.clone();
    for (name, value) in change {
        match value {
            Some(value) => env.insert(name.clone(), value.clone()),
            None => env.remove(name),
        };
    }
    Ok((*env != before).then_some(new))
}

fn no_such_type(release: &Release, kind: &str) -> EnvError {
    let nearest = nearest(kind, release.processes.keys().map(String::as_str));
    EnvError::NoSuchType { kind: kind.into(), nearest: nearest.map(str::to_owned) }
}

#[cfg(test)]
mod tests {
    use api::{controller::ProcessType, id::ReleaseId};
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;

    fn release(env: &[(&str, &str)]) -> Release {
        let map = |list: &[(&str, &str)]| {
            list.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect::<BTreeMap<_, _>>()
        };
        let web = ProcessType { env: map(&[("B", "web")]), ..ProcessType::default() };
        Release {
            id: ReleaseId::random(),
            app_id: None,
            artifacts: vec![],
            env: map(env),
            meta: BTreeMap::new(),
            processes: BTreeMap::from([("web".into(), web)]),
            created_at: Timestamp::UNIX_EPOCH,
        }
    }

    fn args(list: &[&str]) -> Vec<String> {
        list.iter().map(|&arg| arg.to_owned()).collect()
    }

    #[test]
    fn a_change_keeps_what_it_does_not_name() {
        let old = release(&[("A", "1"), ("B", "2")]);
        let change = assignments(&args(&["A=x=y", "C="])).unwrap();
        let new = changed(&old, None, &change).unwrap().unwrap();
        assert_eq!(new.env["A"], "x=y");
        assert_eq!(new.env["B"], "2");
        assert_eq!(new.env["C"], "");
        assert_eq!(new.processes, old.processes);
        let new = changed(&old, None, &removals(&args(&["A"])).unwrap()).unwrap().unwrap();
        assert!(!new.env.contains_key("A"));
    }

    #[test]
    fn a_change_that_changes_nothing_makes_no_release() {
        let old = release(&[("A", "1")]);
        for change in [assignments(&args(&["A=1"])), removals(&args(&["Z"]))] {
            assert_eq!(changed(&old, None, &change.unwrap()), Ok(None));
        }
    }

    #[test]
    fn a_type_has_the_release_s_environment_under_its_own() {
        let old = release(&[("A", "1"), ("B", "2")]);
        let env = of_release(&old, Some("web")).unwrap();
        assert_eq!((env["A"].as_str(), env["B"].as_str()), ("1", "web"));
        let change = assignments(&args(&["B=new"])).unwrap();
        let new = changed(&old, Some("web"), &change).unwrap().unwrap();
        assert_eq!(new.processes["web"].env["B"], "new");
        assert_eq!(new.env["B"], "2");
        let err = of_release(&old, Some("wbe")).unwrap_err();
        assert!(err.to_string().ends_with("did you mean \"web\"?"), "{err}");
    }

    #[test]
    fn names_that_no_shell_could_read_are_refused() {
        for arg in ["A", "=1", "1A=1", "A B=1", "A-B=1", "É=1"] {
            assert!(assignments(&args(&[arg])).is_err(), "{arg}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in ".{0,20}") {
            let _ = assignments(std::slice::from_ref(&text));
            let _ = removals(&[text]);
        }
    }
}
