//! What a release may hold.

use std::collections::BTreeMap;

use api::{
    controller::{NewRelease, ProcessType},
    slug::check_type,
};

use crate::error::{Error, Result};

/// Checks environment and process types.
pub(crate) fn check(release: &NewRelease) -> Result<()> {
    check_env("env", &release.env)?;
    for (kind, process) in &release.processes {
        check_kind(kind)?;
        check_env("processes", &process.env)?;
        check_ports(kind, process)?;
    }
    Ok(())
}

/// Longest name of a service, `<app>-<type>` mostly: it is a label of a host name.
const LONGEST_SERVICE: usize = 63;

fn check_kind(kind: &str) -> Result<()> {
    check_type(kind).map_err(|bad| Error::invalid("processes", bad.to_string()))
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
    fn a_type_with_a_slash_is_refused() {
        let processes = BTreeMap::from([("a/b".to_owned(), ProcessType::default())]);
        assert!(check(&NewRelease { processes, ..NewRelease::default() }).is_err());
    }
}
