//! Whether this scheduler acts.

use api::discoverd::{META_JOB, Term};
use discoverd_client::ServiceWatch;

/// Name of the schedulers' service.
pub const SERVICE: &str = "controller-scheduler";

/// Follows who leads the schedulers. flynn-host registers them, so a scheduler is the instance that names its job.
#[derive(Debug)]
pub struct Leadership {
    job_id: String,
    schedulers: ServiceWatch,
}

impl Leadership {
    /// Of the scheduler that is this job.
    pub fn new(job_id: String, schedulers: ServiceWatch) -> Self {
        Self { job_id, schedulers }
    }

    /// The term, if this scheduler leads. While discoverd is away its last word stands: hosts refuse an old term.
    pub fn term(&self) -> Option<Term> {
        let set = self.schedulers.borrow();
        let leader = set.leader.as_ref()?;
        let job = leader.instance.meta.get(META_JOB)?;
        same_job(job, &self.job_id).then_some(leader.term)
    }
}

/// Both may be a job's id alone or with its host's.
fn same_job(a: &str, b: &str) -> bool {
    a == b || a.ends_with(&format!("-{b}")) || b.ends_with(&format!("-{a}"))
}
