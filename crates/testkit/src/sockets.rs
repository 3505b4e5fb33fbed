//! Finds the open sockets of this process by their peer, so that a test can read their options.

use std::{net::SocketAddr, os::fd::OwnedFd};

use rustix::{
    net::getpeername,
    process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open},
};

/// The sockets of this process that are connected to that address, to look at their options.
///
/// # Panics
/// When the kernel does not say what this process has open.
pub fn sockets_to(peer: SocketAddr) -> Vec<OwnedFd> {
    let own = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    let numbers = open.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    // What was closed meanwhile is left out.
    let sockets =
        numbers.filter_map(|number| pidfd_getfd(&own, number, PidfdGetfdFlags::empty()).ok());
    let is_meant = |socket: &OwnedFd| {
        let at = getpeername(socket).ok().flatten();
        at.and_then(|at| SocketAddr::try_from(at).ok()).is_some_and(|at| {
            at.port() == peer.port() && at.ip().to_canonical() == peer.ip().to_canonical()
        })
    };
    sockets.filter(is_meant).collect()
}
