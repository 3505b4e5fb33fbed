//! Whether a job can be run as ordered. Said at once, with the field, instead of later by the engine: by the controller of
//! a release, by a host of a job.

use std::collections::BTreeSet;

use crate::{
    host::{HealthCheck, Job, JobConfig, Limits},
    reserved,
};

/// What containers of apps may be given: the engine's own default set without devices and raw packets, with which a job
/// could speak for its neighbours. None of them reaches past the container.
const CAPABILITIES: [&str; 12] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// Longest time a job may take to stop.
const LONGEST_STOP_SECONDS: u32 = 3600;
/// Longest name of a protocol that discoverd takes.
const LONGEST_PROTO: usize = 16;
/// The engine takes no less, and a process needs more.
const LEAST_MEMORY: u64 = 8 << 20;
/// Every process writes a little somewhere.
const LEAST_DISK: u64 = 1 << 20;
/// What the engine itself opens on the way to a process.
const LEAST_FILES: u32 = 16;
/// Longest environment: half of what Linux takes of arguments and environment together (a quarter of 8 MiB of stack).
const ENV_LEN_MAX: usize = 1 << 20;
/// Longest `NAME=value` that the kernel gives a process (`MAX_ARG_STRLEN`), without its end.
const ENTRY_LEN_MAX: usize = (128 << 10) - 1;

/// A field cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {problem}")]
pub struct Invalid {
    /// The field.
    pub field: &'static str,
    /// What is wrong with it, and what would be right.
    pub problem: String,
}

/// Checks everything that can be checked without the engine.
pub fn validate(job: &Job) -> Result<(), Invalid> {
    let bad = |field, problem: String| Err(Invalid { field, problem });
    if !is_image_name(&job.image) {
        return bad("image", "is missing, or is not an image's name".into());
    }
    if let Some(slug) = &job.slug {
        let digest = slug.sha256.len() == 64
            && slug.sha256.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if !digest || !slug.path.starts_with('/') {
            return bad("slug", "needs a path in shelf and 64 hex digits of SHA-256".into());
        }
    }
    check_process(&job.config, &job.limits)?;
    // What the platform consists of is what its hosts keep alive.
    let names = job.config.ports.iter().filter_map(|port| port.service.as_ref());
    match names.map(|service| &service.name).find(|name| !reserved::may_offer(name, job.resurrect))
    {
        None => Ok(()),
        Some(name) => bad(
            "config.ports.service.name",
            format!("{name:?} is reserved for the platform: give the service another name"),
        ),
    }
}

/// Checks what does not depend on whose process it is.
pub fn check_process(config: &JobConfig, limits: &Limits) -> Result<(), Invalid> {
    let bad = |field, problem: String| Err(Invalid { field, problem });
    if limits.memory < LEAST_MEMORY {
        return bad("limits.memory", format!("is below the least, {LEAST_MEMORY} bytes"));
    }
    if limits.temp_disk < LEAST_DISK {
        return bad("limits.temp_disk", format!("is below the least, {LEAST_DISK} bytes"));
    }
    if limits.max_procs == 0 {
        return bad("limits.max_procs", "leaves no process: it needs at least one".into());
    }
    if limits.max_fd < LEAST_FILES {
        return bad("limits.max_fd", format!("is below the least, {LEAST_FILES} open files"));
    }
    if config.stop_timeout_seconds > LONGEST_STOP_SECONDS {
        return bad("config.stop_timeout_seconds", format!("is above {LONGEST_STOP_SECONDS}"));
    }
    if let Some(key) = config.env.keys().find(|key| !env_name(key)) {
        return bad("config.env", format!("has a name that cannot be used: {key:?}"));
    }
    if let Some((key, _)) = config.env.iter().find(|(_, value)| value.contains('\0')) {
        return bad("config.env", format!("has a NUL byte in {key}"));
    }
    if let Some(cap) = config.linux_capabilities.iter().find(|cap| !capability(cap)) {
        return bad("config.linux_capabilities", format!("names {cap:?}, which jobs do not get"));
    }
    let too_long = |(key, value): &(&String, &String)| key.len() + 1 + value.len() > ENTRY_LEN_MAX;
    if let Some((key, _)) = config.env.iter().find(too_long) {
        let problem = format!("has {key}, which is longer than the 128 KiB a process can be given");
        return bad("config.env", problem);
    }
    let size: usize = config.env.iter().map(|(key, value)| key.len() + value.len() + 2).sum();
    if size > ENV_LEN_MAX {
        let problem =
            format!("is {size} bytes together, more than the {ENV_LEN_MAX} a process can have");
        return bad("config.env", problem);
    }
    let mut paths = BTreeSet::new();
    for volume in &config.volumes {
        if !paths.insert(&volume.path) {
            return bad("config.volumes.path", format!("{:?} is there twice", volume.path));
        }
        if !is_volume_name(&volume.name) {
            return bad("config.volumes.name", format!("{:?} is not a file name", volume.name));
        }
        let clean = volume.path.split('/').skip(1).all(|part| !matches!(part, "" | "." | ".."));
        if !volume.path.starts_with('/') || !clean {
            return bad("config.volumes.path", format!("{:?} is not a clean path", volume.path));
        }
    }
    check_ports(config)
}

