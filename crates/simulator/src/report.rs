//! What came of a seed.

use std::{collections::BTreeMap, fmt};

/// What happened in a seed, so that one sees whether it tried anything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Seeds.
    pub seeds: u64,
    /// Events handled.
    pub events: u64,
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Transactions that happened.
    pub commits: u64,
    /// Transactions refused, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Times a flynn-host began to lead.
    pub leaders: u64,
    /// Times a host was dropped from the state.
    pub hosts_lost: u64,
    /// Hosts that a new leader did without, for they answered nobody.
    pub left_out: u64,
    /// Orders refused by hosts, or not answered.
    pub orders_lost: u64,
    /// Messages lost on the way.
    pub dropped: u64,
    /// Jobs taken by hosts.
    pub jobs: u64,
}

impl Coverage {
    /// Adds another seed's.
    pub fn add(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.events += other.events;
        self.commits += other.commits;
        self.leaders += other.leaders;
        self.hosts_lost += other.hosts_lost;
        self.left_out += other.left_out;
        self.orders_lost += other.orders_lost;
        self.dropped += other.dropped;
        self.jobs += other.jobs;
        for (kind, n) in &other.faults {
            *self.faults.entry(kind).or_default() += n;
        }
        for (reason, n) in &other.refused {
            *self.refused.entry(reason.clone()).or_default() += n;
        }
    }

    /// Faults of all kinds.
    pub fn fault_count(&self) -> u64 {
        self.faults.values().sum()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seeds {}  events {}  jobs {}", self.seeds, self.events, self.jobs)?;
        writeln!(f, "faults {} {:?}", self.fault_count(), self.faults)?;
        writeln!(f, "commits {}  refused {:?}", self.commits, self.refused)?;
        write!(
            f,
            "leader changes {}  hosts lost {}  left out {}  orders lost {}  messages lost {}",
            self.leaders, self.hosts_lost, self.left_out, self.orders_lost, self.dropped
        )
    }
}

/// Something happened that must not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The seed that shows it.
    pub seed: u64,
    /// When, in simulated milliseconds.
    pub at: u64,
    /// What.
    pub what: String,
    /// The last things that happened before.
    pub trace: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.trace {
            writeln!(f, "  {line}")?;
        }
        write!(f, "seed {} at {} ms: {}", self.seed, self.at, self.what)
    }
}

impl std::error::Error for Failure {}
