//! Command line and environment.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    time::Duration,
};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};

use crate::{
    domain::{garbage::Kept, manifest, net::Cidr},
    garbage::Rules,
    join::Invitation,
};

/// Runs the jobs of one host.
#[derive(Debug, Parser)]
#[command(name = "flynn-host", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Where the host keeps its things.
#[derive(Debug, Clone, Args)]
pub struct DataDir {
    /// Folder of everything that outlives a container.
    #[arg(long, env = "FLYNN_DATA_DIR", default_value = "/var/lib/flynn")]
    pub data_dir: PathBuf,
}

/// How a client command finds the daemon.
#[derive(Debug, Clone, Args)]
pub struct Client {
    /// Where the key is.
    #[command(flatten)]
    pub dir: DataDir,
    /// The host's API.
    #[arg(long, env = "FLYNN_HOST", default_value = "http://127.0.0.1:1113")]
    pub host: String,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Changes to the tags of a host.
#[derive(Debug, Clone, Subcommand)]
pub enum TagsChange {
    /// Sets tags. What runs by a value that a tag has no more is started elsewhere first.
    Set {
        /// The host's id.
        id: String,
        /// Tags with their values, as disk=ssd.
        #[arg(required = true, value_parser = tag)]
        tags: Vec<(String, String)>,
    },
    /// Takes tags away.
    Del {
        /// The host's id.
        id: String,
        /// Names of tags.
        #[arg(required = true, value_parser = tag_name)]
        tags: Vec<String>,
    },
}

fn tag_name(text: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if !(1..=63).contains(&text.len()) || !text.bytes().all(plain) {
        return Err("use letters, digits, dots, - and _, at most 63".into());
    }
    match text.starts_with("flynn-") {
        true => {
            Err("names that begin with flynn- are Flynn's own; to empty a host: flynn-host drain"
                .into())
        }
        false => Ok(text.into()),
    }
}

fn tag(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected a name and a value, as disk=ssd")?;
    Ok((tag_name(name)?, tag_name(value)?))
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Prepares this machine: chooses its id and the range of the job network, makes the cluster key.
    Init(Init),
    /// Makes this machine a host of a cluster there is: give it the invitation of one of its hosts.
    Join(Join),
    /// Makes an invitation: one machine may join with it, within a day.
    Invite(Client),
    /// Runs the host.
    Daemon(Box<Config>),
    /// Lists the hosts of the cluster.
    List(Client),
    /// Empties a host: what runs there is started elsewhere first. Nothing new is placed on it.
    Drain {
        /// The host's id.
        id: String,
        /// What is not gone after so long is stopped.
        #[arg(long, value_parser = humantime::parse_duration, default_value = "10m")]
        deadline: Duration,
        /// Let it be used again.
        #[arg(long)]
        undo: bool,
        /// The host that is asked.
        #[command(flatten)]
        client: Client,
    },
    /// Shows the tags of the hosts, or changes those of one: processes are placed by them (flynn scale web=3,disk=ssd).
    Tags {
        /// What to change.
        #[command(subcommand)]
        change: Option<TagsChange>,
        /// The host that is asked.
        #[command(flatten)]
        client: Client,
    },
    /// Takes a host out of the cluster: one that was drained, or is lost.
    Remove {
        /// The host's id.
        id: String,
        /// Although it runs something.
        #[arg(long)]
        force: bool,
        /// The host that is asked.
        #[command(flatten)]
        client: Client,
    },
    /// Makes etcd go on with this host's member alone, after the quorum of its members was lost for good.
    Recover {
        /// What the lost members knew and this one does not is given up.
        #[arg(long, required = true)]
        force: bool,
        /// The host that is asked.
        #[command(flatten)]
        client: Client,
    },
    /// Lists jobs that run.
    Ps {
        /// The ended ones too.
        #[arg(short, long)]
        all: bool,
        /// The host.
        #[command(flatten)]
        client: Client,
    },
    /// Shows all about a job.
    Inspect {
        /// The job.
        job: String,
        /// The host.
        #[command(flatten)]
        client: Client,
    },
    /// Shows a job's output.
    Log {
        /// The job.
        job: String,
        /// Go on with what comes.
        #[arg(short, long)]
        follow: bool,
        /// Only so many of the last lines.
        #[arg(short = 'n', long)]
        lines: Option<u32>,
        /// The host.
        #[command(flatten)]
        client: Client,
    },
    /// Stops jobs.
    Stop {
        /// The jobs.
        #[arg(required = true)]
        jobs: Vec<String>,
        /// The host.
        #[command(flatten)]
        client: Client,
    },
    /// Shows how the host is.
    Status(Client),
}

/// `flynn-host init`.
#[derive(Debug, Clone, Args)]
pub struct Init {
    /// Where the host keeps its things.
    #[command(flatten)]
    pub dir: DataDir,
    /// The host's id: small letters, digits and dashes. The machine's name if absent.
    #[arg(long, env = "FLYNN_HOST_ID")]
    pub id: Option<String>,
    /// Addresses for all jobs of the cluster; each host takes a /23 of it. Must not overlap a route of this machine.
    #[arg(long, env = "FLYNN_NETWORK_RANGE", default_value = "100.64.0.0/10")]
    pub network_range: Cidr,
    /// Name of the job network's bridge: its own route is no overlap.
    #[arg(long, env = "FLYNN_BRIDGE", default_value = "flynnbr0")]
    pub bridge: String,
    /// The host listens to no other, until `flynn-host invite` is run on it.
    #[arg(long)]
    pub alone: bool,
    /// Where the other hosts find this one. Found out at every start if absent, so that it may change.
    #[arg(long, env = "FLYNN_ADDR")]
    pub addr: Option<Ipv4Addr>,
    /// Port of the tunnel between hosts.
    #[arg(long, env = "FLYNN_TUNNEL_PORT", default_value_t = TUNNEL_PORT)]
    pub tunnel_port: u16,
    /// Port of etcd for its peers.
    #[arg(long, env = "FLYNN_ETCD_PEER_PORT", default_value_t = ETCD_PEER_PORT)]
    pub etcd_peer_port: u16,
}

/// Port of the tunnel between hosts.
pub(crate) const TUNNEL_PORT: u16 = 1114;
/// Port of etcd for its peers.
const ETCD_PEER_PORT: u16 = 2380;

/// `flynn-host join`.
#[derive(Debug, Clone, Args)]
pub struct Join {
    /// What `flynn-host init` or `flynn-host invite` printed after `join`.
    pub invitation: Invitation,
    /// Where the host keeps its things.
    #[command(flatten)]
    pub dir: DataDir,
    /// The host's id: small letters, digits and dashes. The machine's name if absent.
    #[arg(long, env = "FLYNN_HOST_ID")]
    pub id: Option<String>,
    /// Where the other hosts find this one. Found out at every start if absent, so that it may change.
    #[arg(long, env = "FLYNN_ADDR")]
    pub addr: Option<Ipv4Addr>,
    /// Name of the job network's bridge: its own route is no overlap.
    #[arg(long, env = "FLYNN_BRIDGE", default_value = "flynnbr0")]
    pub bridge: String,
    /// Port of the tunnel between hosts.
    #[arg(long, env = "FLYNN_TUNNEL_PORT", default_value_t = TUNNEL_PORT)]
    pub tunnel_port: u16,
}

/// `flynn-host daemon`. Every name can be set, so that two installations can be on one machine.
#[derive(Debug, Clone, Args)]
pub struct Config {
    /// Where the host keeps its things.
    #[command(flatten)]
    pub dir: DataDir,
    /// The engine's socket.
    #[arg(long, env = "FLYNN_DOCKER_SOCKET", default_value = "/var/run/docker.sock")]
    pub docker_socket: PathBuf,
    /// Containers are called `<prefix>-job-<id>`, `<prefix>-etcd`, `<prefix>-discoverd`.
    #[arg(long, env = "FLYNN_PREFIX", default_value = "flynn")]
    pub prefix: String,
    /// The engine's network for jobs.
    #[arg(long, env = "FLYNN_NETWORK", default_value = "flynn")]
    pub network: String,
    /// The bridge of that network.
    #[arg(long, env = "FLYNN_BRIDGE", default_value = "flynnbr0")]
    pub bridge: String,
    /// Largest packet on it; small enough for a tunnel between hosts.
    #[arg(long, env = "FLYNN_MTU", default_value_t = 1450)]
    pub mtu: u16,
    /// The chain of the packet filter that says what jobs may reach on the host.
    #[arg(long, env = "FLYNN_CHAIN", default_value = "FLYNN-INPUT")]
    pub chain: String,
    /// Port of the API, on 127.0.0.1 and on the bridge. 0 chooses one.
    #[arg(long, env = "FLYNN_HOST_PORT", default_value_t = 1113)]
    pub port: u16,
    /// Port of etcd.
    #[arg(long, env = "FLYNN_ETCD_PORT", default_value_t = 2379)]
    pub etcd_port: u16,
    /// Port of etcd for its peers.
    #[arg(long, env = "FLYNN_ETCD_PEER_PORT", default_value_t = ETCD_PEER_PORT)]
    pub etcd_peer_port: u16,
    /// Port of this host's own member of etcd, when the tunnel stands before it.
    #[arg(long, env = "FLYNN_ETCD_MEMBER_PORT", default_value_t = 2381)]
    pub etcd_member_port: u16,
    /// Port of the tunnel between hosts.
    #[arg(long, env = "FLYNN_TUNNEL_PORT", default_value_t = TUNNEL_PORT)]
    pub tunnel_port: u16,
    /// Port, on 127.0.0.1 and on the bridge, for what is meant for another host's daemons.
    #[arg(long, env = "FLYNN_REDIRECT_PORT", default_value_t = 1115)]
    pub redirect_port: u16,
    /// Port, on 127.0.0.1, behind which this host's discoverd finds one that watches etcd.
    #[arg(long, env = "FLYNN_RELAY_PORT", default_value_t = 1116)]
    pub relay_port: u16,
    /// The device that leads to other hosts' jobs.
    #[arg(long, env = "FLYNN_OVERLAY", default_value = "flynnvx0")]
    pub overlay: String,
    /// UDP port of the packets between hosts.
    #[arg(long, env = "FLYNN_VXLAN_PORT", default_value_t = 4789)]
    pub vxlan_port: u16,
    /// How long a member of etcd may be away before another host gets one in its place.
    #[arg(long, env = "FLYNN_MEMBER_PATIENCE", value_parser = humantime::parse_duration, default_value = "10m")]
    pub member_patience: Duration,
    /// Port of discoverd.
    #[arg(long, env = "FLYNN_DISCOVERD_PORT", default_value_t = 1111)]
    pub discoverd_port: u16,
    /// Port of discoverd's DNS, on the bridge.
    #[arg(long, env = "FLYNN_DNS_PORT", default_value_t = 53)]
    pub dns_port: u16,
    /// Port of the router's API, which jobs may reach.
    #[arg(long, env = "FLYNN_ROUTER_API_PORT", default_value_t = 5000)]
    pub router_api_port: u16,
    /// Ports of the router that everybody may reach.
    #[arg(long, env = "FLYNN_PUBLIC_PORTS", value_delimiter = ',', default_value = "80,443,2222")]
    pub public_ports: Vec<u16>,
    /// Where others find this host; the bridge's address if absent.
    #[arg(long, env = "EXTERNAL_IP")]
    pub external_ip: Option<IpAddr>,
    /// The host manifest; the built-in one if absent.
    #[arg(long, env = "FLYNN_HOST_MANIFEST")]
    pub manifest: Option<PathBuf>,
    /// Start no layer 0: etcd and discoverd are there already, at their ports on 127.0.0.1.
    #[arg(long, env = "FLYNN_NO_LAYER0")]
    pub no_layer0: bool,
    /// shelf's base URL; looked up in discoverd if absent.
    #[arg(long, env = "FLYNN_SHELF")]
    pub shelf: Option<String>,
    /// Least time before a freed address is given again.
    #[arg(long, env = "FLYNN_QUARANTINE", value_parser = humantime::parse_duration, default_value = "5m")]
    pub quarantine: Duration,
    /// Bytes of disk that stay free: below it no job is accepted but those the cluster needs.
    #[arg(long, env = "FLYNN_DISK_RESERVE", default_value_t = 1 << 30)]
    pub disk_reserve: u64,
    /// Times the machine's memory that jobs' limits may add up to: a limit is a cap, not a reservation.
    #[arg(long, env = "FLYNN_MEMORY_OVERCOMMIT", default_value_t = 4)]
    pub memory_overcommit: u64,
    /// How often what nobody uses any more is looked for.
    #[arg(long, env = "FLYNN_GARBAGE", value_parser = humantime::parse_duration, default_value = "1m")]
    pub garbage_every: Duration,
    /// Images of slugs that no job has, which are kept nevertheless.
    #[arg(long, env = "FLYNN_UNUSED_IMAGES", default_value_t = 50)]
    pub unused_images: usize,
    /// How long they are kept.
    #[arg(long, env = "FLYNN_UNUSED_IMAGE_AGE", value_parser = humantime::parse_duration, default_value = "14d")]
    pub unused_image_age: Duration,
    /// How long volumes that no job has are kept, however many, and whether disk is short or not. For ever if absent: they
    /// are data, and an app that is scaled to nothing may want it back.
    #[arg(long, env = "FLYNN_UNUSED_VOLUME_AGE", value_parser = humantime::parse_duration)]
    pub unused_volume_age: Option<Duration>,
    /// How often what a job has written outside its volumes is measured, if that costs the engine little.
    #[arg(long, env = "FLYNN_MEASURE", value_parser = humantime::parse_duration, default_value = "10s")]
    pub measured_every: Duration,
    /// CA bundle inside the images, given to every job as the file its TLS libraries trust.
    #[arg(long, env = "FLYNN_EXTRA_CA")]
    pub extra_ca: Option<String>,
    /// Ended jobs that are remembered.
    #[arg(long, env = "FLYNN_ENDED_JOBS", default_value_t = 100)]
    pub ended_jobs: usize,
    /// How long a process without a check must run before it counts as up.
    #[arg(long, env = "FLYNN_SETTLE", value_parser = humantime::parse_duration, default_value = "2s")]
    pub settle: Duration,
}

impl Config {
    /// The host manifest.
    pub(crate) fn manifest_text(&self) -> anyhow::Result<String> {
        match &self.manifest {
            Some(path) => std::fs::read_to_string(path)
                .with_context(|| format!("reading the host manifest {}", path.display())),
            None => Ok(manifest::BUILT_IN.into()),
        }
    }

    /// What is kept of what nobody uses.
    pub(crate) fn rules(&self) -> Rules {
        let (most, longest) = (self.unused_images, self.unused_image_age);
        let images = Kept { most, longest, when_short: false };
        let longest = self.unused_volume_age.unwrap_or(Duration::MAX);
        Rules { images, volumes: Kept { most: usize::MAX, longest, when_short: true } }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_daemon_needs_no_options() {
        let cli = Cli::try_parse_from(["flynn-host", "daemon"]).unwrap();
        let Command::Daemon(config) = cli.command else { panic!("{cli:?}") };
        assert_eq!((config.port, config.quarantine), (1113, Duration::from_secs(300)));
        assert_eq!(config.public_ports, [80, 443, 2222]);
    }
}
