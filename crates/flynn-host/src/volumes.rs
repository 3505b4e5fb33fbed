//! Whose a volume's data is: that host's which made it, and no other's until that host is removed from the cluster.
//!
//! Without it, what keeps data on a host that is away would be started elsewhere with nothing, and be taken for the whole.

use std::{path::Path, sync::Arc};

use api::host::Volume;
use keyspace::{Keyspace, Transaction};

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

/// The volumes of the cluster, as one host of several claims them; a host that is alone has all.
#[derive(Debug)]
pub(crate) struct Volumes {
    id: String,
    several: Option<(Keyspace, Arc<GridStore>)>,
}

impl Volumes {
    pub(crate) fn new(id: &str, several: Option<(Keyspace, Arc<GridStore>)>) -> Self {
        Self { id: id.into(), several }
    }

    /// Makes these volumes be this host's. What it has already is: the host comes up without etcd.
    pub(crate) async fn claim(&self, folder: &Path, volumes: &[Volume]) -> Result<(), VolumeError> {
        for Volume { name, .. } in volumes {
            if !folder.join(name).exists() {
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

    /// Claims what this host had before it was one of several.
    pub(crate) async fn claim_all(&self, folder: &Path) -> Result<(), VolumeError> {
        let names = std::fs::read_dir(folder).into_iter().flatten().flatten();
        for name in names.filter_map(|entry| entry.file_name().into_string().ok()) {
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
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        of("a", &["a", "b"]).claim(&a, &volume("db")).await.unwrap();
        of("a", &["a", "b"]).claim(&a, &volume("db")).await.unwrap();
        let refused = of("b", &["a", "b"]).claim(&b, &volume("db")).await.unwrap_err();
        assert!(
            matches!(&refused, VolumeError::Elsewhere { host, .. } if host == "a"),
            "{refused}"
        );
        of("b", &["b"]).claim(&b, &volume("db")).await.unwrap();
        // What is here needs no etcd, and a copy that was left behind takes nothing back.
        std::fs::create_dir_all(a.join("db")).unwrap();
        of("a", &["a", "b"]).claim_all(&a).await.unwrap();
        assert!(of("a", &["a", "b"]).claim_one("db").await.is_err());
        assert!(Volumes::new("c", None).claim(&b, &volume("db")).await.is_ok());
    }
}
