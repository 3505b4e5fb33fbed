//! What a release may hold.

use std::collections::BTreeMap;

use api::{
    controller::{NewRelease, ProcessType},
    host::{JobConfig, Volume},
    slug::check_type,
    validate,
};

use crate::error::{Error, Result};

/// Checks environment and process types.
pub(crate) fn check(release: &NewRelease) -> Result<()> {
    check_env("env", &release.env)?;
    check_meta(&release.meta)?;
    for (kind, process) in &release.processes {
        check_kind(kind)?;
        check_env("processes", &process.env)?;
        check_ports(kind, process)?;
        check_job(kind, process, &release.env)?;
    }
    Ok(())
}

/// Longest name of a service, `<app>-<type>` mostly: it is a label of a host name.
const LONGEST_SERVICE: usize = 63;

fn check_kind(kind: &str) -> Result<()> {
    check_type(kind).map_err(|bad| Error::invalid("processes", bad.to_string()))
}

/// Longest meta, names and values together: every event about an app or a release carries it.
const META_LEN_MAX: usize = 64 << 10;

/// Checks names, values and size of an app's or a release's meta.
pub(crate) fn check_meta(meta: &BTreeMap<String, String>) -> Result<()> {
    check_env("meta", meta)?;
    let size: usize = meta.iter().map(|(name, value)| name.len() + value.len()).sum();
    if size > META_LEN_MAX {
        let message = format!("is {size} bytes together, more than {META_LEN_MAX}");
        return Err(Error::invalid("meta", message));
    }
    Ok(())
}

/// Checks the names of variables. Values are never repeated in a message.
pub(crate) fn check_env(field: &'static str, env: &BTreeMap<String, String>) -> Result<()> {
    for (name, value) in env {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(Error::invalid(field, format!("has a variable of the name {name:?}")));
        }
        if value.contains('\0') {
            return Err(Error::invalid(field, format!("{name} holds a NUL character")));
        }
    }
    Ok(())
}

fn check_ports(kind: &str, process: &ProcessType) -> Result<()> {
    for port in &process.ports {
        if port.port == 0 {
            return Err(Error::invalid("processes", format!("{kind} has a port without a number")));
        }
        if port.service.as_ref().is_some_and(|service| !is_service(&service.name)) {
            let message = format!(
                "{kind} has a service whose name is not of lower-case letters, digits and dashes, at most {LONGEST_SERVICE}: \
                 choose a shorter or simpler type or service"
            );
            return Err(Error::invalid("processes", message));
        }
    }
    Ok(())
}

/// Checks what every host would refuse, and would be asked again and again.
fn check_job(kind: &str, process: &ProcessType, env: &BTreeMap<String, String>) -> Result<()> {
    let volume = |path: &String| Volume { name: "any".into(), path: path.clone(), shared: false };
    let config = JobConfig {
        env: env.iter().chain(&process.env).map(|(k, v)| (k.clone(), v.clone())).collect(),
        ports: process.ports.clone(),
        volumes: process.volumes.iter().map(|volume_of| volume(&volume_of.path)).collect(),
        linux_capabilities: process.linux_capabilities.clone(),
        stop_timeout_seconds: process.stop_timeout_seconds.unwrap_or(30),
        ..JobConfig::default()
    };
    let limits = process.limits.clone().unwrap_or_default();
    validate::check_process(&config, &limits).map_err(|invalid| {
        let field = invalid.field.trim_start_matches("config.");
        Error::invalid("processes", format!("{kind}: {field} {}", invalid.problem))
    })
}

fn is_service(name: &str) -> bool {
    (1..=LONGEST_SERVICE).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_without_a_name_is_refused_and_its_value_not_told() {
        let env = BTreeMap::from([(String::new(), "secret".to_owned())]);
        let message = check(&NewRelease { env, ..NewRelease::default() }).unwrap_err().to_string();
        assert!(!message.contains("secret"), "{message}");
    }

    #[test]
    fn a_service_whose_name_is_no_label_of_a_host_name_is_refused() {
        let release = |app: &str| {
            let process = api::expand::slug_process(app, "web");
            NewRelease { processes: [("web".to_owned(), process)].into(), ..NewRelease::default() }
        };
        assert!(check(&release(&"x".repeat(59))).is_ok());
        assert!(check(&release(&"x".repeat(60))).is_err());
        assert!(check(&release("API")).is_err());
    }

    #[test]
    fn what_no_host_would_run_is_refused_at_once() {
        let refused = |process: serde_json::Value| {
            let processes = serde_json::json!({ "processes": { "web": process } });
            check(&serde_json::from_value(processes).unwrap()).unwrap_err().to_string()
        };
        for (process, field) in [
            (serde_json::json!({ "limits": { "memory": 1 << 20 } }), "limits.memory"),
            (serde_json::json!({ "limits": { "temp_disk": 1 } }), "limits.temp_disk"),
            (serde_json::json!({ "limits": { "max_fd": 1 } }), "limits.max_fd"),
            (serde_json::json!({ "volumes": [{ "path": "/" }] }), "volumes.path"),
            (serde_json::json!({ "volumes": [{ "path": "../.." }] }), "volumes.path"),
            (
                serde_json::json!({ "volumes": [{ "path": "/d" }, { "path": "/d" }] }),
                "volumes.path",
            ),
            (serde_json::json!({ "linux_capabilities": ["SYS_ADMIN"] }), "linux_capabilities"),
            (serde_json::json!({ "stop_timeout_seconds": 1_000_000 }), "stop_timeout_seconds"),
            (serde_json::json!({ "ports": [{ "port": 80 }, { "port": 80 }] }), "ports"),
            (serde_json::json!({ "env": { "LONG": "x".repeat(200_000) } }), "env"),
        ] {
            let message = refused(process);
            assert!(message.contains("web: ") && message.contains(field), "{message}");
        }
    }

    #[test]
    fn a_meta_that_would_fill_every_event_is_refused() {
        let meta = |size| BTreeMap::from([("note".to_owned(), "x".repeat(size))]);
        assert!(check_meta(&meta(META_LEN_MAX - 4)).is_ok());
        assert!(check_meta(&meta(META_LEN_MAX - 3)).is_err());
    }

    #[test]
    fn a_type_with_a_slash_is_refused() {
        let processes = BTreeMap::from([("a/b".to_owned(), ProcessType::default())]);
        assert!(check(&NewRelease { processes, ..NewRelease::default() }).is_err());
    }
}
