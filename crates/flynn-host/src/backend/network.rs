//! The job network: the engine's bridge, the route that refuses what nobody has, the packet filter.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    net::Ipv4Addr,
    process::Stdio,
    time::Duration,
};

use bollard::{
    models::{Ipam, IpamConfig, Network, NetworkCreateRequest},
    query_parameters::ListNetworksOptionsBuilder,
};
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

use super::engine::{Engine, EngineError, of};
use crate::domain::{
    firewall::{self, Elsewhere, Ports},
    net::Cidr,
    overlay::{self, Peers},
};

/// Longest time a command may take; the packet filter's lock may be held by others.
const COMMAND: Duration = Duration::from_secs(20);
const BRIDGE_NAME: &str = "com.docker.network.bridge.name";
const BRIDGE_MTU: &str = "com.docker.network.driver.mtu";
/// Engines since 28 let nobody past the bridge to ports that are not published, unless they are told so. Who may is said
/// by our own filter.
const BRIDGE_GATEWAY: &str = "com.docker.network.bridge.gateway_mode_ipv4";
/// Tells our packets from those of other networks between the same hosts.
const VXLAN_ID: &str = "64";

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
    /// Where etcd is on this host, or what leads to it.
    pub(crate) etcd_ports: [u16; 3],
    /// The part on other hosts, unless this one is alone.
    pub(crate) overlay: Option<Overlay>,
}

/// What leads to the job network's part on other hosts.
#[derive(Debug, Clone)]
pub(crate) struct Overlay {
    /// This host's own address.
    pub(crate) local: Ipv4Addr,
    /// Where it leads, through what.
    pub(crate) elsewhere: Elsewhere,
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
    pub(crate) async fn ensure(&self, engine: &Engine, peers: &Peers) -> Result<(), NetworkError> {
        self.ensure_bridge(engine).await?;
        // A range that is one host's subnet has nothing outside it, and the route would take the bridge's own place.
        if self.range != self.subnet {
            run("ip", &["route", "replace", "blackhole", &self.range.to_string()], None).await?;
        }
        self.ensure_filter().await?;
        self.ensure_overlay(peers).await
    }

    /// Makes the network lead to the jobs of those hosts, and of no others.
    pub(crate) async fn ensure_overlay(&self, peers: &Peers) -> Result<(), NetworkError> {
        let Some(Overlay { local, elsewhere }) = &self.overlay else { return Ok(()) };
        let between = firewall::between(&self.chain, elsewhere, peers.values().copied());
        restore(&between).await?;
        ensure_jump("filter", &["INPUT", "-j", &format!("{}-VX", self.chain)]).await?;
        let translated = firewall::translated(&self.chain, self.gateway(), &self.ports, elsewhere);
        restore(&translated).await?;
        let (out, source) = (format!("{}-OUT", self.chain), format!("{}-SRC", self.chain));
        ensure_jump("nat", &["PREROUTING", "-i", &self.bridge, "-j", &out]).await?;
        ensure_jump("nat", &["OUTPUT", "-j", &out]).await?;
        ensure_jump("nat", &["POSTROUTING", "-j", &source]).await?;
        let device = &elsewhere.device;
        self.ensure_device(*local, elsewhere).await?;
        let table = said("ip", &["route", "show", "dev", device]).await?;
        let batches = overlay::batches(device, overlay::routed(&table), peers);
        run("bridge", &["-batch", "-"], Some(&batches.bridge)).await?;
        run("ip", &["-batch", "-"], Some(&batches.ip)).await
    }

    async fn ensure_device(
        &self,
        local: Ipv4Addr,
        elsewhere: &Elsewhere,
    ) -> Result<(), NetworkError> {
        let device = elsewhere.device.as_str();
        let (local, port) = (local.to_string(), elsewhere.vxlan_port.to_string());
        let described = said("ip", &["-d", "link", "show", "dev", device]).await;
        // Its address cannot be changed: the host may have come back with another.
        match described {
            Ok(described) if described.contains(&format!(" local {local} ")) => {}
            Ok(_) => {
                run("ip", &["link", "del", device], None).await?;
                self.add_device(device, &local, &port).await?;
            }
            Err(_) => self.add_device(device, &local, &port).await?,
        }
        let address = format!("{}/32", self.subnet.base());
        run("ip", &["address", "replace", &address, "dev", device], None).await?;
        run("ip", &["link", "set", device, "up"], None).await
    }

