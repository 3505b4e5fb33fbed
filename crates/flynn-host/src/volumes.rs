//! Whose a volume's data is: that host's which made it, and no other's until that host is removed from the cluster.
//!
//! Without it, what keeps data on a host that is away would be started elsewhere with nothing, and be taken for the whole.

pub(crate) mod folders;
pub(crate) mod sizes;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use api::{
    host::{ActiveJob, Job, Volume},
    id::JobId,
    validate::is_volume_name,
};
use keyspace::{Keyspace, Transaction};
use tokio::sync::watch;

use crate::grid::GridStore;

/// Below it: a key a volume, whose value is the host's id.
const VOLUMES: &str = "/flynn/volumes/";

/// A volume cannot be used here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    /// Its data is elsewhere.
    #[error(
        "the data of volume {volume} is on host {host}, which has to come back; if that host is lost for good, take it \
         out with `flynn-host remove {host}`, and this starts without its data"
    )]
    Elsewhere {
        /// The volume.
        volume: String,
        /// Whose it is.
        host: String,
    },
    /// Nobody knows.
    #[error("whether another host has the data of volume {volume} is not known while etcd is away")]
    Unknown {
        /// The volume.
        volume: String,
        /// Why.
        #[source]
        source: keyspace::Error,
    },
}

/// Another job has a volume that has one writer.
#[derive(Debug, thiserror::Error)]
#[error(
    "its volume {path} is in use by job {by} on this host, which has to end first: one job writes to a volume at a time"
)]
pub(crate) struct VolumeInUse {
    path: String,
    by: JobId,
}

/// Whether a job may have its volumes beside those that are there. The one it takes the place of makes way for it.
pub(crate) fn check_writers(job: &Job, active: &[ActiveJob]) -> Result<(), VolumeInUse> {
    let others = active.iter().filter(|other| job.replaces != Some(other.job.id));
    for other in others {
        for volume in &job.config.volumes {
            let mut theirs = other.job.config.volumes.iter();
            let held = theirs.find(|held| held.name == volume.name);
            if held.is_some_and(|held| !(held.shared && volume.shared)) {
                return Err(VolumeInUse { path: volume.path.clone(), by: other.job.id });
            }
        }
    }
    Ok(())
}

/// The volumes of the cluster, as one host of several claims them; a host that is alone has all.
#[derive(Debug)]
pub(crate) struct Volumes {
    id: String,
    several: Option<(Keyspace, Arc<GridStore>)>,
    /// How often one was given up.
    released: AtomicU64,
    /// Those that are being given up: what is said of them is about to change.
    going: watch::Sender<BTreeSet<String>>,
}

/// A volume that is being given up: who wants one of that name waits until this is dropped.
#[derive(Debug)]
pub(crate) struct Going<'a> {
    volumes: &'a Volumes,
    name: String,
}

impl Drop for Going<'_> {
    fn drop(&mut self) {
        self.volumes.going.send_modify(|going| _ = going.remove(&self.name));
    }
}

impl Volumes {
    pub(crate) fn new(id: &str, several: Option<(Keyspace, Arc<GridStore>)>) -> Self {
        Self {
            id: id.into(),
            several,
            released: AtomicU64::new(0),
            going: watch::Sender::default(),
        }
    }

    /// Makes these volumes be this host's. What it has already is: the host comes up without etcd.
    pub(crate) async fn claim(&self, folder: &Path, volumes: &[Volume]) -> Result<(), VolumeError> {
        for Volume { name, .. } in volumes {
            if !folder.join(name).exists() {
                let mut going = self.going.subscribe();
                // The sender is as old as this.
                let _ = going.wait_for(|going| !going.contains(name)).await;
                self.claim_one(name).await?;
            }
        }
        Ok(())
    }

