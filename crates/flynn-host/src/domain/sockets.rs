//! What listens inside a container, and who is served there, out of `/proc/<pid>/net/tcp` and `tcp6`: why a check cannot
//! connect, and whether a process that does not answer answers others.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// The kernel's number for a listening socket.
const LISTEN: &str = "0A";
/// And for one whose connection is not made yet, and one that is over.
const SYN_RECEIVED: &str = "03";
const TIME_WAIT: &str = "06";

/// Reads a table, `tcp` or `tcp6`; lines of another form are left out.
pub(crate) fn listening(table: &str) -> BTreeSet<SocketAddr> {
    table.lines().skip(1).filter_map(listener).collect()
}

fn listener(line: &str) -> Option<SocketAddr> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let local = fields.next()?;
    if fields.nth(1)? != LISTEN {
        return None;
    }
    socket(local)
}

fn socket(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    Some(SocketAddr::new(address(ip)?, port))
}

/// What goes on at a port that is listened on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    /// Where connections are from that were made and that the process has not taken yet, also those that were given up.
    pub(crate) waiting: BTreeSet<SocketAddr>,
    /// Where those are from that it has taken.
    pub(crate) taken: BTreeSet<SocketAddr>,
}

impl Traffic {
    /// Adds what a table says of a port. One that waits belongs to no process yet: it has no inode.
    pub(crate) fn add(&mut self, table: &str, port: u16) {
        for line in table.lines().skip(1) {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let &[_, local, remote, state, _, _, _, _, _, inode, ..] = &fields[..] else {
                continue;
            };
            let is_open = !matches!(state, LISTEN | SYN_RECEIVED | TIME_WAIT);
            if !is_open || socket(local).is_none_or(|socket| socket.port() != port) {
                continue;
            }
            match inode {
                "0" => self.waiting.extend(peer(remote)),
                _ => self.taken.extend(peer(remote)),
            }
        }
    }

    /// Leaves out those that are one's own: answers which of them are still there.
    pub(crate) fn without(&mut self, own: &BTreeSet<SocketAddr>) -> BTreeSet<SocketAddr> {
        let there = |from: &&SocketAddr| self.waiting.contains(*from) || self.taken.contains(*from);
        let there = own.iter().filter(there).copied().collect();
        self.waiting.retain(|from| !own.contains(from));
        self.taken.retain(|from| !own.contains(from));
        there
    }
}

/// Where a connection is from: the same in both tables, whichever a process listens by.
fn peer(text: &str) -> Option<SocketAddr> {
    socket(text).map(|from| SocketAddr::new(from.ip().to_canonical(), from.port()))
}

