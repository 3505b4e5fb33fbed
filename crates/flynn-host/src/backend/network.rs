//! The job network: the engine's bridge, the route that refuses what nobody has, the packet filter.

use std::{collections::HashMap, io, net::Ipv4Addr, process::Stdio, time::Duration};

use bollard::{
    models::{Ipam, IpamConfig, Network, NetworkCreateRequest},
    query_parameters::ListNetworksOptionsBuilder,
};
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

use super::engine::{Engine, EngineError, of};
use crate::domain::{
    firewall::{self, Ports},
    net::Cidr,
};

/// Longest time a command may take; the packet filter's lock may be held by others.
const COMMAND: Duration = Duration::from_secs(20);
const BRIDGE_NAME: &str = "com.docker.network.bridge.name";
const BRIDGE_MTU: &str = "com.docker.network.driver.mtu";

/// The job network as it should be.
#[derive(Debug, Clone)]
pub(crate) struct JobNetwork {
    /// The engine's name for it.
    pub(crate) name: String,
    /// The bridge.
    pub(crate) bridge: String,
    /// Largest packet.
    pub(crate) mtu: u16,
    /// The cluster's range.
    pub(crate) range: Cidr,
    /// The host's part.
    pub(crate) subnet: Cidr,
    /// The packet filter's chain.
    pub(crate) chain: String,
    /// What jobs may reach.
    pub(crate) ports: Ports,
}

/// The network is not as it should be and could not be made so.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// There are several of that name.
    #[error(
        "the engine has {count} networks called {name}; remove all but the one with bridge {bridge} \
         (`docker network ls`, `docker network rm ID`)"
    )]
    Doubled {
        /// The name.
        name: String,
        /// How many.
        count: usize,
        /// The bridge of the right one.
        bridge: String,
    },
    /// There is another of that name.
    #[error(
        "the engine's network {name} has {is}, not {wanted}; remove it (`docker network rm {name}`) \
         or give this host another --network"
    )]
    Different {
        /// The name.
        name: String,
        /// What it has.
        is: String,
        /// What it should have.
        wanted: String,
    },
    /// A command could not be run.
    #[error("{command} could not be run; is it installed?")]
    Run {
        /// The command.
        command: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A command failed.
    #[error("{command} failed: {said}")]
    Failed {
        /// The command.
        command: String,
        /// Its stderr.
        said: String,
    },
}

impl JobNetwork {
    /// The host's address on it.
    pub(crate) fn gateway(&self) -> Ipv4Addr {
        self.subnet.gateway()
    }

    /// Makes everything be as it should be; doing it again changes nothing.
    pub(crate) async fn ensure(&self, engine: &Engine) -> Result<(), NetworkError> {
        self.ensure_bridge(engine).await?;
        // A range that is one host's subnet has nothing outside it, and the route would take the bridge's own place.
        if self.range != self.subnet {
            run("ip", &["route", "replace", "blackhole", &self.range.to_string()], None).await?;
        }
        self.ensure_filter().await
    }

    async fn ensure_bridge(&self, engine: &Engine) -> Result<(), NetworkError> {
        let filters = HashMap::from([("name", vec![self.name.as_str()])]);
        let options = ListNetworksOptionsBuilder::new().filters(&filters).build();
        let found = engine.docker().list_networks(Some(options)).await;
        let found = found.map_err(of(|| "list its networks".into()))?;
        // The filter matches parts of names.
        let found: Vec<&Network> =
            found.iter().filter(|network| network.name.as_ref() == Some(&self.name)).collect();
        match found[..] {
            [] => self.create(engine).await,
            [one] => self.check(one),
            _ => Err(NetworkError::Doubled {
                name: self.name.clone(),
                count: found.len(),
                bridge: self.bridge.clone(),
            }),
        }
    }

