//! What the router takes on at once, as it is configured and as its process allows.

use std::{fs, num::NonZeroU32};

use clap::Args;
use rustix::process::{Resource, getrlimit};

use crate::domain::limits::Limits;

/// Where a container is told how much memory it may use: a number of bytes, or `max`.
const MEMORY_LIMIT_PATH: &str = "/sys/fs/cgroup/memory.max";

/// Limits that an operator may set.
#[derive(Debug, Clone, Args)]
pub struct LimitConfig {
    /// Connections that all clients together may have; what the process's descriptors and memory allow if absent.
    #[arg(long, env = "CONNECTIONS_MAX")]
    pub connections_max: Option<NonZeroU32>,
    /// Connections that one client address may have. It never gets more than are free for others.
    #[arg(long, env = "CLIENT_CONNECTIONS_MAX")]
    pub client_connections_max: Option<NonZeroU32>,
    /// Requests, and connections of other protocols, that may be under way to backends; as above if absent.
    #[arg(long, env = "REQUESTS_MAX")]
    pub requests_max: Option<NonZeroU32>,
    /// Seconds an app has for the first byte of its answer, from the end of the request on.
    #[arg(long, env = "ANSWER_TIMEOUT", default_value = "600")]
    pub answer_timeout: NonZeroU32,
}

impl Default for LimitConfig {
    fn default() -> Self {
        Self {
            connections_max: None,
            client_connections_max: None,
            requests_max: None,
            answer_timeout: NonZeroU32::MIN.saturating_add(599),
        }
    }
}

impl LimitConfig {
    /// The limits in force.
    pub(crate) fn limits(&self) -> Limits {
        let Limits { connections, requests } =
            Limits::of(getrlimit(Resource::Nofile).current, memory_limit());
        Limits {
            connections: self.connections_max.map_or(connections, NonZeroU32::get),
            requests: self.requests_max.map_or(requests, NonZeroU32::get),
        }
    }

    /// Most connections that one client has.
    pub(crate) fn of_client(&self) -> u32 {
        self.client_connections_max.map_or(u32::MAX, NonZeroU32::get)
    }
}

fn memory_limit() -> Option<u64> {
    fs::read_to_string(MEMORY_LIMIT_PATH).ok()?.trim().parse().ok()
}
