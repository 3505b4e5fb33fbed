//! What jobs may reach on the host: DNS, discovery, the daemons that ask for a key, and what everybody reaches anyway.

use std::{collections::BTreeSet, fmt::Write, net::Ipv4Addr};

use super::net::Cidr;

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

/// Connections a job may have at once to each of our ports: what they take of files is everybody's.
const CONNECTIONS_PER_JOB: u32 = 512;

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
        let above = format!(
            "-m connlimit --connlimit-above {CONNECTIONS_PER_JOB} --connlimit-mask 32 --connlimit-saddr"
        );
        let reset = "REJECT --reject-with tcp-reset";
        rule(format!("-d {gateway} -p tcp --dport {port} {above}"), reset);
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

/// Who may open connections to etcd on this host: it is asked by a few processes, each of which has a user of its own, and
/// the kernel knows whose a connection is.
pub(crate) fn callers(chain: &str, users: &BTreeSet<u32>) -> String {
    let mut text = format!("*filter\n:{chain} - [0:0]\n");
    for user in users {
        writeln!(text, "-A {chain} -m owner --uid-owner {user} -j RETURN")
            .expect("a string takes every write");
    }
    text.push_str(&format!("-A {chain} -p tcp -j REJECT --reject-with tcp-reset\nCOMMIT\n"));
    text
}

/// What leads there: connections that are opened on the loopback to these ports.
pub(crate) fn callers_jump(chain: &str, ports: &[u16]) -> Vec<String> {
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    let ports = ports.join(",");
    let jump = ["OUTPUT", "-d", "127.0.0.0/8", "-o", "lo", "-p", "tcp", "--syn"];
    let rest = ["-m", "multiport", "--dports", &ports, "-j", chain];
    jump.into_iter().chain(rest).map(str::to_owned).collect()
}

/// The address range of a cloud's metadata service, which hands out the host's credentials.
const METADATA: &str = "169.254.0.0/16";

/// The part of the job network that is on other hosts.
#[derive(Debug, Clone)]
pub(crate) struct Elsewhere {
    /// The device that leads there.
    pub(crate) device: String,
    /// The cluster's range.
    pub(crate) range: Cidr,
    /// Length of every host's subnet.
    pub(crate) length: u8,
    /// Port the packets between hosts go to.
    pub(crate) vxlan_port: u16,
    /// Port of the tunnel for what is meant for another host's daemons.
    pub(crate) redirect_port: u16,
}

/// The same for packets that pass through the host: jobs do not reach its metadata service, and nobody outside reaches a
/// job past the router. Jobs of other hosts do.
pub(crate) fn forwarded(chain: &str, bridge: &str, elsewhere: Option<&Elsewhere>) -> String {
    let mut text =
        format!("*filter\n:{chain} - [0:0]\n-A {chain} -i {bridge} -d {METADATA} -j REJECT\n");
    if let Some(Elsewhere { device, range, .. }) = elsewhere {
        text.push_str(&format!(
            "-A {chain} -i {device} -o {bridge} -s {range} -j ACCEPT\n\
             -A {chain} -i {bridge} -o {device} -d {range} -j ACCEPT\n\
             -A {chain} -i {device} -j DROP\n"
        ));
    }
    text.push_str(&format!(
        "-A {chain} ! -i {bridge} -o {bridge} -m conntrack --ctstate NEW -j DROP\nCOMMIT\n"
    ));
    text
}

/// Address translation: what goes to another host's daemon goes to the tunnel, and what one job sends to another keeps its
/// source.
pub(crate) fn translated(
    chain: &str,
    gateway: Ipv4Addr,
    ports: &Ports,
    elsewhere: &Elsewhere,
) -> String {
    let Elsewhere { range, length, redirect_port, .. } = elsewhere;
    let (addr, mask) = range.gateways(*length);
    let services: Vec<String> = ports.gateway.iter().map(u16::to_string).collect();
    let services = services.join(",");
    format!(
        "*nat\n:{chain}-OUT - [0:0]\n:{chain}-SRC - [0:0]\n\
         -A {chain}-OUT -d {gateway} -j RETURN\n\
         -A {chain}-OUT -d {addr}/{mask} -p tcp -m multiport --dports {services} \
         -j REDIRECT --to-ports {redirect_port}\n\
         -A {chain}-SRC -s {range} -d {range} -j ACCEPT\nCOMMIT\n"
    )
}

