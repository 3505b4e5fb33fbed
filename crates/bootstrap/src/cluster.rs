//! The cluster as bootstrap reaches it: services by name, hosts, the controller.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use api::{
    cluster::{Committed, HostState, Refusal, State, Tx},
    discoverd::{Instance, Leader},
    host::{ActiveJob, Job, META_TYPE, Status},
};
use api_client::Client;
use controller_client::Controller;
use host_client::{Cluster as Sampi, CommitError, Host};

use crate::error::StepError;

/// Pause between two looks at something that is awaited.
const LOOK: Duration = Duration::from_millis(100);

/// The cluster as bootstrap reaches it.
#[derive(Debug, Clone)]
pub struct Cluster {
    discoverd: Client,
    /// The cluster's key.
    pub key: String,
    timeout: Duration,
}

impl Cluster {
    /// Reads the cluster's key; nothing is sent yet.
    pub fn open(data_dir: &Path, discoverd: &str, timeout: Duration) -> Result<Self, StepError> {
        let path = data_dir.join("host/cluster.key");
        let key = std::fs::read_to_string(&path)
            .map_err(|source| StepError::ClusterKey { path, source })?;
        Ok(Self {
            discoverd: Client::new(discoverd, None).without_retries(),
            key: key.trim().to_owned(),
            timeout,
        })
    }

    /// A service's key.
    pub fn service_key(&self, service: &str) -> String {
        api::key::derive(&self.key, service, api::key::VERSION)
    }

