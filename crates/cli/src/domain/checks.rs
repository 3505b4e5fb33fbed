//! Health checks of process types, as people write them.

use std::time::Duration;

use api::{
    controller::ProcessType,
    host::{HealthCheck, Port, Service},
};

/// What was typed cannot be the check of this process type.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CheckError {
    #[error(
        "process type {0:?} offers no service, so nothing is sent to it and there is nothing to check"
    )]
    NoService(String),
    #[error("process type {kind:?} offers no service at port {port}; its services are at: {ports}")]
    NoSuchPort { kind: String, port: u16, ports: String },
    #[error("a tcp check only connects: --path and --status go with http")]
    TcpAsksNothing,
    #[error("{0:?} cannot be the path of a check: it begins with / and holds no spaces")]
    BadPath(String),
    #[error("{0} is no status an app can answer with: it is one from 100 to 599")]
    BadStatus(u16),
    #[error("a start timeout is from 1 s to 24 h")]
    BadTimeout,
}

/// What shall become of a check; what is left out stays as it is.
#[derive(Debug, Clone, Default)]
pub(crate) struct CheckChange<'a> {
    pub(crate) kind: Option<&'a str>,
    pub(crate) path: Option<&'a str>,
    pub(crate) status: Option<u16>,
    pub(crate) kill_down: Option<bool>,
    pub(crate) start_timeout: Option<Duration>,
}

/// Changes the check of a process type, or, without a change, takes it away.
pub(crate) fn change(
    name: &str,
    process: &mut ProcessType,
    change: Option<&CheckChange<'_>>,
    port: Option<u16>,
) -> Result<(), CheckError> {
    let service = service(name, &mut process.ports, port)?;
    let Some(change) = change else {
        service.check = None;
        return Ok(());
    };
    let mut check = service.check.clone().unwrap_or_else(|| HealthCheck {
        kind: "tcp".into(),
        path: None,
        start_path: None,
        status: None,
        kill_down: false,
        start_timeout: 0,
    });
    if let Some(kind) = change.kind {
        kind.clone_into(&mut check.kind);
    }
    if check.kind == "tcp" {
        if change.path.is_some() || change.status.is_some() {
            return Err(CheckError::TcpAsksNothing);
        }
        (check.path, check.status) = (None, None);
    }
    if let Some(path) = change.path {
        if !path.starts_with('/') || path.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(CheckError::BadPath(path.into()));
        }
        check.path = Some(path.into());
    }
    if let Some(status) = change.status {
        if !(100..600).contains(&status) {
            return Err(CheckError::BadStatus(status));
        }
        check.status = Some(status);
    }
    if let Some(kill_down) = change.kill_down {
        check.kill_down = kill_down;
    }
    if let Some(timeout) = change.start_timeout {
        if !(1..=24 * 3600).contains(&timeout.as_secs()) {
            return Err(CheckError::BadTimeout);
        }
        check.start_timeout =
            u64::try_from(timeout.as_nanos()).map_err(|_| CheckError::BadTimeout)?;
    }
    service.check = Some(check);
    Ok(())
}

/// The service at a port, or the first of the process type.
fn service<'a>(
    name: &str,
    ports: &'a mut [Port],
    wanted: Option<u16>,
) -> Result<&'a mut Service, CheckError> {
    let offered: Vec<String> = ports
        .iter()
        .filter(|port| port.service.is_some())
        .map(|port| port.port.to_string())
        .collect();
    if offered.is_empty() {
        return Err(CheckError::NoService(name.into()));
    }
    let fits = |port: &&mut Port| {
        port.service.is_some() && wanted.is_none_or(|wanted| wanted == port.port)
    };
    let found = ports.iter_mut().find(fits).and_then(|port| port.service.as_mut());
    found.ok_or_else(|| CheckError::NoSuchPort {
        kind: name.into(),
        port: wanted.unwrap_or_default(),
        ports: offered.join(", "),
    })
}

/// The rows of `flynn check`: type, port, service, check.
pub(crate) fn rows(name: &str, process: &ProcessType) -> Vec<Vec<String>> {
    let row = |port: &Port| {
        let service = port.service.as_ref()?;
        let check = service.check.as_ref().map_or_else(|| "none".into(), shown);
        Some(vec![name.into(), port.port.to_string(), service.name.clone(), check])
    };
    process.ports.iter().filter_map(row).collect()
}

fn shown(check: &HealthCheck) -> String {
    let mut words = vec![check.kind.clone()];
    if check.kind == "http" {
        words.push(check.path.clone().unwrap_or_else(|| "/".into()));
        words.push(match check.status {
            Some(status) => format!("answers {status}"),
            None => "answers below 500".into(),
        });
    }
    let timeout = match check.start_timeout {
        0 => 60,
        nanos => nanos / 1_000_000_000,
    };
    words.push(format!("within {timeout}s"));
    if check.kill_down {
        words.push("killed when it fails".into());
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn web() -> ProcessType {
        api::expand::slug_process("myapp", "web")
    }

    fn said(process: &ProcessType) -> String {
        rows("web", process)[0][3].clone()
    }

    #[test]
    fn a_check_changes_in_what_is_said_and_stays_in_the_rest() {
        let mut process = web();
        assert_eq!(said(&process), "tcp within 60s");
        let http = CheckChange {
            kind: Some("http"),
            path: Some("/health"),
            status: Some(200),
            start_timeout: Some(Duration::from_secs(90)),
            ..CheckChange::default()
        };
        change("web", &mut process, Some(&http), None).unwrap();
        assert_eq!(said(&process), "http /health answers 200 within 90s");
        let kill = CheckChange { kill_down: Some(true), ..CheckChange::default() };
        change("web", &mut process, Some(&kill), Some(8080)).unwrap();
        assert_eq!(said(&process), "http /health answers 200 within 90s killed when it fails");
        let tcp = CheckChange { kind: Some("tcp"), ..CheckChange::default() };
        change("web", &mut process, Some(&tcp), None).unwrap();
        assert_eq!(said(&process), "tcp within 90s killed when it fails");
        change("web", &mut process, None, None).unwrap();
        assert_eq!(said(&process), "none");
    }

    #[test]
    fn a_check_that_cannot_be_is_refused() {
        let with = |edit: fn(&mut CheckChange<'static>)| {
            let mut wanted = CheckChange::default();
            edit(&mut wanted);
            change("web", &mut web(), Some(&wanted), None).unwrap_err().to_string()
        };
        assert!(
            with(|change| change.path = Some("/x")).contains("--path and --status go with http")
        );
        assert!(with(|c| (c.kind, c.path) = (Some("http"), Some("x"))).contains("begins with /"));
        assert!(with(|c| (c.kind, c.status) = (Some("http"), Some(42))).contains("100 to 599"));
        assert!(with(|c| c.start_timeout = Some(Duration::ZERO)).contains("1 s to 24 h"));
        let err = change("web", &mut web(), None, Some(9)).unwrap_err().to_string();
        assert!(err.contains("at port 9; its services are at: 8080"), "{err}");
        let mut worker = api::expand::slug_process("myapp", "worker");
        let err = change("worker", &mut worker, None, None).unwrap_err();
        assert_eq!(err, CheckError::NoService("worker".into()));
    }
}
