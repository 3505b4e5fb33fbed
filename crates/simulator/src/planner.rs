//! A scheduler: what it observed, and the round it is in.

use std::collections::BTreeMap;

use api::discoverd::{Instance, META_JOB, Term};
use jiff::Timestamp;
use scheduler::{execute::Part, observe::Observed};

/// A scheduler.
#[derive(Debug)]
pub(crate) struct Planner {
    /// The host it is on.
    pub(crate) host: usize,
    pub(crate) up: bool,
    pub(crate) life: u32,
    pub(crate) observed: Observed,
    /// The stream it hears of each host, by the stream's number.
    pub(crate) streams: BTreeMap<usize, u64>,
    pub(crate) round: Round,
    /// Something changed while a round was under way.
    pub(crate) nudged: bool,
}

/// What a scheduler is doing.
#[derive(Debug, Default)]
pub(crate) enum Round {
    #[default]
    Idle,
    /// It asked for the state.
    Asked { call: u64, term: Term },
    /// Parts of its plan are being committed.
    Committing {
        term: Term,
        /// Each part, and whether it is the second try, of the stops alone.
        parts: BTreeMap<u64, (Part, bool)>,
        /// Whether to look again soon.
        again: bool,
        wake_at: Option<Timestamp>,
    },
}

impl Planner {
    pub(crate) fn new(host: usize, life: uuid::Uuid) -> Self {
        Self {
            host,
            up: true,
            life: 0,
            observed: Observed::new(life),
            streams: BTreeMap::new(),
            round: Round::Idle,
            nudged: false,
        }
    }

    /// As its host registers it. Each life is a job of its own.
    pub(crate) fn instance(&self, n: usize) -> Instance {
        let meta = [(META_JOB.to_owned(), self.job(n))].into();
        Instance::new("http", &format!("10.1.{n}.{}:3000", self.life % 250 + 1), meta)
    }

    /// The job it is.
    pub(crate) fn job(&self, n: usize) -> String {
        format!("scheduler-{n}-{}", self.life)
    }
}
