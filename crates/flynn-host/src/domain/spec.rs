//! From a job to the container that runs it: no choice is left to the engine.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use api::host::{Job, JobConfig, Limits};
use bollard::models::{
    ContainerCreateBody, EndpointIpamConfig, EndpointSettings, HostConfig, HostConfigLogConfig,
    Mount, MountType, MountVolumeOptions, MountVolumeOptionsDriverConfig, NetworkingConfig,
    ResourcesUlimits,
};

use super::users;

/// Label: the job's id.
pub(crate) const LABEL_JOB: &str = "flynn.job";
/// Label: the host's id.
pub(crate) const LABEL_HOST: &str = "flynn.host";
/// Label: the job as JSON, and what the host decided: see `jobs::journal::Entry`.
pub(crate) const LABEL_ENTRY: &str = "flynn.entry";

/// The port a job without any is told, so that a web process can be tried out as a one-off job.
const DEFAULT_PORT: u16 = 8080;
/// Where files go that nobody keeps.
const TMP: &str = "/tmp";

/// What the host decides about a container.
#[derive(Debug, Clone)]
pub(crate) struct Place<'a> {
    /// The host's id.
    pub(crate) host_id: &'a str,
    /// The job network; `None` for the host's own.
    pub(crate) network: Option<(&'a str, Ipv4Addr)>,
    /// Where jobs find the host.
    pub(crate) gateway: Ipv4Addr,
    /// Where others find the host.
    pub(crate) external_ip: &'a str,
    /// Port of discoverd.
    pub(crate) discoverd_port: u16,
    /// Folder of the volumes.
    pub(crate) volumes: &'a Path,
    /// Id of the image.
    pub(crate) image: &'a str,
    /// Most open files a process may have here: the engine may raise nothing above its own limit.
    pub(crate) most_files: u32,
    /// User the image asks for.
    pub(crate) image_user: &'a str,
    /// Folders the image wants besides its layers, and where they are on the host: see [`scratch`].
    pub(crate) scratch: &'a [(String, PathBuf)],
    /// Environment for every job (certificates of a proxy's CA).
    pub(crate) env: &'a BTreeMap<String, String>,
    /// The journal's entry, as JSON.
    pub(crate) entry: String,
}

/// Where a volume is on the host.
pub(crate) fn volume_dir(volumes: &Path, name: &str) -> PathBuf {
    volumes.join(name)
}

/// Where the folders are that a job's image wants besides its layers (`VOLUME`), those apart that are volumes of the job's.
/// The engine's own volumes would be anywhere and as large as they like; these count as what the job writes.
pub(crate) fn scratch(job: &Job, wanted: &[String], folder: &Path) -> Vec<(String, PathBuf)> {
    let plain = |path: &str| format!("/{}", path.trim_matches('/'));
    let own: BTreeSet<String> = job.config.volumes.iter().map(|v| plain(&v.path)).collect();
    let wanted: BTreeSet<String> = wanted.iter().map(|path| plain(path)).collect();
    let rest = wanted.difference(&own).enumerate();
    rest.map(|(n, path)| (path.clone(), folder.join(n.to_string()))).collect()
}

/// The container of a job.
pub(crate) fn container(job: &Job, place: &Place<'_>) -> ContainerCreateBody {
    let config = &job.config;
    let labels = HashMap::from([
        (LABEL_JOB.to_owned(), job.id.to_string()),
        (LABEL_HOST.to_owned(), place.host_id.to_owned()),
        (LABEL_ENTRY.to_owned(), place.entry.clone()),
    ]);
    ContainerCreateBody {
        image: Some(place.image.into()),
        // On the host's network the host's name is the container's.
        hostname: place.network.map(|_| job.id.to_string()[..12].to_owned()),
        user: users::of_job(job, place.image_user).map(|user| format!("{user}:{user}")),
        entrypoint: config.entrypoint.clone(),
        cmd: Some(config.args.clone()).filter(|args| !args.is_empty()),
        env: Some(environment(job, place)),
        labels: Some(labels),
        tty: Some(config.tty),
        open_stdin: Some(config.stdin),
        stdin_once: Some(config.stdin),
        attach_stdin: Some(config.stdin),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        host_config: Some(host_config(job, place)),
        networking_config: place.network.map(|(name, address)| NetworkingConfig {
            endpoints_config: Some(HashMap::from([(name.to_owned(), endpoint(address))])),
        }),
        ..ContainerCreateBody::default()
    }
}