/// Packets of the job network are taken from hosts of the cluster only, and from their jobs nothing for the host itself but
/// answers.
pub(crate) fn between(
    chain: &str,
    elsewhere: &Elsewhere,
    hosts: impl Iterator<Item = Ipv4Addr>,
) -> String {
    let Elsewhere { device, vxlan_port, .. } = elsewhere;
    let mut text = format!("*filter\n:{chain}-VX - [0:0]\n");
    let mut rule = |line: String| {
        writeln!(text, "-A {chain}-VX {line}").expect("a string takes every write");
    };
    rule(format!("-i {device} -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"));
    rule(format!("-i {device} -p icmp -j ACCEPT"));
    rule(format!("-i {device} -j REJECT"));
    for host in hosts {
        rule(format!("-s {host} -p udp --dport {vxlan_port} -j ACCEPT"));
    }
    rule(format!("-p udp --dport {vxlan_port} -j DROP"));
    text.push_str("COMMIT\n");
    text
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
        let at = |line: &str| lines.iter().position(|one| *one == line).unwrap();
        let limited = "-A FLYNN-INPUT -d 100.64.0.1 -p tcp --dport 1111 -m connlimit --connlimit-above 512 \
                       --connlimit-mask 32 --connlimit-saddr -j REJECT --reject-with tcp-reset";
        let open = "-A FLYNN-INPUT -d 100.64.0.1 -p tcp --dport 1111 -j ACCEPT";
        assert!(at(limited) < at(open), "{text}");
        assert_eq!(lines[lines.len() - 2..], ["-A FLYNN-INPUT  -j REJECT", "COMMIT"]);
        assert!(!text.contains("2379"));
    }

    #[test]
    fn jobs_of_other_hosts_are_let_in_before_strangers_are_kept_out() {
        let elsewhere = Elsewhere {
            device: "vx".into(),
            range: "100.64.0.0/10".parse().unwrap(),
            length: 23,
            vxlan_port: 4789,
            redirect_port: 1115,
        };
        let text = forwarded("F", "br", Some(&elsewhere));
        let of = |part: &str| text.find(part).unwrap_or_else(|| panic!("{part} is not in {text}"));
        assert!(of("-i vx -o br -s 100.64.0.0/10 -j ACCEPT") < of("--ctstate NEW -j DROP"));
        assert!(!forwarded("F", "br", None).contains("vx"));
        let ports = Ports { dns: 53, gateway: vec![1111, 1113], public: vec![] };
        let text = translated("F", [100, 64, 2, 1].into(), &ports, &elsewhere);
        assert!(
            text.contains("-d 100.64.0.1/255.192.1.255 -p tcp -m multiport --dports 1111,1113")
        );
        let text = between("F", &elsewhere, [[10, 0, 0, 2].into()].into_iter());
        assert!(text.contains("-s 10.0.0.2 -p udp --dport 4789 -j ACCEPT"));
    }

    #[test]
    fn etcd_is_asked_by_its_own_callers_only() {
        let text = callers("C-LO", &BTreeSet::from([0, 7]));
        let last = text.lines().rev().nth(1).unwrap();
        assert_eq!(text.matches("--uid-owner").count(), 2);
        assert_eq!(last, "-A C-LO -p tcp -j REJECT --reject-with tcp-reset");
        let jump = callers_jump("C-LO", &[2379, 2381]).join(" ");
        assert!(jump.contains("-o lo -p tcp --syn -m multiport --dports 2379,2381 -j C-LO"));
    }
}
