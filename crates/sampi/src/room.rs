//! What is free on a host.

use api::{
    cluster::{Capacity, HostState},
    host::Limits,
};

/// Times a core may be promised. A job's `cpu` is a weight for when cores are short, not a reservation, so hosts share
/// them freely; beyond this nobody would get a share worth having.
pub const CPU_OVERCOMMIT: u64 = 100;

/// What is free on a host: its capacity less what its jobs may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes.
    pub memory: u64,
    /// Thousandths of a core, each promised up to [`CPU_OVERCOMMIT`] times.
    pub cpu: u64,
    /// Addresses. Every job counts as one: a job on the host's network is rare and the difference small.
    pub addresses: u32,
}

impl Room {
    /// All of a capacity.
    pub fn all(capacity: &Capacity) -> Self {
        Self {
            memory: capacity.memory,
            cpu: capacity.cpu.saturating_mul(CPU_OVERCOMMIT),
            addresses: capacity.addresses,
        }
    }

    /// What a host has left.
    pub fn of(host: &HostState) -> Self {
        let mut room = Self::all(&host.capacity);
        for job in host.jobs.values() {
            room.take(&job.limits);
        }
        room
    }

    /// Whether a job with these limits fits.
    pub fn fits(&self, limits: &Limits) -> bool {
        self.memory >= limits.memory && self.cpu >= u64::from(limits.cpu) && self.addresses >= 1
    }

    /// Takes a job's part. What a host reports is a fact even where it exceeds the capacity: then nothing is left.
    pub fn take(&mut self, limits: &Limits) {
        self.memory = self.memory.saturating_sub(limits.memory);
        self.cpu = self.cpu.saturating_sub(limits.cpu.into());
        self.addresses = self.addresses.saturating_sub(1);
    }
}
