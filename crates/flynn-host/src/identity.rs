//! Who this host is: `host/host.json` and `host/cluster.key`, made once by `flynn-host init`.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    config::Init,
    disk::{self, Durable},
    domain::net::{self, Cidr},
};

/// `host/host.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFile {
    /// The host's id.
    pub id: String,
    /// Addresses for all jobs of the cluster.
    pub range: Cidr,
    /// This host's part of the range, once it is claimed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<Cidr>,
    /// What placement may ask for.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}

/// The folders and files below the data dir.
#[derive(Debug, Clone)]
pub(crate) struct Folders {
    root: PathBuf,
}

impl Folders {
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self { root: data_dir.into() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn host(&self) -> PathBuf {
        self.root.join("host")
    }

    pub(crate) fn host_file(&self) -> PathBuf {
        self.host().join("host.json")
    }

    pub(crate) fn key_file(&self) -> PathBuf {
        self.host().join("cluster.key")
    }

    pub(crate) fn jobs(&self) -> PathBuf {
        self.host().join("jobs")
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.host().join("logs")
    }

    pub(crate) fn addresses(&self) -> PathBuf {
        self.host().join("addresses.json")
    }

    pub(crate) fn terms(&self) -> PathBuf {
        self.host().join("term.json")
    }

    pub(crate) fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }
}

/// The host cannot be prepared, or was not.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The id is not one.
    #[error(
        "{0:?} cannot be a host id: use small letters, digits and dashes, at most 60; give one with --id"
    )]
    BadId(String),
    /// The range is in use.
    #[error(
        "the network range {range} overlaps {route}, a route of this machine by {device}; give \
         another with --network-range, for example 10.213.0.0/16"
    )]
    Overlap {
        /// The range.
        range: Cidr,
        /// The route.
        route: Cidr,
        /// Its device.
        device: String,
    },
    /// The range holds no subnet.
    #[error("the network range {0} is too small: a host needs a /23 of it, and a /29 at the least")]
    TooSmall(Cidr),
    /// `init` was not run.
    #[error("{} is missing: run `flynn-host init` first", .0.display())]
    NotPrepared(PathBuf),
    /// A file could not be read or written.
    #[error("{} could not be read or written", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Makes host.json and the cluster key, unless they are there. Answers the host's id.
pub fn init(options: &Init) -> Result<HostFile, IdentityError> {
    let folders = Folders::new(&options.dir.data_dir);
    let at = |path: PathBuf| move |source| IdentityError::Io { path, source };
    disk::private_dir(&folders.host()).map_err(at(folders.host()))?;
    if let Some(known) = disk::read_json(&folders.host_file()).map_err(at(folders.host_file()))? {
        make_key(&folders)?;
        return Ok(known);
    }
    let id = match &options.id {
        Some(id) => id.clone(),
        None => hostname().map_err(at("/proc/sys/kernel/hostname".into()))?,
    };
    let range = options.network_range;
    check_id(&id)?;
    let table = fs::read_to_string("/proc/net/route").map_err(at("/proc/net/route".into()))?;
    check_range(range, &options.bridge, &table)?;
    make_key(&folders)?;
    let host = HostFile { id, range, subnet: None, tags: BTreeMap::new() };
    disk::write_json(&folders.host_file(), &host, Durable::Synced)
        .map_err(at(folders.host_file()))?;
    Ok(host)
}

fn hostname() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_lowercase().replace('.', "-"))
}

fn check_id(id: &str) -> Result<(), IdentityError> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let good = !id.is_empty() && id.len() <= 60 && !id.starts_with('-') && id.bytes().all(plain);
    if good { Ok(()) } else { Err(IdentityError::BadId(id.chars().take(80).collect())) }
}

fn check_range(range: Cidr, bridge: &str, table: &str) -> Result<(), IdentityError> {
    if range.prefix() > 29 {
        return Err(IdentityError::TooSmall(range));
    }
    // `*` is our own route, which refuses what no host has.
    let foreign = |route: &net::Route| route.device != bridge && route.device != "*";
    match net::routes(table).into_iter().find(|r| foreign(r) && r.to.overlaps(range)) {
        Some(net::Route { device, to: route }) => {
            Err(IdentityError::Overlap { range, route, device })
        }
        None => Ok(()),
    }
}

/// 32 random bytes, made once.
fn make_key(folders: &Folders) -> Result<(), IdentityError> {
    let path = folders.key_file();
    if path.exists() {
        return Ok(());
    }
    let key = hex::encode(rand::random::<[u8; 32]>());
    disk::write(&path, key.as_bytes(), Durable::Synced)
        .map_err(|source| IdentityError::Io { path, source })
}

/// Reads host.json.
pub(crate) fn read(folders: &Folders) -> Result<HostFile, IdentityError> {
    let path = folders.host_file();
    match disk::read_json(&path) {
        Ok(Some(host)) => Ok(host),
        Ok(None) => Err(IdentityError::NotPrepared(path)),
        Err(source) => Err(IdentityError::Io { path, source }),
    }
}

/// Reads the cluster key.
pub(crate) fn cluster_key(folders: &Folders) -> Result<String, IdentityError> {
    let path = folders.key_file();
    match fs::read_to_string(&path) {
        Ok(key) => Ok(key.trim().into()),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Err(IdentityError::NotPrepared(path)),
        Err(source) => Err(IdentityError::Io { path, source }),
    }
}

/// Replaces host.json.
pub(crate) fn write(folders: &Folders, host: &HostFile) -> Result<(), IdentityError> {
    let path = folders.host_file();
    disk::write_json(&path, host, Durable::Synced)
        .map_err(|source| IdentityError::Io { path, source })
}

/// Changes at every boot.
pub(crate) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().replace('-', ""))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::DataDir;

    fn options(dir: &Path, id: &str) -> Init {
        Init {
            dir: DataDir { data_dir: dir.into() },
            id: Some(id.into()),
            network_range: "240.9.0.0/16".parse().unwrap(),
            bridge: "flynnbr0".into(),
        }
    }

    #[test]
    fn a_second_init_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let folders = Folders::new(dir.path());
        let first = init(&options(dir.path(), "host-1")).unwrap();
        let key = cluster_key(&folders).unwrap();
        assert_eq!(key.len(), 64);
        assert_eq!(init(&options(dir.path(), "host-2")).unwrap(), first);
        assert_eq!(cluster_key(&folders).unwrap(), key);
        for file in [folders.host_file(), folders.key_file()] {
            assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn a_range_in_use_is_refused_and_names_the_route() {
        let table = "head\ndocker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n";
        let check = |range: &str| check_range(range.parse().unwrap(), "flynnbr0", table);
        let err = check("172.16.0.0/12").unwrap_err().to_string();
        assert!(err.contains("172.17.0.0/16") && err.contains("docker0"), "{err}");
        assert!(check("100.64.0.0/10").is_ok());
        assert!(matches!(check("10.0.0.0/30"), Err(IdentityError::TooSmall(_))));
    }

    #[test]
    fn ids_are_plain_names() {
        assert!(check_id("web-1").is_ok());
        for id in ["", "-a", "Web", "a.b", "a/b"] {
            assert!(check_id(id).is_err(), "{id}");
        }
    }
}