/// Groups of eight hex digits, each a 32-bit word in the machine's order.
fn address(hex: &str) -> Option<IpAddr> {
    let word = |n: usize| {
        let digits = hex.get(n * 8..n * 8 + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for n in 0..4 {
                bytes[n * 4..n * 4 + 4].copy_from_slice(&word(n)?);
            }
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

/// Why nothing answers on `port`, as a sentence for the app's owner. Docker's own resolver is not the app's doing.
pub(crate) fn explain(port: u16, listening: &BTreeSet<SocketAddr>) -> String {
    let own =
        listening.iter().filter(|socket| socket.ip() != IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11)));
    let own: Vec<&SocketAddr> = own.collect();
    let nothing = format!("nothing listens on 0.0.0.0:{port}");
    let at_port: Vec<String> =
        own.iter().filter(|s| s.port() == port).map(|s| s.ip().to_string()).collect();
    if own.iter().any(|s| s.port() == port && !s.ip().is_loopback()) {
        return format!("something listens on port {port}, but it does not answer");
    }
    if !at_port.is_empty() {
        return format!(
            "{nothing}; the process listens only on {}, where nobody outside its container reaches \
             it: make it listen on 0.0.0.0",
            at_port.join(" and ")
        );
    }
    let elsewhere: BTreeSet<u16> = own.iter().map(|s| s.port()).collect();
    if elsewhere.is_empty() {
        return format!("{nothing}; make the process listen on the port that $PORT says");
    }
    let ports: Vec<String> = elsewhere.iter().map(u16::to_string).collect();
    let image = match ports.as_slice() {
        [port] => format!(", or, if it is an image, deploy it with `-p {port}`"),
        _ => String::new(),
    };
    format!(
        "{nothing}; the process listens on port {} instead: make it listen on the port that $PORT says{image}",
        ports.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEAD: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n";

    fn sockets(all: &[&str]) -> BTreeSet<SocketAddr> {
        all.iter().map(|s| s.parse().unwrap()).collect()
    }

    #[test]
    fn only_listening_sockets_are_read() {
        let tcp = format!(
            "{HEAD}   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000\n\
             1: 0100007F:C350 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1000\n"
        );
        assert_eq!(listening(&tcp), sockets(&["127.0.0.1:8080"]));
        let tcp6 = format!(
            "{HEAD}   0: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A 0\n\
             1: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 0\n"
        );
        assert_eq!(listening(&tcp6), sockets(&["[::]:8080", "[::1]:80"]));
    }

    #[test]
    fn who_waits_and_who_was_taken_is_named_and_oneself_is_left_out() {
        let line = |remote: &str, state: &str, inode: u32| {
            format!(
                "0: 0100007F:1F90 {remote} {state} 00000000:00000000 00:00000000 00000000 1000 0 {inode}\n"
            )
        };
        let other =
            "1: 0100007F:1F91 0100007F:0009 01 00000000:00000000 00:00000000 00000000 1000 0 5\n";
        let lines = [
            line("00000000:0000", "0A", 7),
            line("0100007F:0001", "01", 0),
            line("0100007F:0002", "08", 0),
            line("0100007F:0003", "01", 8),
            line("0100007F:0004", "03", 0),
            line("0100007F:0005", "06", 0),
        ];
        let mut traffic = Traffic::default();
        traffic.add(&format!("{HEAD}{}{other}", lines.concat()), 8080);
        let waiting = sockets(&["127.0.0.1:1", "127.0.0.1:2"]);
        assert_eq!(traffic, Traffic { waiting, taken: sockets(&["127.0.0.1:3"]) });
        let own = sockets(&["127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:9"]);
        assert_eq!(traffic.without(&own), sockets(&["127.0.0.1:2", "127.0.0.1:3"]));
        let waiting = sockets(&["127.0.0.1:1"]);
        assert_eq!(traffic, Traffic { waiting, taken: BTreeSet::new() });
        assert_eq!(peer("0000000000000000FFFF00000100007F:0001"), peer("0100007F:0001"));
    }

    #[test]
    fn the_sentence_says_what_to_change() {
        let said = explain(8080, &sockets(&["127.0.0.1:8080"]));
        assert!(said.contains("listens only on 127.0.0.1"), "{said}");
        let said = explain(8080, &sockets(&["0.0.0.0:3000", "127.0.0.11:41000"]));
        assert!(said.contains("listens on port 3000 instead"), "{said}");
        assert!(said.ends_with("if it is an image, deploy it with `-p 3000`"), "{said}");
        let said = explain(8080, &sockets(&["0.0.0.0:3000", "0.0.0.0:3001"]));
        assert!(said.ends_with("that $PORT says"), "{said}");
        let said = explain(8080, &sockets(&["127.0.0.11:41000"]));
        assert!(said.starts_with("nothing listens on 0.0.0.0:8080; make the process"), "{said}");
        let said = explain(8080, &sockets(&["[::]:8080"]));
        assert!(said.contains("does not answer"), "{said}");
    }

    proptest! {
        #[test]
        fn parsing_never_panics(table in "(.{0,80}\n){0,4}", hex in "[0-9A-Fa-f:]{0,40}") {
            listening(&table);
            Traffic::default().add(&table, 1);
            listening(&format!("{HEAD} 0: {hex}:1F90 {hex} 0A x\n"));
        }
    }
}
