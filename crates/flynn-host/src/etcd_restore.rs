//! A member of etcd made anew out of what it has on disk: with the same keys, and a log of its own.
//!
//! etcd's own `--force-new-cluster` is not enough for members that join later: it cuts off the log where it was known to be
//! committed, while the keys may be ahead of that, so who reads the log from its beginning ends up with other keys than
//! the one who had it. A restored member begins with a snapshot, and that is what the others get. Its cluster has an id of
//! its own, so that members of the old one cannot talk to it.

use std::{collections::HashMap, fs, io, path::PathBuf, time::Duration};

use bollard::{
    models::{ContainerCreateBody, HostConfig, Mount, MountType},
    query_parameters::StopContainerOptionsBuilder,
};
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};
use uuid::Uuid;

use crate::{
    backend::engine::{Engine, EngineError},
    disk,
    domain::{spec::engine_log, users::LAYER0},
    etcd::{forget, put_aside},
    identity::Folders,
};

/// etcd writes down what it knows when it is told to stop; then it is killed.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// SIGKILL.
const KILL: u32 = 9;
/// Longest time that making the new member may take.
const RESTORE_TIMEOUT: Duration = Duration::from_secs(120);
/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(100);
/// Where the new member is made, below its folder.
const MADE: &str = "member";
/// What it is made of, below the folder of the old one.
const KEYS: &str = "member/snap/db";
/// Label of the container in which it is made: the name of etcd's.
pub(crate) const LABEL_RESTORES: &str = "flynn.restores";

