//! The app's environment, as a build meets it.

use std::collections::BTreeMap;

/// Variables of a container that are not the app's.
const CONTAINERS: [&str; 8] = ["HOME", "HOSTNAME", "TERM", "PATH", "PWD", "OLDPWD", "SHLVL", "_"];
/// Variables that say how to build.
const OURS: [&str; 10] = [
    "APP_NAME",
    "SOURCE_VERSION",
    "BUILD_DIR",
    "WORK_DIR",
    "BUILDPACKS_DIR",
    "BUILD_TIMEOUT",
    "SLUG_LIMIT",
    "SLUG_UNPACKED_LIMIT",
    "CACHE_LIMIT",
    "STACK",
];

/// Without a cluster the app's environment is what the container was given with `docker run -e`.
pub fn of_container(
    variables: impl Iterator<Item = (String, String)>,
    passed_on: &[&str],
) -> BTreeMap<String, String> {
    let not_the_apps = |name: &str| {
        CONTAINERS.contains(&name) || OURS.contains(&name) || passed_on.contains(&name)
    };
    variables.filter(|(name, _)| !not_the_apps(name)).collect()
}

/// Whether the app says no to something that is otherwise done.
pub fn is_off(env: &BTreeMap<String, String>, name: &str) -> bool {
    let value = env.get(name).map(|value| value.trim().to_ascii_lowercase());
    value.is_some_and(|value| ["false", "0", "no", "off"].contains(&value.as_str()))
}

/// Whether a file can have the name of this variable. What cannot is no variable a buildpack could want.
pub fn is_file_name(name: &str) -> bool {
    !name.is_empty() && name.len() < 256 && !name.starts_with('.') && !name.contains(['/', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_container_has_of_itself_is_not_the_apps() {
        let all = [("HOME", "/app"), ("STACK", "x"), ("TZ", "UTC"), ("GREETING", "hi")];
        let all = all.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let env = of_container(all.into_iter(), &["TZ"]);
        assert_eq!(env.into_iter().collect::<Vec<_>>(), [("GREETING".into(), "hi".into())]);
    }

    #[test]
    fn off_is_said_in_several_ways() {
        let env = |value: &str| BTreeMap::from([("BUILD_CACHE".to_owned(), value.to_owned())]);
        for off in ["false", "0", "no", " OFF "] {
            assert!(is_off(&env(off), "BUILD_CACHE"), "{off}");
        }
        assert!(!is_off(&env("true"), "BUILD_CACHE") && !is_off(&env(""), "BUILD_CACHE"));
        assert!(!is_off(&BTreeMap::new(), "BUILD_CACHE"));
    }
}
