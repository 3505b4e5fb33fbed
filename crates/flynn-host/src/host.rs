//! What every part of the daemon can reach.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use api::cluster::Capacity;
use daemon::Lifetime;
use tokio::sync::Semaphore;

use crate::{
    backend::{
        engine::Engine, fetched::FetchedImages, named_user::NamedUsers, peers::Peers, slug::Slugs,
    },
    domain::net::Cidr,
    identity::{Folders, HostFile},
    jobs::{
        addresses::Addresses, announce::Announcer, deaths::Deaths, limits::Layers,
        registry::Registry,
    },
    terms::Terms,
    volumes::{Volumes, sizes::Sizes},
};

/// The host.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) settings: Settings,
    pub(crate) folders: Folders,
    pub(crate) file: Mutex<HostFile>,
    pub(crate) engine: Engine,
    pub(crate) slugs: Slugs,
    pub(crate) peers: Peers,
    /// Images that were pushed.
    pub(crate) fetched: FetchedImages,
    pub(crate) named_users: NamedUsers,
    pub(crate) volumes: Volumes,
    pub(crate) sizes: Sizes,
    /// Turns of the hosts that are given images.
    pub(crate) exports: Arc<Semaphore>,
    pub(crate) registry: Registry,
    pub(crate) addresses: Addresses,
    pub(crate) announcer: Announcer,
    pub(crate) deaths: Deaths,
    pub(crate) layers: Layers,
    pub(crate) terms: Terms,
    pub(crate) lifetime: Lifetime,
    /// Orders are accepted one by one, so that the same one twice at once is one.
    pub(crate) accepting: Arc<tokio::sync::Mutex<()>>,
}

/// What does not change while it runs.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) id: String,
    pub(crate) boot_id: String,
    pub(crate) subnet: Cidr,
    pub(crate) gateway: Ipv4Addr,
    pub(crate) external_ip: String,
    pub(crate) prefix: String,
    pub(crate) network: String,
    pub(crate) discoverd_port: u16,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) disk_reserve: u64,
    pub(crate) memory_overcommit: u64,
    pub(crate) ended_jobs: usize,
    pub(crate) settle: Duration,
}

impl Host {
    /// What this host offers to all its jobs together.
    pub(crate) fn capacity(&self) -> Capacity {
        let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let total = info.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kilobytes = total.and_then(|t| t.trim().trim_end_matches("kB").trim().parse().ok());
        let memory: u64 = kilobytes.map_or(1 << 30, |kilobytes: u64| kilobytes << 10);
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Capacity {
            memory: memory.saturating_mul(self.settings.memory_overcommit),
            cpu: cores as u64 * 1000,
            addresses: self.settings.subnet.room(),
        }
    }

    /// Bytes free where volumes and logs are, or where images and containers are, whatever is less: this daemon's own
    /// root is a container's.
    pub(crate) fn disk_free(&self) -> u64 {
        let free = |at: &Path| {
            rustix::fs::statvfs(at).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
        };
        free(self.folders.root()).min(free(Path::new("/")))
    }

    /// Whether so little disk is left that only jobs are taken that the cluster cannot do without.
    pub(crate) fn is_full(&self) -> bool {
        self.disk_free() < self.settings.disk_reserve
    }
    /// Whether it is time to throw away what is kept for convenience.
    pub(crate) fn is_short(&self) -> bool {
        self.disk_free() < self.settings.disk_reserve.saturating_mul(2)
    }
}
