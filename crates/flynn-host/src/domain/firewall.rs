//! What jobs may reach on the host: DNS, discovery, the daemons that ask for a key, and what everybody reaches anyway.

use std::{fmt::Write, net::Ipv4Addr};

/// The ports that jobs may reach.
#[derive(Debug, Clone)]
pub(crate) struct Ports {
    /// DNS at the gateway.
    pub(crate) dns: u16,
    /// TCP at the gateway: discoverd, flynn-host, the router's API.
    pub(crate) gateway: Vec<u16>,
    /// TCP at any address of the host: the router's public ports.
    pub(crate) public: Vec<u16>,
}

/// Input for `iptables-restore --noflush`: makes the chain be exactly this, at one instant.
pub(crate) fn rules(chain: &str, gateway: Ipv4Addr, ports: &Ports) -> String {
    let mut text = format!("*filter\n:{chain} - [0:0]\n");
    let mut rule = |matching: String, target: &str| {
        writeln!(text, "-A {chain} {matching} -j {target}").expect("a string takes every write");
    };
    rule("-m conntrack --ctstate ESTABLISHED,RELATED".into(), "ACCEPT");
    rule(format!("-d {gateway} -p udp --dport {}", ports.dns), "ACCEPT");
    rule(format!("-d {gateway} -p tcp --dport {}", ports.dns), "ACCEPT");
    for port in &ports.gateway {
        rule(format!("-d {gateway} -p tcp --dport {port}"), "ACCEPT");
    }
    for port in &ports.public {
        rule(format!("-p tcp --dport {port}"), "ACCEPT");
    }
    rule("-p icmp".into(), "ACCEPT");
    rule(String::new(), "REJECT");
    text.push_str("COMMIT\n");
    text
}

/// The address range of a cloud's metadata service, which hands out the host's credentials.
const METADATA: &str = "169.254.0.0/16";

/// The same for packets that pass through the host: jobs do not reach its metadata service, and nobody outside reaches a
/// job past the router.
pub(crate) fn forwarded(chain: &str, bridge: &str) -> String {
    format!(
        "*filter\n:{chain} - [0:0]\n\
         -A {chain} -i {bridge} -d {METADATA} -j REJECT\n\
         -A {chain} ! -i {bridge} -o {bridge} -m conntrack --ctstate NEW -j DROP\n\
         COMMIT\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_named_is_rejected() {
        let ports = Ports { dns: 53, gateway: vec![1111, 1113], public: vec![80] };
        let text = rules("FLYNN-INPUT", Ipv4Addr::new(100, 64, 0, 1), &ports);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], ":FLYNN-INPUT - [0:0]");
        assert_eq!(lines[5], "-A FLYNN-INPUT -d 100.64.0.1 -p tcp --dport 1111 -j ACCEPT");
        assert_eq!(lines[lines.len() - 2..], ["-A FLYNN-INPUT  -j REJECT", "COMMIT"]);
        assert!(!text.contains("2379"));
    }
}
