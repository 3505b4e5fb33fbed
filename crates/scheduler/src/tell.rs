//! Telling the controller what became of jobs, apart from the loop, so that a slow controller delays no job.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use api::{
    controller::{Job, JobState},
    discoverd::Term,
    host::{EndReason, TERM_HEADER},
    id::{AppId, JobId},
};
use api_client::Client;
use controller_client::{Controller, Error};
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::domain::Reports;

/// Jobs that are reported at once.
const AT_ONCE: usize = 8;

/// Pause before what could not be told is told again.
const PAUSE: Duration = Duration::from_millis(500);

/// A job the controller knew before this scheduler led is given up for gone when no host has told of it for so long.
const GONE_AFTER: Duration = Duration::from_secs(10);

/// What the controller knows of a job.
#[derive(Debug)]
struct Told {
    job: Job,
    /// Not by us, but when we began.
    before: Option<Instant>,
}

type AllTold = BTreeMap<JobId, Told>;

/// What the controller should know, and under which term this scheduler leads: the controller refuses the word of an older
/// one.
#[derive(Debug, Clone)]
pub struct Word {
    /// The term.
    pub term: Term,
    /// What it should know.
    pub reports: Arc<Reports>,
}

/// Tells the controller every change for as long as the daemon runs and leads. Of each job only the latest is told, and
/// no app's jobs wait for all those of another.
pub async fn keep_telling(
    client: Client,
    mut words: watch::Receiver<Option<Word>>,
    stop: CancellationToken,
) {
    let mut teller: Option<Teller> = None;
    let mut under_way = FuturesUnordered::new();
    loop {
        let word = words.borrow_and_update().clone();
        if teller.as_ref().map(|teller| teller.term) != word.as_ref().map(|word| word.term) {
            teller = None;
            under_way.clear();
        }
        if let Some(word) = word {
            match &mut teller {
                Some(teller) => teller.look(word.reports),
                none => match Teller::begin(&client, &word).await {
                    Ok(teller) => none.insert(teller).look(word.reports),
                    Err(err) => {
                        let error = &err as &dyn std::error::Error;
                        debug!(error, "the controller cannot be asked what it knows of jobs");
                    }
                },
            }
        }
        let mut changed = false;
        while !changed {
            while under_way.len() < AT_ONCE
                && let Some(teller) = &mut teller
                && let Some(job) = teller.next()
            {
                let controller = teller.controller.clone();
                under_way.push(async move {
                    let answer = controller.put_job(&job).await.map(drop);
                    (job, answer)
                });
            }
            let unknown = teller.is_none() && words.borrow().is_some();
            let again = teller.as_ref().is_some_and(Teller::is_to_tell_again);
            tokio::select! {
                () = stop.cancelled() => return,
                told = words.changed() => match told {
                    Ok(()) => changed = true,
                    Err(_) => return,
                },
                Some((job, answer)) = under_way.next(), if !under_way.is_empty() => {
                    teller.iter_mut().for_each(|teller| teller.answered(&job, &answer));
                }
                () = sleep(PAUSE), if again || unknown => changed = true,
            }
        }
    }
}

/// What a scheduler tells during one term.
struct Teller {
    term: Term,
    controller: Controller,
    wanted: Arc<Reports>,
    told: AllTold,
    queue: VecDeque<Job>,
    under_way: BTreeSet<JobId>,
    /// Something could not be told.
    again: bool,
    /// Another scheduler has told under a higher term.
    deposed: bool,
}

impl Teller {
    /// Asks the controller what it knows.
    async fn begin(client: &Client, word: &Word) -> Result<Self, Error> {
        let client = client.with_header(TERM_HEADER, &word.term.to_header());
        let controller = Controller::with_client(client);
        Ok(Self {
            term: word.term,
            told: known(&controller, &word.reports).await?,
            controller,
            wanted: word.reports.clone(),
            queue: VecDeque::new(),
            under_way: BTreeSet::new(),
            again: false,
            deposed: false,
        })
    }

    /// Takes the latest reports: what was to be told before and is no more so is not told.
    fn look(&mut self, wanted: Arc<Reports>) {
        self.wanted = wanted;
        self.again = false;
        if self.deposed {
            return;
        }
        let (wanted, under_way) = (&self.wanted, &self.under_way);
        self.told.retain(|id, told| wanted.contains_key(id) || is_active(told.job.state));
        let changes = changes(wanted, &self.told).into_iter();
        self.queue = in_turn(changes.filter(|job| !under_way.contains(&job.uuid))).into();
    }

    /// The next job to tell of.
    fn next(&mut self) -> Option<Job> {
        let job = self.queue.pop_front()?;
        self.under_way.insert(job.uuid);
        Some(job)
    }

    fn is_to_tell_again(&self) -> bool {
        self.again && self.queue.is_empty() && self.under_way.is_empty()
    }