    async fn add_device(&self, device: &str, local: &str, port: &str) -> Result<(), NetworkError> {
        let (mac, mtu) = (overlay::mac(self.subnet), self.mtu.to_string());
        let link = ["link", "add", device, "address", &mac, "mtu", &mtu, "type", "vxlan"];
        let tunnel = ["id", VXLAN_ID, "dstport", port, "local", local, "nolearning"];
        run("ip", &[&link[..], &tunnel].concat(), None).await
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
        let options = [
            (BRIDGE_NAME, self.bridge.clone()),
            (BRIDGE_MTU, self.mtu.to_string()),
            (BRIDGE_GATEWAY, "nat-unprotected".into()),
        ];
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
        let mut ports = self.ports.clone();
        ports.gateway.extend(self.overlay.as_ref().map(|overlay| overlay.elsewhere.redirect_port));
        restore(&firewall::rules(&self.chain, self.gateway(), &ports)).await?;
        ensure_jump("filter", &["INPUT", "-i", &self.bridge, "-j", &self.chain]).await?;
        let forwarded = self.forward_chain();
        let elsewhere = self.overlay.as_ref().map(|overlay| &overlay.elsewhere);
        restore(&firewall::forwarded(&forwarded, &self.bridge, elsewhere)).await?;
        ensure_jump("filter", &["DOCKER-USER", "-j", &forwarded]).await
    }

    /// Has etcd's ports on this host answer nobody but these users. What is connected stays so.
    pub(crate) async fn ensure_callers(&self, users: &BTreeSet<u32>) -> Result<(), NetworkError> {
        let chain = self.callers_chain();
        restore(&firewall::callers(&chain, users)).await?;
        let jump = firewall::callers_jump(&chain, &self.etcd_ports);
        let jump: Vec<&str> = jump.iter().map(String::as_str).collect();
        ensure_jump("filter", &jump).await
    }

    fn callers_chain(&self) -> String {
        format!("{}-LO", self.chain)
    }

    fn forward_chain(&self) -> String {
        format!("{}-FWD", self.chain)
    }

    /// Takes away what [`JobNetwork::ensure`] made.
    pub(crate) async fn remove(&self, engine: &Engine) -> Result<(), NetworkError> {
        let forwarded = self.forward_chain();
        let (chain, bridge) = (self.chain.as_str(), self.bridge.as_str());
        let (between, out, source) =
            (format!("{chain}-VX"), format!("{chain}-OUT"), format!("{chain}-SRC"));
        let callers = self.callers_chain();
        let from_callers = firewall::callers_jump(&callers, &self.etcd_ports);
        let from_callers: Vec<&str> = from_callers.iter().map(String::as_str).collect();
        let jumps: [(&str, &[&str]); 7] = [
            ("filter", &from_callers),
            ("filter", &["INPUT", "-i", bridge, "-j", chain]),
            ("filter", &["DOCKER-USER", "-j", &forwarded]),
            ("filter", &["INPUT", "-j", &between]),
            ("nat", &["PREROUTING", "-i", bridge, "-j", &out]),
            ("nat", &["OUTPUT", "-j", &out]),
            ("nat", &["POSTROUTING", "-j", &source]),
        ];
        for (table, jump) in jumps {
            let delete = [&["--wait", "10", "-t", table, "-D"][..], jump].concat();
            let _ = run("iptables", &delete, None).await;
        }
        for verb in ["-F", "-X"] {
            let filter = [chain, &forwarded, &between, &callers].map(|chain| ("filter", chain));
            let nat = [out.as_str(), &source].map(|chain| ("nat", chain));
            for (table, chain) in filter.into_iter().chain(nat) {
                let _ = run("iptables", &["--wait", "10", "-t", table, verb, chain], None).await;
            }
        }
        if let Some(overlay) = &self.overlay {
            let _ = run("ip", &["link", "del", &overlay.elsewhere.device], None).await;
        }
        let _ = run("ip", &["route", "del", "blackhole", &self.range.to_string()], None).await;
        let removed = engine.docker().remove_network(&self.name).await;
        Ok(removed.map_err(of(|| format!("remove the network {}", self.name)))?)
    }
}

/// Makes chains be exactly what the text says, at one instant.
async fn restore(rules: &str) -> Result<(), NetworkError> {
    run("iptables-restore", &["--wait", "10", "--noflush"], Some(rules)).await
}

/// Puts a jump first in its chain, unless it is in it.
async fn ensure_jump(table: &str, jump: &[&str]) -> Result<(), NetworkError> {
    let with = |verb| [&["--wait", "10", "-t", table, verb][..], jump].concat();
    match run("iptables", &with("-C"), None).await {
        Err(NetworkError::Failed { .. }) => run("iptables", &with("-I"), None).await,
        done => done,
    }
}

async fn run(program: &str, args: &[&str], input: Option<&str>) -> Result<(), NetworkError> {
    output(program, args, input).await.map(drop)
}

/// What a command says.
async fn said(program: &str, args: &[&str]) -> Result<String, NetworkError> {
    output(program, args, None).await
}

async fn output(program: &str, args: &[&str], input: Option<&str>) -> Result<String, NetworkError> {
    let command = || format!("`{program} {}`", args.join(" "));
    let failed = |source| NetworkError::Run { command: command(), source };
    let mut child = Command::new(program)
        .args(args)
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
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
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(NetworkError::Failed { command: command(), said })
}