fn check_ports(config: &JobConfig) -> Result<(), Invalid> {
    let bad = |field, problem: String| Err(Invalid { field, problem });
    let mut numbers = BTreeSet::new();
    for port in &config.ports {
        if !numbers.insert(port.port) {
            return bad("config.ports", format!("have the number {} twice", port.port));
        }
        let proto = (1..=LONGEST_PROTO).contains(&port.proto.len())
            && port.proto.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if port.port == 0 || !proto {
            return bad(
                "config.ports",
                format!("need a number above 0 and a proto of 1 to {LONGEST_PROTO} small letters"),
            );
        }
        let Some(service) = &port.service else { continue };
        if !service_name(&service.name) {
            return bad("config.ports.service.name", format!("{:?} is not a name", service.name));
        }
        if let Some(HealthCheck { kind, path, start_path, .. }) = &service.check {
            if !matches!(kind.as_str(), "tcp" | "http") {
                return bad("config.ports.service.check.type", "must be tcp or http".into());
            }
            if kind == "tcp" && start_path.is_some() {
                let problem = "is asked by a check of type http only".into();
                return bad("config.ports.service.check.start_path", problem);
            }
            if [path, start_path].into_iter().flatten().any(|path| !path.starts_with('/')) {
                return bad("config.ports.service.check.path", "must begin with a slash".into());
            }
        }
    }
    Ok(())
}

/// Whether a text may be an image's name or id: it becomes part of paths.
pub fn is_image_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-/:@".contains(&b);
    let parts = || name.split('/').all(|part| !part.is_empty() && !part.starts_with(['.', '-']));
    name.len() <= 500 && name.bytes().all(plain) && parts()
}

fn capability(name: &str) -> bool {
    CAPABILITIES.contains(&name.strip_prefix("CAP_").unwrap_or(name))
}

fn env_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0'])
}

/// Whether a text may be a volume's name: it is a folder's.
pub fn is_volume_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    !name.is_empty() && name.len() <= 200 && !name.starts_with('.') && name.bytes().all(plain)
}

fn service_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !name.is_empty() && name.len() <= 100 && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::id::JobId;

    fn field(patch: serde_json::Value) -> Option<&'static str> {
        let mut job = json!({ "id": JobId::random(), "image": "flynn/test" });
        job.as_object_mut().unwrap().extend(patch.as_object().unwrap().clone());
        let job: Job = serde_json::from_value(job).unwrap();
        validate(&job).err().map(|invalid| invalid.field)
    }

    #[test]
    fn a_service_of_the_platform_is_for_jobs_of_the_platform() {
        let offers = |name: &str, resurrect: bool| {
            let service = json!({ "port": 8080, "service": { "name": name } });
            field(json!({ "config": { "ports": [service] }, "resurrect": resurrect }))
        };
        let refused = Some("config.ports.service.name");
        assert_eq!(offers("flynn-host", false), refused);
        assert_eq!(offers("flynn-host", true), refused);
        assert_eq!(offers("controller", false), refused);
        assert_eq!(offers("controller", true), None);
        assert_eq!(offers("node-demo-web", false), None);
    }

    #[test]
    fn a_plain_job_is_fine() {
        assert_eq!(field(json!({})), None);
        for image in ["busybox", "flynn/a:1", "localhost:5000/a/b@sha256:0a"] {
            assert_eq!(field(json!({ "image": image })), None, "{image}");
        }
        assert_eq!(
            field(json!({ "config": { "linux_capabilities": ["CAP_NET_BIND_SERVICE"] } })),
            None
        );
    }

    #[test]
    fn what_cannot_be_run_is_refused_by_field() {
        let config = |config: serde_json::Value| field(json!({ "config": config }));
        for image in ["", "-rm", "../containers", "a//b", "a b", "a?b", "/a"] {
            assert_eq!(field(json!({ "image": image })), Some("image"), "{image}");
        }
        assert_eq!(field(json!({ "slug": { "path": "/x", "sha256": "../.." } })), Some("slug"));
        assert_eq!(field(json!({ "limits": { "memory": 1 } })), Some("limits.memory"));
        assert_eq!(config(json!({ "env": { "A=B": "" } })), Some("config.env"));
        assert_eq!(field(json!({ "limits": { "temp_disk": 0 } })), Some("limits.temp_disk"));
        // 0 would be no limit to the engine.
        assert_eq!(field(json!({ "limits": { "max_procs": 0 } })), Some("limits.max_procs"));
        assert_eq!(field(json!({ "limits": { "max_fd": 1 } })), Some("limits.max_fd"));
        assert_eq!(
            config(json!({ "linux_capabilities": ["SYS_ADMIN"] })),
            Some("config.linux_capabilities")
        );
        for name in ["..", "a/b", "", ".hidden"] {
            let volume = json!({ "volumes": [{ "name": name, "path": "/data" }] });
            assert_eq!(config(volume), Some("config.volumes.name"), "{name}");
        }
        for path in ["data", "/", "/a/../b"] {
            let volume = json!({ "volumes": [{ "name": "a", "path": path }] });
            assert_eq!(config(volume), Some("config.volumes.path"), "{path}");
        }
        assert_eq!(config(json!({ "ports": [{ "port": 0 }] })), Some("config.ports"));
        for (length, refused) in [(16, None), (17, Some("config.ports"))] {
            let port = json!({ "port": 80, "proto": "p".repeat(length) });
            assert_eq!(config(json!({ "ports": [port] })), refused, "{length}");
        }
    }
}
