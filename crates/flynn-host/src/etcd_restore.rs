//! A member of etcd made anew out of what it has on disk: with the same keys, and a log of its own.
//!
//! etcd's own `--force-new-cluster` is not enough for members that join later: it cuts off the log where it was known to be
//! committed, while the keys may be ahead of that, so who reads the log from its beginning ends up with other keys than
//! the one who had it. A restored member begins with a snapshot, and that is what the others get. Its cluster has an id of
//! its own, so that members of the old one cannot talk to it.

use std::{collections::HashMap, fs, io, time::Duration};

use bollard::{
    models::{ContainerCreateBody, HostConfig, Mount, MountType},
    query_parameters::StopContainerOptionsBuilder,
};
use tokio::time::{Instant, sleep};
use tracing::{debug, info};
use uuid::Uuid;

use crate::{
    backend::engine::{Engine, EngineError},
    disk,
    domain::{spec::engine_log, users::LAYER0},
    etcd::forget,
    identity::Folders,
};

/// etcd writes down what it knows when it is told to stop; then it is killed.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// Longest time that making the new member may take.
const RESTORE_TIMEOUT: Duration = Duration::from_secs(120);
/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(100);
/// Where the new member is made, below its folder.
const MADE: &str = "member";

/// The member could not be made anew.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RestoreError {
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A file.
    #[error("etcd's folders: {0}")]
    Io(#[from] io::Error),
    /// etcd's tool.
    #[error("etcdctl could not read what etcd left (status {status}): {said}")]
    Unreadable {
        /// Its exit status.
        status: i32,
        /// What it printed last.
        said: String,
    },
    /// It goes on without end.
    #[error("etcdctl was not done within {RESTORE_TIMEOUT:?}")]
    Slow,
}

/// The member there was, and the one to be made.
#[derive(Debug)]
pub(crate) struct Restoration<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) folders: &'a Folders,
    /// Name of etcd's container.
    pub(crate) container: String,
    /// etcd's image.
    pub(crate) image: &'a str,
    /// The host.
    pub(crate) id: &'a str,
    /// Where the others will find the member.
    pub(crate) peer_url: &'a str,
}

impl Restoration<'_> {
    /// Stops etcd and makes the member, beside what is there.
    pub(crate) async fn make(&self) -> Result<(), RestoreError> {
        self.stop().await?;
        let beside = self.folders.etcd_restored();
        clear(&beside)?;
        // A member that an older daemon made is another user's.
        for folder in [&beside, &self.folders.etcd_data()] {
            disk::user_dir(folder, LAYER0)?;
        }
        let name = format!("{}-restore", self.container);
        self.engine.remove(&name).await?;
        let container = self.engine.create(&name, self.spec()).await?;
        self.engine.start(&container).await?;
        let done = self.wait(&container).await;
        self.engine.remove(&container).await?;
        done?;
        Ok(fs::File::open(&beside)?.sync_all()?)
    }

    /// Puts it in the place of what is there, which is kept aside. Done twice, the second does nothing.
    pub(crate) fn take(&self) -> io::Result<()> {
        let made = self.folders.etcd_restored().join(MADE);
        if made.try_exists()? {
            forget(&self.folders.etcd_data())?;
            fs::rename(made, self.folders.etcd_data())?;
            fs::File::open(self.folders.root())?.sync_all()?;
        }
        clear(&self.folders.etcd_restored())
    }

    async fn stop(&self) -> Result<(), RestoreError> {
        let Some(found) = self.engine.container(&self.container).await? else { return Ok(()) };
        let grace = i32::try_from(STOP_GRACE.as_secs()).unwrap_or(i32::MAX);
        let options = StopContainerOptionsBuilder::new().t(grace).build();
        // One that is paused takes no signal.
        if let Err(err) = self.engine.slow().stop_container(&found.id, Some(options)).await {
            debug!(error = %err, "etcd could not be stopped in good order; it is killed");
        }
        Ok(self.engine.remove(&found.id).await?)
    }

    fn spec(&self) -> ContainerCreateBody {
        let mount = |folder: std::path::PathBuf, path: &str, read_only| Mount {
            typ: Some(MountType::BIND),
            source: Some(folder.display().to_string()),
            target: Some(path.into()),
            read_only: Some(read_only),
            ..Mount::default()
        };
        let (id, url) = (self.id, self.peer_url);
        let args = [
            "snapshot",
            "restore",
            "/data/member/snap/db",
            "--skip-hash-check",
            &format!("--data-dir=/restored/{MADE}"),
            &format!("--name={id}"),
            &format!("--initial-cluster={id}={url}"),
            &format!("--initial-advertise-peer-urls={url}"),
            &format!("--initial-cluster-token=flynn-{}", Uuid::new_v4().simple()),
        ];
        ContainerCreateBody {
            image: Some(self.image.into()),
            user: Some(format!("{LAYER0}:{LAYER0}")),
            entrypoint: Some(vec!["/usr/bin/etcdctl".into()]),
            cmd: Some(args.iter().map(|arg| (*arg).to_owned()).collect()),
            env: Some(vec!["ETCDCTL_API=3".into()]),
            labels: Some(HashMap::from([("flynn.restores".into(), self.container.clone())])),
            host_config: Some(HostConfig {
                network_mode: Some("none".into()),
                mounts: Some(vec![
                    mount(self.folders.etcd_data(), "/data", false),
                    mount(self.folders.etcd_restored(), "/restored", false),
                ]),
                cap_drop: Some(vec!["ALL".into()]),
                log_config: Some(engine_log()),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        }
    }

    async fn wait(&self, container: &str) -> Result<(), RestoreError> {
        let end = Instant::now() + RESTORE_TIMEOUT;
        loop {
            let found = self.engine.container(container).await?;
            let status = found.filter(|found| !found.running).map(|found| found.exit_status);
            match status {
                Some(0) => {
                    info!("etcd's member is made anew of what it had");
                    return Ok(());
                }
                Some(status) => {
                    let log = self.engine.log(container, 0).await?;
                    let log = String::from_utf8_lossy(&log).into_owned();
                    let said = log.lines().last().unwrap_or_default().trim().to_owned();
                    return Err(RestoreError::Unreadable { status, said });
                }
                None if Instant::now() >= end => return Err(RestoreError::Slow),
                None => sleep(PAUSE).await,
            }
        }
    }
}

fn clear(folder: &std::path::Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
