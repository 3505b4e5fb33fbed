//! IPv4 networks: the cluster's range, a host's part of it, the routes there are.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use serde::{Deserialize, Serialize};

/// An IPv4 network, `100.64.0.0/23`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    base: u32,
    len: u8,
}

/// The text is not a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an IPv4 network: expected something like 100.64.0.0/10")]
pub struct InvalidCidr(String);

impl Cidr {
    fn new(base: u32, len: u8) -> Self {
        Self { base: base & Self::mask(len), len }
    }

    fn mask(len: u8) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0)
    }

    /// Length of its prefix.
    pub(crate) fn prefix(self) -> u8 {
        self.len
    }

    /// Whether an address lies in it.
    pub(crate) fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & Self::mask(self.len) == self.base
    }

    /// Whether they share an address.
    pub(crate) fn overlaps(self, other: Self) -> bool {
        let shorter = Self::mask(self.len.min(other.len));
        self.base & shorter == other.base & shorter
    }

    /// Its parts of a length, in order; itself if it is not larger.
    pub(crate) fn parts(self, len: u8) -> impl Iterator<Item = Self> {
        let len = len.clamp(self.len, 32);
        let count = 1u64 << (len - self.len);
        let step = 1u64 << (32 - len);
        (0..count).map(move |n| {
            let base = u64::from(self.base) + n * step;
            Self::new(u32::try_from(base).expect("a part begins inside its whole"), len)
        })
    }

    /// Its own address, which nobody has.
    pub(crate) fn base(self) -> Ipv4Addr {
        Ipv4Addr::from(self.base)
    }

    /// Every host's gateway, if each has a part of that length: an address and the mask that says which of its bits count.
    pub(crate) fn gateways(self, length: u8) -> (Ipv4Addr, Ipv4Addr) {
        let inside = !Self::mask(length.max(self.len));
        (Ipv4Addr::from(self.base + 1), Ipv4Addr::from(Self::mask(self.len) | inside))
    }

    /// The first address: the host's own on its bridge.
    pub(crate) fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 1)
    }

    /// How many addresses jobs may have: all but the network's, the gateway's and the broadcast's.
    pub(crate) fn room(self) -> u32 {
        let all = 1u64 << (32 - self.len);
        u32::try_from(all.saturating_sub(3)).unwrap_or(u32::MAX)
    }

    /// The `n`th address for jobs, counted from 0.
    pub(crate) fn address(self, n: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 2 + n % self.room().max(1))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.len)
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Cidr {
    type Err = InvalidCidr;

    fn from_str(text: &str) -> Result<Self, InvalidCidr> {
        let parse = || {
            let (base, len) = text.split_once('/')?;
            let len: u8 = len.parse().ok().filter(|len| *len <= 32)?;
            let base = u32::from(base.parse::<Ipv4Addr>().ok()?);
            (base & Self::mask(len) == base).then_some(Self { base, len })
        };
        parse().ok_or_else(|| InvalidCidr(text.chars().take(64).collect()))
    }
}

impl TryFrom<String> for Cidr {
    type Error = InvalidCidr;

    fn try_from(text: String) -> Result<Self, InvalidCidr> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

/// A route of this machine, out of `/proc/net/route`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    /// `eth0`; `*` for one that refuses.
    pub(crate) device: String,
    /// Where it leads.
    pub(crate) to: Cidr,
}

/// Reads `/proc/net/route`; lines of another form are left out, and so is the default route.
pub(crate) fn routes(table: &str) -> Vec<Route> {
    table.lines().skip(1).filter_map(route).filter(|route| route.to.len > 0).collect()
}

fn route(line: &str) -> Option<Route> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let hex = |n: usize| u32::from_str_radix(fields.get(n)?, 16).ok().map(u32::swap_bytes);
    let mask = hex(7)?;
    let len = u8::try_from(mask.leading_ones()).ok()?;
    Some(Route { device: (*fields.first()?).into(), to: Cidr::new(hex(1)?, len) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    proptest! {
        #[test]
        fn a_network_reads_back(base: u32, len in 0u8..=32) {
            let network = Cidr::new(base, len);
            prop_assert_eq!(network.to_string().parse(), Ok(network));
        }

        #[test]
        fn overlapping_is_sharing_an_address(a: u32, b: u32, m in 8u8..=30, n in 8u8..=30) {
            let (a, b) = (Cidr::new(a, m), Cidr::new(b, n));
            let shared = a.contains(Ipv4Addr::from(b.base)) || b.contains(Ipv4Addr::from(a.base));
            prop_assert_eq!(a.overlaps(b), shared);
        }

        #[test]
        fn parsing_never_panics(text in ".{0,40}", table in "(.{0,60}\n){0,4}") {
            let _ = text.parse::<Cidr>();
            routes(&table);
        }
    }

    #[test]
    fn the_parts_of_the_range_are_the_hosts_subnets() {
        let parts: Vec<_> = cidr("100.64.0.0/22").parts(23).map(|part| part.to_string()).collect();
        assert_eq!(parts, ["100.64.0.0/23", "100.64.2.0/23"]);
        let first = cidr("100.64.0.0/10").parts(23).next().unwrap();
        assert_eq!(first.gateway(), Ipv4Addr::new(100, 64, 0, 1));
        assert_eq!(first.room(), 509);
        assert_eq!(first.address(0), Ipv4Addr::new(100, 64, 0, 2));
        assert_eq!(first.address(508), Ipv4Addr::new(100, 64, 1, 254));
        assert_eq!(cidr("10.0.0.0/24").parts(23).count(), 1);
    }

    #[test]
    fn a_mask_matches_every_gateway_and_nothing_else() {
        let range = cidr("100.64.0.0/10");
        let (addr, mask) = range.gateways(23);
        assert_eq!(
            (addr.to_string(), mask.to_string()),
            ("100.64.0.1".into(), "255.192.1.255".into())
        );
        let matches = |ip: Ipv4Addr| u32::from(ip) & u32::from(mask) == u32::from(addr);
        assert!(range.parts(23).all(|part| matches(part.gateway())));
        assert!(!matches([100, 64, 0, 2].into()) && !matches([100, 64, 1, 1].into()));
        assert!(!matches([100, 128, 0, 1].into()));
    }

    #[test]
    fn routes_are_read_and_the_default_one_is_no_overlap() {
        let table = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n";
        assert_eq!(routes(table), [Route { device: "docker0".into(), to: cidr("172.17.0.0/16") }]);
    }
}