    async fn claim_one(&self, name: &str) -> Result<(), VolumeError> {
        let Some((etcd, grid)) = &self.several else { return Ok(()) };
        let unknown = |source| VolumeError::Unknown { volume: name.into(), source };
        let key = format!("{VOLUMES}{name}");
        let found = etcd.get(&key).await.map_err(unknown)?;
        let claim = match found {
            None => Transaction::new().when_absent(&key),
            Some(found) => {
                let host = String::from_utf8_lossy(&found.value).into_owned();
                if host == self.id {
                    return Ok(());
                }
                if grid.now().hosts.contains_key(&host) {
                    return Err(VolumeError::Elsewhere { volume: name.into(), host });
                }
                Transaction::new().when_unchanged(&key, found.mod_revision)
            }
        };
        etcd.commit(claim.put(&key, self.id.clone().into_bytes())).await.map_err(unknown)?;
        Ok(())
    }

    /// The host that has the data of each volume of the cluster, as far as it is one of the cluster's. A host that is alone
    /// has all and names none.
    pub(crate) async fn claims(&self) -> Result<BTreeMap<String, String>, keyspace::Error> {
        let Some((etcd, grid)) = &self.several else { return Ok(BTreeMap::new()) };
        let hosts = grid.now().hosts.clone();
        let listed = etcd.list(VOLUMES).await?.entries.into_iter();
        let claims = listed.filter_map(|entry| {
            let host = String::from_utf8_lossy(&entry.value).into_owned();
            let name = entry.key.strip_prefix(VOLUMES)?.to_owned();
            hosts.contains_key(&host).then_some((name, host))
        });
        Ok(claims.collect())
    }

    /// How often one was given up: what was claimed before may have been among them.
    pub(crate) fn released(&self) -> u64 {
        self.released.load(Ordering::SeqCst)
    }

    /// The volumes that are this host's, by what it claimed.
    pub(crate) async fn own(&self) -> Result<BTreeSet<String>, keyspace::Error> {
        let Some((etcd, _)) = &self.several else { return Ok(BTreeSet::new()) };
        let listed = etcd.list(VOLUMES).await?.entries.into_iter();
        let own = listed.filter(|entry| *entry.value == *self.id.as_bytes());
        Ok(own.filter_map(|entry| Some(entry.key.strip_prefix(VOLUMES)?.to_owned())).collect())
    }