    /// Looks at something until it is so, or the step's time is over; then the error says what was seen last.
    pub async fn until<T, F>(&self, what: &str, mut look: impl FnMut() -> F) -> Result<T, StepError>
    where
        F: Future<Output = Result<T, Seen>>,
    {
        let end = Instant::now() + self.timeout;
        loop {
            match look().await {
                Ok(found) => return Ok(found),
                Err(Seen::Never(error)) => return Err(*error),
                Err(Seen::NotYet(seen)) if Instant::now() > end => {
                    return Err(StepError::Timeout { what: what.into(), seen });
                }
                Err(Seen::NotYet(_)) => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// The first instance of a service, as a base URL, when there is one.
    pub async fn service(&self, name: &str) -> Result<String, Seen> {
        let path = format!("/services/{name}/instances");
        let instances: Vec<Instance> = self.discoverd.get(&path).await.map_err(Seen::not_yet)?;
        let first =
            instances.first().ok_or_else(|| Seen::NotYet(format!("no instance of {name}")))?;
        Ok(format!("http://{}", first.addr))
    }

    /// sampi on the leading host.
    async fn sampi(&self) -> Result<Sampi, Seen> {
        let leader: Leader =
            self.discoverd.get("/services/flynn-host/leader").await.map_err(Seen::not_yet)?;
        let base = format!("http://{}", leader.instance.addr);
        Ok(Sampi::new(base, Some(self.service_key("flynn-host"))))
    }

    /// Waits until so many hosts are in the cluster.
    pub async fn until_hosts(&self, count: usize) -> Result<(), StepError> {
        let what = format!("{count} hosts to be in the cluster");
        self.until(&what, || async {
            let hosts = self.sampi().await?.state().await.map_err(Seen::not_yet)?.hosts;
            let ids: Vec<&str> = hosts.keys().map(String::as_str).collect();
            if ids.len() >= count {
                Ok(())
            } else {
                Err(Seen::NotYet(format!("there are {ids:?}")))
            }
        })
        .await
    }

    /// Refuses a cluster that has a controller already: a bootstrap that knows nothing of it would start a second
    /// database and draw keys that do not fit. A cluster whose discovery does not answer yet has none either.
    pub async fn refuse_second_bootstrap(&self) -> Result<(), StepError> {
        let found: Result<Vec<Instance>, _> =
            self.discoverd.get("/services/controller/instances").await;
        match found {
            Ok(instances) => match instances.first() {
                Some(controller) => Err(StepError::HasController(controller.addr.clone())),
                None => Ok(()),
            },
            Err(err) if err.is_not_found() => Ok(()),
            Err(err) => Err(StepError::request("asking discoverd for a controller")(err)),
        }
    }

    /// The controller, once it has an instance.
    pub async fn controller(&self, key: &str) -> Result<Controller, StepError> {
        let base = self.until("the controller", || self.service("controller")).await?;
        Ok(Controller::new(base, Some(key.into())))
    }

    /// Starts a job on the host with the fewest, unless a host has it already, and waits until it is up.
    pub async fn run(&self, job: &Job) -> Result<String, StepError> {
        let what = format!("job {} to be placed", job.id);
        let (host, addr) = self.until(&what, || self.place(job)).await?;
        let client = Host::new(format!("http://{addr}"), Some(self.service_key("flynn-host")));
        let what = format!("job {} ({}) to be up", job.id, job.image);
        self.until(&what, || async {
            let seen = client.job(job.id).await.map_err(Seen::not_yet)?;
            is_up(&seen)
        })
        .await?;
        Ok(host)
    }

    /// The host that has the job, after a transaction if need be, and its address.
    async fn place(&self, job: &Job) -> Result<(String, String), Seen> {
        let sampi = self.sampi().await?;
        let state = sampi.state().await.map_err(Seen::not_yet)?;
        if let Some(found) = holder(&state, job) {
            return Ok(found);
        }
        let (id, host) = emptiest(&state).ok_or_else(|| {
            Seen::NotYet(
                "no host takes jobs: each is away, being emptied, or has a full disk".into(),
            )
        })?;
        let tx = Tx {
            term: state.term,
            based_on: [(id.clone(), host.version)].into(),
            add: [(id.clone(), vec![job.clone()])].into(),
            remove: Default::default(),
        };
        match sampi.commit(&tx).await {
            Ok(Committed { lost, .. }) => match lost.get(id) {
                Some(reason) => Err(Seen::NotYet(format!("host {id} refused the job: {reason}"))),
                None => Ok((id.clone(), host.addr.clone())),
            },
            Err(CommitError::Rejected(rejected))
                if rejected.hosts.values().all(|why| *why == Refusal::Duplicate) =>
            {
                // An earlier try of this order; the next look finds where.
                Err(Seen::NotYet("it was placed meanwhile".into()))
            }
            Err(err) => Err(Seen::NotYet(err.to_string())),
        }
    }
}

/// The host with the fewest jobs among those that take any.
fn emptiest(state: &State) -> Option<(&String, &Arc<HostState>)> {
    let takes_jobs =
        |(_, host): &(&String, &Arc<HostState>)| !host.is_draining() && !host.is_full();
    state.hosts.iter().filter(takes_jobs).min_by_key(|(_, host)| host.jobs.len())
}

fn holder(state: &State, job: &Job) -> Option<(String, String)> {
    let (id, host) = state.hosts.iter().find(|(_, host)| host.jobs.contains_key(&job.id))?;
    Some((id.clone(), host.addr.clone()))
}

/// Whether a job is up, may still come up, or never will.
fn is_up(job: &ActiveJob) -> Result<(), Seen> {
    let said = job.error.clone().unwrap_or_default();
    match job.status {
        Status::Running => Ok(()),
        // What is no process of an app was to do something, and has.
        Status::Done if job.exit_status == Some(0) && !job.job.metadata.contains_key(META_TYPE) => {
            Ok(())
        }
        Status::Starting | Status::Stopping => {
            Err(Seen::NotYet(format!("it is {:?} {said}", job.status)))
        }
        Status::Done | Status::Crashed | Status::Failed if job.job.resurrect => {
            Err(Seen::NotYet(format!("it is {:?} {said}", job.status)))
        }
        Status::Done | Status::Crashed | Status::Failed => {
            Err(Seen::Never(Box::new(StepError::Ended {
                job: job.job.id,
                image: job.job.image.clone(),
                said,
            })))
        }
    }
}

/// What a look saw instead of what is awaited.
#[derive(Debug)]
pub enum Seen {
    /// It may still come.
    NotYet(String),
    /// It will not.
    Never(Box<StepError>),
}

impl Seen {
    /// A request failed in a way that may pass.
    pub fn not_yet(err: api_client::Error) -> Self {
        let mut said = err.to_string();
        let mut cause = std::error::Error::source(&err);
        while let Some(err) = cause {
            said = format!("{said}: {err}");
            cause = err.source();
        }
        Self::NotYet(said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(exit_status: i32, metadata: serde_json::Value) -> ActiveJob {
        let status = if exit_status == 0 { "done" } else { "crashed" };
        let job = serde_json::json!({
            "job": { "id": api::id::JobId::random(), "image": "i", "metadata": metadata },
            "host_id": "h", "status": status, "exit_status": exit_status,
            "created_at": "2026-01-01T00:00:00Z",
        });
        serde_json::from_value(job).unwrap()
    }

    #[test]
    fn a_job_that_did_what_it_was_for_is_done_and_a_process_that_ended_is_not() {
        assert!(is_up(&ended(0, serde_json::json!({}))).is_ok());
        assert!(matches!(is_up(&ended(3, serde_json::json!({}))), Err(Seen::Never(_))));
        let process = serde_json::json!({ META_TYPE: "web" });
        assert!(matches!(is_up(&ended(0, process)), Err(Seen::Never(_))));
    }

    #[test]
    fn a_job_goes_to_the_emptiest_host_that_takes_any() {
        let host = |jobs: usize, tags: &[&str]| {
            let placed = || serde_json::json!({ "limits": {} });
            let jobs: serde_json::Map<_, _> =
                (0..jobs).map(|_| (api::id::JobId::random().to_string(), placed())).collect();
            let tags: serde_json::Map<_, _> =
                tags.iter().map(|tag| ((*tag).to_owned(), "now".into())).collect();
            serde_json::json!({
                "version": 1, "addr": "h:1113", "tags": tags, "jobs": jobs,
                "capacity": { "memory": 1, "cpu": 1, "addresses": 1 },
            })
        };
        let state = |hosts: serde_json::Value| -> State {
            let term = serde_json::to_value(api::discoverd::Term::default()).unwrap();
            serde_json::from_value(serde_json::json!({ "term": term, "hosts": hosts })).unwrap()
        };
        let of = |state: &State| emptiest(state).map(|(id, _)| id.clone());
        let all = serde_json::json!({
            "busy": host(3, &[]),
            "draining": host(0, &[api::cluster::TAG_DRAINING]),
            "free": host(1, &[]),
            "full": host(0, &[api::cluster::TAG_FULL]),
        });
        assert_eq!(of(&state(all)).as_deref(), Some("free"));
        let none = serde_json::json!({ "full": host(0, &[api::cluster::TAG_FULL]) });
        assert_eq!(of(&state(none)), None);
    }
}