/// The name of the container in which the member of an etcd's container is made anew.
pub(crate) fn container_name(etcd: &str) -> String {
    format!("{etcd}-restore")
}

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
    /// There is neither the member that was made nor one in its place.
    #[error("the member that was made is gone, from {} and from {}", .made.display(), .data.display())]
    Gone {
        /// Where it is made.
        made: PathBuf,
        /// Where it goes.
        data: PathBuf,
    },
    /// What was there before cannot be put back.
    #[error(
        "etcd has its quorum again, and what this host's member had is gone from {}: remove this host with flynn-host \
         remove on another one; to use this machine again, stop what runs on it, remove its data directory, and join anew",
        .0.display()
    )]
    NothingAside(PathBuf),
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
    /// Makes the member beside what is there, for which etcd is stopped. It is gone only once that is done: if it cannot
    /// be done etcd runs again as before, for its quorum may come back.
    pub(crate) async fn make(&self) -> Result<(), RestoreError> {
        self.drop_made()?;
        let beside = self.folders.etcd_restored();
        disk::user_dir(&beside, LAYER0)?;
        self.check_room()?;
        let name = container_name(&self.container);
        self.engine.remove(&name).await?;
        let container = self.engine.create(&name, self.spec()).await?;
        let etcd = self.stop().await?;
        let made = async {
            let done = self.run(&container).await;
            self.engine.remove(&container).await?;
            done?;
            fs::File::open(&beside)?.sync_all()?;
            match &etcd {
                Some(etcd) => Ok(self.engine.remove(etcd).await?),
                None => Ok(()),
            }
        };
        let made = made.await;
        if made.is_err()
            && let Some(etcd) = &etcd
            && let Err(err) = self.engine.start(etcd).await
        {
            warn!(error = &err as &dyn std::error::Error, "etcd stays stopped");
        }
        made
    }

    /// Whether the member is made and has not taken its place.
    pub(crate) fn is_made(&self) -> io::Result<bool> {
        self.folders.etcd_restored().join(MADE).try_exists()
    }

    /// Removes the member that was made, if it has not taken its place.
    pub(crate) fn drop_made(&self) -> io::Result<()> {
        clear(&self.folders.etcd_restored())
    }

    /// The new member is as large as what it is made of.
    fn check_room(&self) -> io::Result<()> {
        let size = fs::metadata(self.folders.etcd_data().join(KEYS)).map_or(0, |keys| keys.len());
        let stat = rustix::fs::statvfs(self.folders.root())?;
        match stat.f_bavail.saturating_mul(stat.f_frsize) < size {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }

    async fn run(&self, container: &str) -> Result<(), RestoreError> {
        // A member that an older daemon made is another user's.
        disk::user_dir(&self.folders.etcd_data(), LAYER0)?;
        self.engine.start(container).await?;
        self.wait(container).await
    }

    /// Puts it in the place of what is there, which is kept aside. Done twice, the second does nothing.
    pub(crate) fn take(&self) -> Result<(), RestoreError> {
        let (data, made) = (self.folders.etcd_data(), self.folders.etcd_restored().join(MADE));
        if self.is_made()? {
            forget(&data)?;
            fs::rename(made, data)?;
            fs::File::open(self.folders.root())?.sync_all()?;
        } else if !data.try_exists()? {
            // etcd would begin with nothing.
            return Err(RestoreError::Gone { made, data });
        }
        Ok(self.drop_made()?)
    }

    /// Fails when what was there cannot be put back: an operator may have needed its room.
    pub(crate) fn check_aside(&self) -> Result<(), RestoreError> {
        let data = self.folders.etcd_data();
        let is_back = self.is_made()? && data.try_exists()?;
        let aside = put_aside(&data);
        match is_back || aside.try_exists()? {
            true => Ok(()),
            false => Err(RestoreError::NothingAside(aside)),
        }
    }

    /// Puts what was there in its place again, and the member that was made beside it, if that had taken its place already.
    /// Done twice, the second does nothing.
    pub(crate) async fn put_back(&self) -> Result<(), RestoreError> {
        self.check_aside()?;
        if let Some(etcd) = self.stop().await? {
            self.engine.remove(&etcd).await?;
        }
        let (data, beside) = (self.folders.etcd_data(), self.folders.etcd_restored());
        if !self.is_made()? {
            disk::user_dir(&beside, LAYER0)?;
            fs::rename(&data, beside.join(MADE))?;
            fs::File::open(&beside)?.sync_all()?;
        }
        let aside = put_aside(&data);
        if !data.try_exists()? {
            fs::rename(aside, &data)?;
            fs::File::open(self.folders.root())?.sync_all()?;
        }
        Ok(())
    }

    /// Stops etcd's container, if there is one, and answers its id.
    async fn stop(&self) -> Result<Option<String>, RestoreError> {
        let Some(found) = self.engine.container(&self.container).await? else { return Ok(None) };
        let grace = i32::try_from(STOP_GRACE.as_secs()).unwrap_or(i32::MAX);
        let options = StopContainerOptionsBuilder::new().t(grace).build();
        // One that is paused takes no signal.
        if let Err(err) = self.engine.slow().stop_container(&found.id, Some(options)).await {
            debug!(error = %err, "etcd could not be stopped in good order; it is killed");
            self.engine.kill(&found.id, KILL).await?;
        }
        Ok(Some(found.id))
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
            &format!("/data/{KEYS}"),
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
            labels: Some(HashMap::from([(LABEL_RESTORES.into(), self.container.clone())])),
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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, PoisonError};

    use axum::{
        Router,
        http::{Method, StatusCode, Uri},
    };
    use tokio::net::UnixListener;

    use super::*;

    fn restoration<'a>(engine: &'a Engine, folders: &'a Folders) -> Restoration<'a> {
        Restoration {
            engine,
            folders,
            container: "x-etcd".into(),
            image: "flynn/etcd",
            id: "x",
            peer_url: "https://x:2380",
        }
    }

    #[tokio::test]
    async fn what_cannot_be_put_back_is_known_before_anything_is_moved() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("docker.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let engine = Engine::connect(&socket).unwrap();
        // It could not stop etcd.
        drop(listener);
        let folders = Folders::new(dir.path());
        let (data, made) = (folders.etcd_data(), folders.etcd_restored().join(MADE));
        let restoration = restoration(&engine, &folders);
        assert!(matches!(restoration.take(), Err(RestoreError::Gone { .. })), "it made nothing");
        assert!(!data.exists());
        fs::create_dir(&data).unwrap();
        restoration.take().unwrap();
        let aside = put_aside(&data);
        let put_back = restoration.put_back().await;
        assert!(matches!(put_back, Err(RestoreError::NothingAside(gone)) if gone == aside));
        assert!(data.exists() && !made.exists(), "the member that was made stays");
        fs::create_dir(&aside).unwrap();
        restoration.check_aside().unwrap();
        fs::remove_dir(&aside).unwrap();
        fs::create_dir_all(&made).unwrap();
        restoration.check_aside().unwrap();
        fs::remove_dir(&data).unwrap();
        assert!(restoration.check_aside().is_err(), "it was interrupted, and then removed");
    }

    /// What an engine is asked to do that has etcd, and answers to one request that it is out of order.
    async fn asked_while_making(broken: &'static str) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let (socket, folders) = (dir.path().join("docker.sock"), Folders::new(dir.path()));
        fs::create_dir(folders.etcd_data()).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heard = asked.clone();
        let answer = async move |method: Method, uri: Uri| {
            let path = uri.path().split_once("/containers/").map_or("", |(_, path)| path);
            let request = format!("{method} {path}");
            let said = match path {
                "create" => (StatusCode::CREATED, r#"{"Id":"new","Warnings":[]}"#),
                "x-etcd/json" => (StatusCode::OK, r#"{"Id":"etcd","State":{"Running":true}}"#),
                "new/json" => (StatusCode::OK, r#"{"Id":"new","State":{"Running":false}}"#),
                _ => (StatusCode::NO_CONTENT, ""),
            };
            let is_broken = request == broken;
            heard.lock().unwrap_or_else(PoisonError::into_inner).push(request);
            let out_of_order = (StatusCode::INTERNAL_SERVER_ERROR, r#"{"message":"no"}"#);
            if is_broken { out_of_order } else { said }
        };
        let router = Router::new().fallback(answer);
        let listener = UnixListener::bind(&socket).unwrap();
        let engine = Engine::connect(&socket).unwrap();
        let restoration = restoration(&engine, &folders);
        let made = tokio::select! {
            served = axum::serve(listener, router) => panic!("{served:?}"),
            made = restoration.make() => made,
        };
        assert_eq!(made.is_err(), !broken.is_empty(), "{made:?}");
        let asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.iter().filter(|request| !request.starts_with("GET")).cloned().collect()
    }

    #[tokio::test]
    async fn etcd_goes_only_when_the_member_is_made_and_else_runs_again() {
        let done = asked_while_making("").await;
        let at = |what: &str| done.iter().position(|request| request == what);
        assert!(at("POST etcd/stop") < at("POST new/start"), "{done:?}");
        assert!(
            at("POST new/start") < at("DELETE etcd") && at("DELETE etcd").is_some(),
            "{done:?}"
        );
        let no_image = asked_while_making("POST create").await;
        assert!(no_image.iter().all(|request| !request.contains("etcd/")), "{no_image:?}");
        for broken in ["POST new/start", "GET new/json"] {
            let asked = asked_while_making(broken).await;
            assert_eq!(asked.last().unwrap(), "POST etcd/start", "{asked:?}");
            assert!(!asked.contains(&"DELETE etcd".to_owned()), "{asked:?}");
        }
    }
}
