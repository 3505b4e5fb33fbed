//! What daemons send each other.

use std::collections::BTreeMap;

use api::{
    cluster::{Capacity, Committed, Placed, State, Tx},
    discoverd::Term,
    host::{Event, Job},
    id::JobId,
};

/// A daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Node {
    Host(usize),
    Scheduler(usize),
}

/// A request to a flynn-host.
#[derive(Debug, Clone)]
pub(crate) enum Request {
    /// The leader asks for the jobs there are, and for the promise to obey its term.
    List { term: Term },
    /// The leader orders a job.
    Start { term: Term, job: Box<Job> },
    /// The leader orders its end.
    Stop { term: Term, job: JobId },
    /// A scheduler asks for the cluster's state.
    State,
    /// A scheduler commits a transaction.
    Commit { planner: Term, tx: Box<Tx> },
}

/// What comes back.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Listed(Option<(BTreeMap<JobId, Placed>, Capacity)>),
    Done(Result<(), String>),
    State(Option<Box<State>>),
    Committed(Box<Outcome>),
}

/// What became of a transaction.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    Done(Committed),
    Rejected,
    NotLeading,
}

/// What is on its way.
#[derive(Debug, Clone)]
pub(crate) enum Message {
    Ask(Request),
    Answer(Answer),
}

/// What will happen.
#[derive(Debug, Clone)]
pub(crate) enum Happening {
    /// A message arrives. `call` pairs an answer with its question.
    Deliver { from: Node, to: Node, call: u64, message: Message },
    /// Nobody waits for an answer any longer.
    Timeout { at: Node, call: u64 },
    /// A flynn-host's round: registration and leading.
    Sweep { host: usize, life: u32 },
    /// A scheduler's round; the sweep's comes again and again.
    Round { scheduler: usize, life: u32, sweep: bool },
    /// A job's process goes on.
    Step { host: usize, boot: u32, job: JobId, step: Step },
    /// A host's discoverd renews its lease.
    Renew { host: usize, boot: u32 },
    /// etcd looks for leases that ran out.
    Expire,
    /// A host's discoverd hears what is new.
    Hear { host: usize },
    /// A scheduler opens the stream of a host's events.
    Subscribe { scheduler: usize, life: u32, host: usize },
    /// A scheduler hears an event.
    Tell { scheduler: usize, host: usize, stream: u64, event: Box<Event> },
    /// A scheduler notices that a stream is dead.
    Lost { scheduler: usize, host: usize, stream: u64 },
    /// The controller tells a scheduler of all formations.
    Formations { scheduler: usize, life: u32 },
    /// The controller changes a formation.
    Scale,
    /// A leader forgets the transactions that are under way.
    Forget { host: usize },
    /// Something breaks.
    Break(Fault),
    /// And is mended.
    Mend(Fault),
}

/// What a job's process does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Started,
    Up,
    Crashed,
    Stopped,
}

/// What can break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// A flynn-host dies; its jobs run on.
    Daemon(usize),
    /// A host dies with everything on it.
    Machine(usize),
    /// A scheduler dies.
    Scheduler(usize),
    /// A host is cut off from all others and from etcd.
    Partition(usize),
    /// Nobody opens a connection to a host, which itself reaches everybody, and etcd.
    Deaf(usize),
    /// One host opens no connection to another, which opens them to it, and all else reaches both.
    OneWay(usize, usize),
    /// Whoever asks a leader next hangs up, and what was begun for it dies with it.
    HangUp,
    /// etcd answers nobody.
    Etcd,
    /// Messages are late, lost or doubled.
    Storm,
}
