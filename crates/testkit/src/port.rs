//! Ports that stay a test's own.

use std::{
    fs::File,
    net::TcpListener,
    sync::atomic::{AtomicU16, Ordering},
};

/// Below what the kernel gives to outgoing connections and to port 0, so that nothing takes one between two uses; above
/// what daemons listen on.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

/// A port of 127.0.0.1 that nobody listens on, and that no other test is given until this process ends: it may be closed
/// and listened on again.
///
/// # Panics
/// When all are taken.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let locks = std::env::temp_dir().join("flynn-test-ports");
    std::fs::create_dir_all(&locks).unwrap();
    // Each process begins elsewhere, so that few meet.
    let begin = std::process::id() as u16 % (RANGE.end - RANGE.start);
    for _ in RANGE {
        let n = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = RANGE.start + n % (RANGE.end - RANGE.start);
        let lock = File::create(locks.join(port.to_string())).unwrap();
        if lock.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            // Locked until this process ends.
            std::mem::forget(lock);
            return port;
        }
    }
    panic!("no port of {RANGE:?} is free");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_twice_although_nobody_listens_on_it() {
        let ports: std::collections::BTreeSet<u16> = (0..100).map(|_| free_port()).collect();
        assert_eq!(ports.len(), 100);
    }
}