    fn answered(&mut self, job: &Job, answer: &Result<(), Error>) {
        self.under_way.remove(&job.uuid);
        if let Err(err) = answer {
            let error = err as &dyn std::error::Error;
            if err.is_retryable() {
                debug!(error, job.id, "job {} is told later", job.id);
                self.again = true;
                return;
            }
            if err.is_conflict() {
                if !std::mem::replace(&mut self.deposed, true) {
                    warn!(error, "another scheduler tells the controller of jobs; this one stops");
                }
                self.queue.clear();
                return;
            }
            match err.is_not_found() {
                true => debug!(job.id, "the app of job {} is gone", job.id),
                false => {
                    warn!(error, job.id, "the controller does not want to know of job {}", job.id);
                }
            }
        }
        // What became of it meanwhile.
        let latest = self.wanted.get(&job.uuid).cloned().flatten();
        self.queue.extend(latest.filter(|latest| !same(latest, job)));
        self.told.insert(job.uuid, Told { job: job.clone(), before: None });
    }
}

/// Of each app one in turn, in the order they have: many changes of one hold up no other.
fn in_turn(changes: impl Iterator<Item = Job>) -> Vec<Job> {
    let mut counts: BTreeMap<AppId, usize> = BTreeMap::new();
    let numbered = changes.map(|job| {
        let count = counts.entry(job.app).or_default();
        *count += 1;
        (*count, job)
    });
    let mut numbered: Vec<(usize, Job)> = numbered.collect();
    numbered.sort_by_key(|(number, _)| *number);
    numbered.into_iter().map(|(_, job)| job).collect()
}

/// What the controller knows already, so that a scheduler that takes over tells only what changed: every job that has not
/// ended, and what it knows of the apps of which the hosts report jobs that have. Most apps have none: ten thousand are not
/// asked for one by one.
async fn known(controller: &Controller, reports: &Reports) -> Result<AllTold, Error> {
    let mut jobs = controller.active_jobs().await?;
    let ended = reports.values().flatten().filter(|job| !is_active(job.state));
    let apps: BTreeSet<AppId> = ended.map(|job| job.app).collect();
    for app in apps {
        match controller.current_jobs(&app.to_string()).await {
            // Later than the others, so these are right.
            Ok(current) => jobs.extend(current),
            Err(err) if err.is_not_found() => {}
            Err(err) => return Err(err),
        }
    }
    let before = Some(Instant::now());
    Ok(jobs.into_iter().map(|job| (job.uuid, Told { job, before })).collect())
}

/// What the controller has yet to be told: endings first, since deployments and people wait for them.
fn changes(wanted: &Reports, told: &AllTold) -> Vec<Job> {
    let mut changes: Vec<Job> = wanted
        .iter()
        .filter_map(|(id, job)| {
            let job = job.as_ref()?;
            (!told.get(id).is_some_and(|told| same(&told.job, job))).then(|| job.clone())
        })
        .collect();
    for (id, Told { job, before }) in told {
        let waited = before.is_none_or(|before| before.elapsed() >= GONE_AFTER);
        if is_active(job.state) && !wanted.contains_key(id) && waited {
            changes.push(gone(job));
        }
    }
    changes.sort_by_key(|job| is_active(job.state));
    changes
}

fn gone(job: &Job) -> Job {
    let why = match (&job.host_id, job.state) {
        (None, _) | (_, JobState::Pending) => None,
        (Some(host), _) => Some(format!("host {host} is gone, or no longer knows the job")),
    };
    let end_reason = why.is_some().then_some(EndReason::HostLost);
    Job { state: JobState::Down, host_error: why, end_reason, run_at: None, ..job.clone() }
}

fn is_active(state: JobState) -> bool {
    match state {
        JobState::Pending | JobState::Starting | JobState::Up | JobState::Stopping => true,
        JobState::Down | JobState::Crashed => false,
    }
}

/// Whether the controller would say the same; times of its own do not count.
fn same(told: &Job, job: &Job) -> bool {
    let timeless = |job: &Job| Job { created_at: None, updated_at: None, ..job.clone() };
    timeless(told) == timeless(job)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_changes_of_one_app_hold_up_no_other() {
        let id = uuid::Uuid::from_u128;
        let job = |app: u128, n: u128| -> Job {
            serde_json::from_value(serde_json::json!({
                "id": id(n), "uuid": id(n), "app": id(app), "release": id(9), "type": "web",
                "state": "up",
            }))
            .unwrap()
        };
        let changes = (0..1000).map(|n| job(1, n)).chain([job(2, 2000), job(2, 2001)]);
        let order = in_turn(changes);
        let place = |n: u128| order.iter().position(|job| job.uuid.uuid() == id(n)).unwrap();
        assert_eq!((order.len(), place(0), place(2000), place(2001)), (1002, 0, 1, 3));
    }
}