fn endpoint(address: Ipv4Addr) -> EndpointSettings {
    let ipv4_address = Some(address.to_string());
    EndpointSettings {
        ipam_config: Some(EndpointIpamConfig { ipv4_address, ..EndpointIpamConfig::default() }),
        ..EndpointSettings::default()
    }
}

/// What a job sees. The host's own variables win: a process that listens elsewhere than it is told cannot be reached.
fn environment(job: &Job, place: &Place<'_>) -> Vec<String> {
    let config = &job.config;
    let discoverd = match place.network {
        Some(_) => place.gateway,
        None => Ipv4Addr::LOCALHOST,
    };
    let mut env = place.env.clone();
    env.insert("DISCOVERD".into(), format!("http://{discoverd}:{}", place.discoverd_port));
    env.insert("EXTERNAL_IP".into(), place.external_ip.into());
    if place.network.is_none() {
        // Where its own API can be reached by jobs.
        env.insert("FLYNN_GATEWAY".into(), place.gateway.to_string());
    }
    env.insert("PORT".into(), DEFAULT_PORT.to_string());
    env.extend(config.env.clone());
    for (n, port) in config.ports.iter().enumerate() {
        env.insert(format!("PORT_{n}"), port.port.to_string());
    }
    if let Some(first) = config.ports.first() {
        env.insert("PORT".into(), first.port.to_string());
    }
    env.insert("FLYNN_JOB_ID".into(), job.id.to_string());
    env.insert("FLYNN_HOST_ID".into(), place.host_id.into());
    env.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// Whether a job's container is to be given a folder for temporary files: it is on disk, within `temp_disk`, as all it
/// writes outside volumes. Images that are built here have one.
pub(crate) fn lacks_tmp(job: &Job) -> bool {
    let its_own = job.config.volumes.iter().any(|volume| volume.path == TMP);
    job.slug.is_none() && !its_own && !job.image.starts_with("flynn/")
}

/// How much of a job's memory may be files.
fn in_memory(limits: &Limits) -> u64 {
    limits.memory / 2
}

fn host_config(job: &Job, place: &Place<'_>) -> HostConfig {
    let config = &job.config;
    let limits = &job.limits;
    let memory = i64::try_from(limits.memory).unwrap_or(i64::MAX);
    let mounts = config.volumes.iter().map(|volume| Mount {
        typ: Some(MountType::BIND),
        source: Some(volume_dir(place.volumes, &volume.name).display().to_string()),
        target: Some(volume.path.clone()),
        ..Mount::default()
    });
    let mounts = mounts.chain(place.scratch.iter().map(|(path, folder)| at_host(path, folder)));
    let network = place.network.map_or("host", |(name, _)| name);
    HostConfig {
        network_mode: Some(network.into()),
        memory: Some(memory),
        memory_swap: Some(memory),
        cpu_shares: (limits.cpu > 0).then(|| (i64::from(limits.cpu) * 1024 / 1000).max(2)),
        shm_size: i64::try_from(in_memory(limits)).ok(),
        pids_limit: Some(i64::from(limits.max_procs)),
        // When the host itself is short of memory, apps and builds go before what the cluster cannot do without.
        oom_score_adj: (!job.resurrect).then_some(500),
        ulimits: Some(vec![files(limits.max_fd.min(place.most_files))]),
        cap_drop: Some(vec!["ALL".into()]),
        cap_add: Some(config.linux_capabilities.clone()),
        // A file capability has no effect under it.
        security_opt: config
            .linux_capabilities
            .is_empty()
            .then(|| vec!["no-new-privileges:true".into()]),
        init: Some(false),
        mounts: Some(mounts.collect()),
        dns: Some(vec![place.gateway.to_string()]),
        // Else the host's own search list makes every look-up several.
        dns_search: Some(vec![".".into()]),
        log_config: Some(engine_log()),
        console_size: console_size(config),
        ..HostConfig::default()
    }
}

/// The terminal's first size, `[height, width]`; engines before API 1.42 do not obey it.
fn console_size(config: &JobConfig) -> Option<Vec<usize>> {
    let number = |name| config.env.get(name)?.parse().ok();
    Some(vec![number("LINES")?, number("COLUMNS")?]).filter(|_| config.tty)
}

/// A volume of the engine's that is a folder of the host: unlike a folder that is mounted, it begins with what the image
/// has there, and belongs to whom it belongs there.
fn at_host(path: &str, folder: &Path) -> Mount {
    let folder = folder.display().to_string();
    let options = [("type", "none"), ("o", "bind"), ("device", folder.as_str())];
    let driver = MountVolumeOptionsDriverConfig {
        name: Some("local".into()),
        options: Some(options.map(|(name, value)| (name.into(), value.into())).into()),
    };
    Mount {
        typ: Some(MountType::VOLUME),
        target: Some(path.into()),
        volume_options: Some(MountVolumeOptions {
            driver_config: Some(driver),
            ..MountVolumeOptions::default()
        }),
        ..Mount::default()
    }
}

/// A limit on open files.
pub(crate) fn files(count: u32) -> ResourcesUlimits {
    let count = Some(i64::from(count));
    ResourcesUlimits { name: Some("nofile".into()), soft: count, hard: count }
}

/// The engine's own log is read only after this daemon was away, so it may be short.
pub(crate) fn engine_log() -> HostConfigLogConfig {
    let config = [("max-size", "10m"), ("max-file", "2")];
    HostConfigLogConfig {
        typ: Some("json-file".into()),
        config: Some(config.map(|(name, value)| (name.into(), value.into())).into()),
    }
}

#[cfg(test)]
mod tests {
    use api::id::JobId;
    use serde_json::json;

    use super::*;

    fn spec(config: serde_json::Value, user: &str) -> ContainerCreateBody {
        let host_network = config["host_network"] == true;
        let job = json!({ "id": JobId::random(), "image": "flynn/test", "config": config });
        let job: Job = serde_json::from_value(job).unwrap();
        let env = BTreeMap::from([("SSL_CERT_FILE".to_owned(), "/ca".to_owned())]);
        let network = (!host_network).then_some(("flynn", Ipv4Addr::new(100, 64, 0, 9)));
        container(
            &job,
            &Place {
                host_id: "h1",
                network,
                gateway: Ipv4Addr::new(100, 64, 0, 1),
                external_ip: "192.0.2.1",
                discoverd_port: 1111,
                volumes: Path::new("/var/lib/flynn/volumes"),
                image: "sha256:1",
                most_files: 4096,
                image_user: user,
                scratch: &[],
                env: &env,
                entry: "{}".into(),
            },
        )
    }

    fn env(spec: &ContainerCreateBody, name: &str) -> Option<String> {
        let env = spec.env.as_ref().unwrap().iter();
        env.filter_map(|pair| pair.split_once('=')).find(|(n, _)| *n == name).map(|(_, v)| v.into())
    }

    #[test]
    fn a_terminal_has_its_size_from_the_first_moment() {
        let size = |tty: bool, env| {
            let spec = spec(json!({ "tty": tty, "env": env }), "");
            spec.host_config.unwrap().console_size
        };
        let env = json!({ "LINES": "37", "COLUMNS": "111" });
        assert_eq!(size(true, env.clone()), Some(vec![37, 111]));
        assert_eq!(size(false, env), None);
        assert_eq!(size(true, json!({ "LINES": "many", "COLUMNS": "111" })), None);
    }

    #[test]
    fn a_job_is_told_where_to_listen_whatever_its_release_says() {
        let spec = spec(
            json!({ "ports": [{ "port": 3000 }, { "port": 3001 }], "env": { "PORT": "1", "A": "b" } }),
            "flynn",
        );
        assert_eq!(env(&spec, "PORT").as_deref(), Some("3000"));
        assert_eq!(env(&spec, "PORT_1").as_deref(), Some("3001"));
        assert_eq!(env(&spec, "A").as_deref(), Some("b"));
        assert_eq!(env(&spec, "SSL_CERT_FILE").as_deref(), Some("/ca"));
        assert_eq!(env(&spec, "DISCOVERD").as_deref(), Some("http://100.64.0.1:1111"));
    }

    #[test]
    fn a_container_has_no_privileges_and_limits_on_everything() {
        let spec = spec(json!({ "volumes": [{ "name": "pg-data", "path": "/data" }] }), "");
        let user = spec.user.unwrap();
        let (user, group) = user.split_once(':').unwrap();
        assert!(user == group && user.parse::<u32>().unwrap() > users::LAYER0);
        let host = spec.host_config.unwrap();
        assert_eq!(host.cap_drop.unwrap(), ["ALL"]);
        assert_eq!(host.security_opt.unwrap(), ["no-new-privileges:true"]);
        assert_eq!((host.memory, host.memory_swap), (Some(1 << 30), Some(1 << 30)));
        assert_eq!(host.pids_limit, Some(1024));
        assert_eq!(host.shm_size, Some(512 << 20));
        assert_eq!(host.tmpfs, None, "temporary files are on disk");
        assert_eq!(host.ulimits.unwrap()[0].hard, Some(4096));
        assert_eq!(host.privileged, None);
        let mount = &host.mounts.unwrap()[0];
        assert_eq!(mount.source.as_deref(), Some("/var/lib/flynn/volumes/pg-data"));
        let endpoints = spec.networking_config.unwrap().endpoints_config.unwrap();
        let address = endpoints["flynn"].ipam_config.as_ref().unwrap().ipv4_address.clone();
        assert_eq!(address.as_deref(), Some("100.64.0.9"));
    }

    #[test]
    fn folders_that_an_image_wants_are_the_hosts_unless_they_are_volumes_of_the_job() {
        let config = json!({ "volumes": [{ "name": "d", "path": "/data" }] });
        let job = json!({ "id": JobId::random(), "image": "redis", "config": config });
        let job: Job = serde_json::from_value(job).unwrap();
        let wanted = ["/data/", "/logs", "/logs/", "/cache"].map(str::to_owned);
        let folders = scratch(&job, &wanted, Path::new("/s"));
        let want = [("/cache", "/s/0"), ("/logs", "/s/1")];
        assert_eq!(folders, want.map(|(path, folder)| (path.into(), folder.into())));
        let mount = at_host("/cache", Path::new("/s/0"));
        let driver = mount.volume_options.unwrap().driver_config.unwrap();
        assert_eq!(driver.options.unwrap()["device"], "/s/0");
    }

    #[test]
    fn a_job_that_has_a_volume_at_tmp_keeps_it() {
        let job = |image: &str, volumes: serde_json::Value| -> Job {
            let config = json!({ "volumes": volumes });
            let job = json!({ "id": JobId::random(), "image": image, "config": config });
            serde_json::from_value(job).unwrap()
        };
        assert!(lacks_tmp(&job("redis", json!([]))));
        assert!(!lacks_tmp(&job("redis", json!([{ "name": "tmp", "path": "/tmp" }]))));
        assert!(!lacks_tmp(&job("flynn/shelf", json!([]))));
    }

    #[test]
    fn a_job_on_the_hosts_network_has_no_name_and_no_address_of_its_own() {
        let spec = spec(
            json!({ "host_network": true, "linux_capabilities": ["NET_BIND_SERVICE"] }),
            "flynn",
        );
        assert_eq!(env(&spec, "DISCOVERD").as_deref(), Some("http://127.0.0.1:1111"));
        assert_eq!((spec.hostname, spec.networking_config), (None, None));
        let host = spec.host_config.unwrap();
        assert_eq!(host.network_mode.as_deref(), Some("host"));
        assert_eq!(host.security_opt, None);
    }
}
