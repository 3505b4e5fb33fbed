//! Jobs that only sleep, and the containers they are.

use std::{path::Path, time::Duration};

use anyhow::{Context, bail};
use api::{
    host::{ActiveJob, Event, EventKind, Job, JobConfig, Limits},
    id::JobId,
    key,
};
use api_client::Error;
use bollard::{API_DEFAULT_VERSION, Docker, query_parameters::InspectContainerOptions};
use futures_util::{Stream, StreamExt};
use host_client::Host;
use tokio::time::{sleep, timeout};

/// Where the engine listens, and the longest time it may take for an answer, in seconds.
const SOCKET: (&str, u64) = ("/var/run/docker.sock", 60);

/// An image every cluster has.
const IMAGE: &str = "flynn/slugrunner";

/// Longest time for a job to run or to be gone.
const LIMIT: Duration = Duration::from_secs(60);

const PAUSE: Duration = Duration::from_millis(50);

const SIGKILL: u32 = 9;

pub(super) struct Jobs {
    pub(super) host: Host,
    pub(super) engine: Docker,
}

impl Jobs {
    /// Those of the flynn-host that keeps its data here.
    pub(super) fn of(data_dir: &Path) -> anyhow::Result<Self> {
        let path = data_dir.join("host/cluster.key");
        let cluster = std::fs::read_to_string(&path).with_context(|| {
            format!("reading {}; script/up brings a cluster up", path.display())
        })?;
        let key = key::derive(cluster.trim(), "flynn-host", key::VERSION);
        let engine = Docker::connect_with_unix(SOCKET.0, SOCKET.1, API_DEFAULT_VERSION)
            .context("connecting to the engine")?;
        Ok(Self { host: Host::new("http://127.0.0.1:1113".to_owned(), Some(key)), engine })
    }

    /// Orders one and waits until its process runs.
    pub(super) async fn start(&self, job: &Job) -> anyhow::Result<()> {
        let mut events = synced(&self.host).await?;
        self.order(job, &mut events).await
    }

    /// Orders one and waits until the host's events tell that its process runs. That it is up is told later: what is not
    /// checked must have run for a while.
    pub(super) async fn order(
        &self,
        job: &Job,
        events: &mut (impl Stream<Item = Result<Event, Error>> + Unpin),
    ) -> anyhow::Result<()> {
        self.host.put_job(job).await.context("ordering a job")?;
        let ours = |event: &Event| event.job.as_ref().is_some_and(|of| of.job.id == job.id);
        until(events, |event| event.event == EventKind::Start && ours(event)).await
    }

    pub(super) async fn job(&self, id: JobId) -> anyhow::Result<ActiveJob> {
        self.host.job(id).await.context("asking for a job")
    }

    /// Ends a job and waits until its container is gone.
    pub(super) async fn end(&self, id: JobId) -> anyhow::Result<()> {
        let container = self.job(id).await?.container_id;
        // `sleep` takes no notice of SIGTERM where it is the first process.
        self.host.signal(id, SIGKILL).await.context("killing a job")?;
        let gone = async {
            while self.has_container(&container).await {
                sleep(PAUSE).await;
            }
        };
        timeout(LIMIT, gone).await.with_context(|| format!("container {container} stays"))
    }

    /// Whether there is such a container.
    pub(super) async fn has_container(&self, id: &str) -> bool {
        self.engine.inspect_container(id, None::<InspectContainerOptions>).await.is_ok()
    }
}

/// The events of a host that are still to come.
pub(super) async fn synced(
    host: &Host,
) -> anyhow::Result<impl Stream<Item = Result<Event, Error>> + Unpin + use<>> {
    let mut events = host.events().await.context("asking for events")?.boxed();
    until(&mut events, |event| event.event == EventKind::Synced).await?;
    Ok(events)
}

async fn until(
    events: &mut (impl Stream<Item = Result<Event, Error>> + Unpin),
    so: impl Fn(&Event) -> bool,
) -> anyhow::Result<()> {
    let told = async {
        while let Some(event) = events.next().await {
            if so(&event?) {
                return Ok(());
            }
        }
        bail!("flynn-host closed the stream of its events")
    };
    timeout(LIMIT, told).await.context("flynn-host did not tell in time")?
}

pub(super) fn sleeper() -> Job {
    Job {
        id: JobId::random(),
        image: IMAGE.into(),
        slug: None,
        metadata: Default::default(),
        config: JobConfig {
            entrypoint: Some(vec!["sleep".into()]),
            args: vec!["1000".into()],
            ..JobConfig::default()
        },
        limits: Limits { memory: 16 << 20, cpu: 100, ..Limits::default() },
        resurrect: false,
        restarts: 0,
        replaces: None,
    }
}
