//! The job network between hosts: what leads to whose subnet, through a VXLAN whose neighbours are all known.

use std::{collections::BTreeMap, fmt::Write, net::Ipv4Addr};

use super::net::Cidr;

/// Where each other host's subnet is: the host's own address.
pub(crate) type Peers = BTreeMap<Cidr, Ipv4Addr>;

/// Input for `ip -batch` and `bridge -batch`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Batches {
    pub(crate) ip: String,
    pub(crate) bridge: String,
}

/// The hardware address of a host's end, which follows from its subnet, so that nobody has to tell it.
pub(crate) fn mac(subnet: Cidr) -> String {
    let [a, b, c, d] = subnet.base().octets();
    // The second bit of the first byte: given by us, not by a maker.
    format!("02:f1:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

/// What makes `device`, which leads to the subnets of `had`, lead to `wanted`. What is the same is set again: that changes
/// nothing and mends what somebody else changed. Neighbours nobody is sent to any more stay; they do not matter.
pub(crate) fn batches(device: &str, had: impl Iterator<Item = Cidr>, wanted: &Peers) -> Batches {
    let mut batches = Batches::default();
    let Batches { ip, bridge } = &mut batches;
    let lines = || -> std::fmt::Result {
        for subnet in had.filter(|subnet| !wanted.contains_key(subnet)) {
            writeln!(ip, "route del {subnet} dev {device}")?;
        }
        for (subnet, addr) in wanted {
            let (base, mac) = (subnet.base(), mac(*subnet));
            writeln!(bridge, "fdb replace {mac} dev {device} dst {addr}")?;
            writeln!(ip, "neigh replace {base} lladdr {mac} dev {device} nud permanent")?;
            writeln!(ip, "route replace {subnet} via {base} dev {device} onlink")?;
        }
        Ok(())
    };
    lines().expect("a string takes every write");
    batches
}

/// The subnets a device leads to, out of `ip route show dev`.
pub(crate) fn routed(table: &str) -> impl Iterator<Item = Cidr> {
    table.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(all: &[(&str, [u8; 4])]) -> Peers {
        all.iter().map(|(subnet, addr)| (subnet.parse().unwrap(), Ipv4Addr::from(*addr))).collect()
    }

    #[test]
    fn a_moved_host_is_set_again_and_one_that_left_is_forgotten() {
        let had = peers(&[("100.64.2.0/23", [10, 0, 0, 2]), ("100.64.4.0/23", [10, 0, 0, 3])]);
        let wanted = peers(&[("100.64.2.0/23", [10, 0, 0, 9])]);
        let Batches { ip, bridge } = batches("vx", had.into_keys(), &wanted);
        assert_eq!(
            ip,
            "route del 100.64.4.0/23 dev vx\n\
             neigh replace 100.64.2.0 lladdr 02:f1:64:40:02:00 dev vx nud permanent\n\
             route replace 100.64.2.0/23 via 100.64.2.0 dev vx onlink\n"
        );
        assert_eq!(bridge, "fdb replace 02:f1:64:40:02:00 dev vx dst 10.0.0.9\n");
    }

    #[test]
    fn the_routes_there_are_can_be_read() {
        let table =
            "100.64.2.0/23 via 100.64.2.0 onlink \nnonsense\n100.64.4.0/23 via 100.64.4.0 onlink\n";
        let subnets: Vec<String> = routed(table).map(|subnet| subnet.to_string()).collect();
        assert_eq!(subnets, ["100.64.2.0/23", "100.64.4.0/23"]);
    }
}