    fn check(&self, network: &Network) -> Result<(), NetworkError> {
        let different =
            |is, wanted| Err(NetworkError::Different { name: self.name.clone(), is, wanted });
        let ipam = network.ipam.as_ref().and_then(|ipam| ipam.config.as_ref());
        let subnet = ipam.and_then(|all| all.first()).and_then(|one| one.subnet.clone());
        let subnet = subnet.unwrap_or_default();
        if subnet != self.subnet.to_string() {
            return different(format!("the subnet {subnet}"), self.subnet.to_string());
        }
        let options = network.options.as_ref();
        let bridge = options.and_then(|o| o.get(BRIDGE_NAME)).cloned().unwrap_or_default();
        if bridge != self.bridge {
            return different(format!("the bridge {bridge:?}"), self.bridge.clone());
        }
        Ok(())
    }

    async fn create(&self, engine: &Engine) -> Result<(), NetworkError> {
        let options = [(BRIDGE_NAME, self.bridge.clone()), (BRIDGE_MTU, self.mtu.to_string())];
        let network = NetworkCreateRequest {
            name: self.name.clone(),
            driver: Some("bridge".into()),
            options: Some(options.map(|(name, value)| (name.to_owned(), value)).into()),
            ipam: Some(Ipam {
                config: Some(vec![IpamConfig {
                    subnet: Some(self.subnet.to_string()),
                    gateway: Some(self.gateway().to_string()),
                    ..IpamConfig::default()
                }]),
                ..Ipam::default()
            }),
            ..NetworkCreateRequest::default()
        };
        let created = engine.docker().create_network(network).await;
        created.map_err(of(|| format!("create the network {}", self.name)))?;
        Ok(())
    }

    /// Makes the packet filter be as it should be.
    pub(crate) async fn ensure_filter(&self) -> Result<(), NetworkError> {
        let rules = firewall::rules(&self.chain, self.gateway(), &self.ports);
        run("iptables-restore", &["--wait", "10", "--noflush"], Some(&rules)).await?;
        ensure_jump(&["INPUT", "-i", &self.bridge, "-j", &self.chain]).await?;
        let forwarded = self.forward_chain();
        let rules = firewall::forwarded(&forwarded, &self.bridge);
        run("iptables-restore", &["--wait", "10", "--noflush"], Some(&rules)).await?;
        ensure_jump(&["DOCKER-USER", "-j", &forwarded]).await
    }

    fn forward_chain(&self) -> String {
        format!("{}-FWD", self.chain)
    }

    /// Takes away what [`JobNetwork::ensure`] made.
    pub(crate) async fn remove(&self, engine: &Engine) -> Result<(), NetworkError> {
        let forwarded = self.forward_chain();
        let jump = ["--wait", "10", "-D", "INPUT", "-i", &self.bridge, "-j", &self.chain];
        let _ = run("iptables", &jump, None).await;
        let _ =
            run("iptables", &["--wait", "10", "-D", "DOCKER-USER", "-j", &forwarded], None).await;
        for verb in ["-F", "-X"] {
            for chain in [&self.chain, &forwarded] {
                let _ = run("iptables", &["--wait", "10", verb, chain], None).await;
            }
        }
        let _ = run("ip", &["route", "del", "blackhole", &self.range.to_string()], None).await;
        let removed = engine.docker().remove_network(&self.name).await;
        Ok(removed.map_err(of(|| format!("remove the network {}", self.name)))?)
    }
}

/// Puts a jump first in its chain, unless it is in it.
async fn ensure_jump(jump: &[&str]) -> Result<(), NetworkError> {
    let with = |verb| [&["--wait", "10", verb][..], jump].concat();
    match run("iptables", &with("-C"), None).await {
        Err(NetworkError::Failed { .. }) => run("iptables", &with("-I"), None).await,
        done => done,
    }
}

async fn run(program: &str, args: &[&str], input: Option<&str>) -> Result<(), NetworkError> {
    let command = || format!("`{program} {}`", args.join(" "));
    let failed = |source| NetworkError::Run { command: command(), source };
    let mut child = Command::new(program)
        .args(args)
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
        stdin.write_all(input.as_bytes()).await.map_err(failed)?;
    }
    let ended = timeout(COMMAND, child.wait_with_output()).await;
    let output = ended.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(NetworkError::Failed { command: command(), said })
}