    /// Begins to give up a volume that has no folder and no job, while none is accepted; `None` if that was begun already.
    pub(crate) fn give_up(&self, name: &str) -> Option<Going<'_>> {
        self.released.fetch_add(1, Ordering::SeqCst);
        let begun = self.going.send_if_modified(|going| going.insert(name.into()));
        begun.then(|| Going { volumes: self, name: name.into() })
    }

    /// Gives it up, so that the next job with it may run anywhere.
    pub(crate) async fn release(&self, going: Going<'_>) -> Result<(), keyspace::Error> {
        let Some((etcd, _)) = &self.several else { return Ok(()) };
        let name = &going.name;
        let key = format!("{VOLUMES}{name}");
        let Some(found) = etcd.get(&key).await? else { return Ok(()) };
        if *found.value != *self.id.as_bytes() {
            return Ok(());
        }
        match etcd.delete_if(&key, found.mod_revision).await {
            // Somebody else changed it meanwhile: it is theirs.
            Err(err) if err.is_conflict() => Ok(()),
            done => done.map(drop),
        }
    }

    /// Claims what this host had before it was one of several.
    pub(crate) async fn claim_all(&self, folder: &Path) -> Result<(), VolumeError> {
        let names = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let names = names.filter_map(|entry| entry.file_name().into_string().ok());
        // What begins with a dot is on its way out.
        for name in names.filter(|name| is_volume_name(name)) {
            match self.claim_one(&name).await {
                // An old copy: the data that counts is elsewhere.
                Err(VolumeError::Elsewhere { .. }) => {}
                done => done?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grid::{Grid, Record};

    fn volume(name: &str) -> Vec<Volume> {
        vec![Volume { name: name.into(), path: "/data".into(), shared: false }]
    }

    #[tokio::test]
    async fn data_stays_where_it_is_until_its_host_is_removed() {
        let server = testkit::Etcd::start().await;
        let etcd = Keyspace::connect(&[server.url()]).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let record = |n: u8| Record {
            addr: [10, 0, 0, n].into(),
            tunnel_port: 1114,
            subnet: None,
            joined_at: jiff::Timestamp::UNIX_EPOCH,
        };
        let grid = |hosts: &[&str]| {
            let hosts = hosts.iter().map(|id| ((*id).to_owned(), record(1))).collect();
            let path = dir.path().join("grid.json");
            let grid = Grid { hosts, members: Vec::new() };
            std::fs::write(&path, serde_json::to_vec(&grid).unwrap()).unwrap();
            Arc::new(GridStore::open(path).unwrap())
        };
        let of = |id: &str, hosts: &[&str]| Volumes::new(id, Some((etcd.clone(), grid(hosts))));
        let give_up = async |of: Volumes| of.release(of.give_up("db").unwrap()).await.unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        of("a", &["a", "b"]).claim(&a, &volume("db")).await.unwrap();
        of("a", &["a", "b"]).claim(&a, &volume("db")).await.unwrap();
        let refused = of("b", &["a", "b"]).claim(&b, &volume("db")).await.unwrap_err();
        assert!(
            matches!(&refused, VolumeError::Elsewhere { host, .. } if host == "a"),
            "{refused}"
        );
        of("b", &["b"]).claim(&b, &volume("db")).await.unwrap();
        let claims = of("a", &["a", "b"]).claims().await.unwrap();
        assert_eq!(claims, [("db".to_owned(), "b".to_owned())].into());
        assert!(of("a", &["a"]).claims().await.unwrap().is_empty(), "b is no host any more");
        give_up(of("a", &["a", "b"])).await;
        assert_eq!(of("a", &["a", "b"]).claims().await.unwrap(), claims, "it is another's");
        // What is here needs no etcd, and a copy that was left behind takes nothing back.
        std::fs::create_dir_all(a.join("db")).unwrap();
        of("a", &["a", "b"]).claim_all(&a).await.unwrap();
        assert!(of("a", &["a", "b"]).claim_one("db").await.is_err());
        give_up(of("b", &["a", "b"])).await;
        assert!(of("a", &["a", "b"]).claims().await.unwrap().is_empty());
        of("a", &["a", "b"]).claim_one("db").await.unwrap();
        std::fs::create_dir_all(b.join(".going-db")).unwrap();
        of("b", &["a", "b"]).claim_all(&b).await.unwrap();
        assert_eq!(of("b", &["a", "b"]).claims().await.unwrap().len(), 1);
        assert!(Volumes::new("c", None).claim(&b, &volume("db")).await.is_ok());
    }

    #[tokio::test]
    async fn who_wants_a_volume_that_is_being_given_up_waits_and_claims_it_anew() {
        let volumes = Volumes::new("a", None);
        let (seen, nowhere) = (volumes.released(), Path::new("/nowhere"));
        let going = volumes.give_up("db").unwrap();
        assert!(volumes.give_up("db").is_none(), "that was begun already");
        assert_ne!(volumes.released(), seen, "what was claimed before is claimed once more");
        volumes.claim(nowhere, &volume("other")).await.unwrap();
        let of_db = volume("db");
        let mut claims = std::pin::pin!(volumes.claim(nowhere, &of_db));
        assert!(futures_util::poll!(&mut claims).is_pending());
        volumes.release(going).await.unwrap();
        claims.await.unwrap();
    }

    #[test]
    fn a_volume_has_one_writer_unless_all_share_it() {
        let job = |shared: bool| -> Job {
            serde_json::from_value(serde_json::json!({
                "id": JobId::random(), "image": "i",
                "config": { "volumes": [{ "name": "db", "path": "/data", "shared": shared }] },
            }))
            .unwrap()
        };
        let active = |job: &Job| -> ActiveJob {
            serde_json::from_value(serde_json::json!({
                "job": job, "host_id": "a", "status": "stopping", "created_at": "2026-01-01T00:00:00Z",
            }))
            .unwrap()
        };
        let (alone, shared) = (job(false), job(true));
        let refused = check_writers(&job(false), &[active(&alone)]).unwrap_err();
        assert!(refused.to_string().contains(&alone.id.to_string()), "{refused}");
        assert!(check_writers(&job(false), &[active(&shared)]).is_err());
        assert!(check_writers(&job(true), &[active(&shared)]).is_ok());
        let instead = Job { replaces: Some(alone.id), ..job(false) };
        assert!(check_writers(&instead, &[active(&alone)]).is_ok());
    }
}
