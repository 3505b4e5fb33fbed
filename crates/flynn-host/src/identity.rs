//! Who this host is: `host/host.json` and `host/cluster.key`, made once by `flynn-host init`.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tunnel::{Authority, AuthorityError};

use crate::{
    config::Init,
    disk::{self, Durable},
    domain::net::{self, Cidr},
    etcd::{self, Role},
    grid::{Grid, Member, Record},
    join::{self, Invitation},
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
    /// Where the other hosts find it; found out at every start if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addr: Option<Ipv4Addr>,
    /// When it joined its cluster: by that it knows itself in what the others say of a host of its id. Absent on one that
    /// is alone, and until the first start if an older daemon wrote this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joined_at: Option<Timestamp>,
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

    pub(crate) fn etcd_file(&self) -> PathBuf {
        self.host().join("etcd.json")
    }

    /// What a recovery of etcd has still to do.
    pub(crate) fn recovery_file(&self) -> PathBuf {
        self.host().join("recovery.json")
    }

    pub(crate) fn grid_file(&self) -> PathBuf {
        self.host().join("grid.json")
    }

    /// That this host was taken out of its cluster.
    pub(crate) fn removed_file(&self) -> PathBuf {
        self.host().join("removed.json")
    }

    pub(crate) fn invite_file(&self) -> PathBuf {
        self.host().join("invite.json")
    }

    pub(crate) fn ca_file(&self) -> PathBuf {
        self.host().join("ca.pem")
    }

    pub(crate) fn ca_key_file(&self) -> PathBuf {
        self.host().join("ca.key")
    }

    pub(crate) fn etcd_data(&self) -> PathBuf {
        self.root.join("etcd")
    }

    /// Where etcd's member is made anew.
    pub(crate) fn etcd_restored(&self) -> PathBuf {
        self.root.join("etcd.restored")
    }

    pub(crate) fn etcd_tls(&self) -> PathBuf {
        self.root.join("etcd-tls")
    }

    pub(crate) fn terms(&self) -> PathBuf {
        self.host().join("term.json")
    }

    pub(crate) fn unused(&self) -> PathBuf {
        self.host().join("unused.json")
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
    #[error("{} is missing: run `flynn-host init` or `flynn-host join` first", .0.display())]
    NotPrepared(PathBuf),
    /// The machine has no address.
    #[error("this machine's own address cannot be found out; say it with --addr")]
    NoAddress(#[source] io::Error),
    /// The CA.
    #[error("the cluster's CA cannot be used")]
    Authority(#[from] AuthorityError),
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

/// What `init` made.
#[derive(Debug)]
pub struct Made {
    /// The host.
    pub host: HostFile,
    /// What another machine may join with, once the daemon runs; none if the host is alone, or was there already.
    pub invitation: Option<Invitation>,
}

/// Makes host.json, the cluster key and what a cluster of several needs, unless they are there.
pub fn init(options: &Init) -> Result<Made, IdentityError> {
    let folders = Folders::new(&options.dir.data_dir);
    prepare(&folders)?;
    let at = |path: PathBuf| move |source| IdentityError::Io { path, source };
    if let Some(host) = disk::read_json(&folders.host_file()).map_err(at(folders.host_file()))? {
        make_key(&folders)?;
        return Ok(Made { host, invitation: None });
    }
    let id = chosen_id(options.id.as_deref())?;
    let range = options.network_range;
    check_routes(range, &options.bridge)?;
    make_key(&folders)?;
    let joined_at = (!options.alone).then(Timestamp::now);
    let invitation = joined_at.map(|at| found(&folders, &id, options, at)).transpose()?;
    let (subnet, tags, addr) = (None, BTreeMap::new(), options.addr);
    let host = HostFile { id, range, subnet, tags, addr, joined_at };
    write(&folders, &host)?;
    Ok(Made { host, invitation })
}

/// Makes this machine the first of a cluster of several.
fn found(
    folders: &Folders,
    id: &str,
    options: &Init,
    at: Timestamp,
) -> Result<Invitation, IdentityError> {
    let addr = match options.addr {
        Some(addr) => addr,
        None => own_address(None)?,
    };
    let authority = ensure_authority(folders)?;
    let tunnel = SocketAddrV4::new(addr, options.tunnel_port);
    grow(folders, id, tunnel, options.etcd_peer_port, at)?;
    let (invitation, kept) = join::invite(tunnel.into(), authority.fingerprint()?);
    let path = folders.invite_file();
    disk::write_json(&path, &kept, Durable::Synced)
        .map_err(|source| IdentityError::Io { path, source })?;
    Ok(invitation)
}

/// Notes that the host, whose etcd was nobody else's, is the first of several.
pub(crate) fn grow(
    folders: &Folders,
    id: &str,
    tunnel: SocketAddrV4,
    peer_port: u16,
    joined_at: Timestamp,
) -> Result<(), IdentityError> {
    let (addr, tunnel_port) = (*tunnel.ip(), tunnel.port());
    let url = etcd::peer_url(addr, peer_port);
    let record = Record { addr, tunnel_port, subnet: None, joined_at };
    let member = Member { host: id.into(), peer_url: url.clone(), learner: false, id: None };
    let grid = Grid { hosts: BTreeMap::from([(id.into(), record)]), members: vec![member] };
    let path = folders.grid_file();
    disk::write_json(&path, &grid, Durable::Synced)
        .map_err(|source| IdentityError::Io { path, source })?;
    // Last: it says that the rest is there.
    let role = Role::Member { cluster: format!("{id}={url}"), joined: false, id: None };
    let path = folders.etcd_file();
    role.write(folders).map_err(|source| IdentityError::Io { path, source })
}

/// Makes the folder of the host's own files.
pub(crate) fn prepare(folders: &Folders) -> Result<(), IdentityError> {
    let path = folders.host();
    disk::private_dir(&path).map_err(|source| IdentityError::Io { path, source })
}

/// The id that was asked for, or the machine's name.
pub(crate) fn chosen_id(asked: Option<&str>) -> Result<String, IdentityError> {
    let path = PathBuf::from("/proc/sys/kernel/hostname");
    let id = match asked {
        Some(id) => id.to_owned(),
        None => hostname().map_err(|source| IdentityError::Io { path, source })?,
    };
    check_id(&id)?;
    Ok(id)
}

/// This machine's address on the way to another, or to anywhere. Nothing is sent.
pub(crate) fn own_address(to: Option<SocketAddr>) -> Result<Ipv4Addr, IdentityError> {
    /// An address of a network that is for documentation: it is reached as everything is.
    const ANYWHERE: ([u8; 4], u16) = ([192, 0, 2, 1], 9);
    let find = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(to.unwrap_or(ANYWHERE.into()))?;
        match socket.local_addr()? {
            SocketAddr::V4(addr) => Ok(*addr.ip()),
            SocketAddr::V6(_) => Err(io::ErrorKind::AddrNotAvailable.into()),
        }
    };
    find().map_err(IdentityError::NoAddress)
}

/// The cluster's CA, made if there is none.
pub(crate) fn ensure_authority(folders: &Folders) -> Result<Authority, IdentityError> {
    if !folders.ca_file().exists() {
        keep_authority(folders, &Authority::make()?)?;
    }
    authority(folders)
}

/// Keeps the cluster's CA.
pub(crate) fn keep_authority(folders: &Folders, ca: &Authority) -> Result<(), IdentityError> {
    // The key first: a certificate without its key would be one for good.
    for (path, content) in
        [(folders.ca_key_file(), ca.key()), (folders.ca_file(), ca.cert().to_owned())]
    {
        disk::write(&path, content.as_bytes(), Durable::Synced)
            .map_err(|source| IdentityError::Io { path, source })?;
    }
    Ok(())
}

/// Reads the cluster's CA.
pub(crate) fn authority(folders: &Folders) -> Result<Authority, IdentityError> {
    let read = |path: PathBuf| match fs::read_to_string(&path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Err(IdentityError::NotPrepared(path)),
        read => read.map_err(|source| IdentityError::Io { path, source }),
    };
    Ok(Authority::read(&read(folders.ca_file())?, &read(folders.ca_key_file())?)?)
}

/// Refuses a range that overlaps a route of this machine.
pub(crate) fn check_routes(range: Cidr, bridge: &str) -> Result<(), IdentityError> {
    let path = PathBuf::from("/proc/net/route");
    let table = fs::read_to_string(&path).map_err(|source| IdentityError::Io { path, source })?;
    check_range(range, bridge, &table)
}

fn hostname() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_lowercase().replace('.', "-"))
}

/// Refuses what cannot be a host's id.
pub(crate) fn check_id(id: &str) -> Result<(), IdentityError> {
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
            alone: true,
            addr: None,
            tunnel_port: 1114,
            etcd_peer_port: 2380,
        }
    }

    #[test]
    fn a_second_init_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let folders = Folders::new(dir.path());
        let first = init(&options(dir.path(), "host-1")).unwrap().host;
        let key = cluster_key(&folders).unwrap();
        assert_eq!(key.len(), 64);
        assert_eq!(init(&options(dir.path(), "host-2")).unwrap().host, first);
        assert_eq!(cluster_key(&folders).unwrap(), key);
        for file in [folders.host_file(), folders.key_file()] {
            assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn the_first_of_several_has_a_ca_an_invitation_and_itself() {
        let dir = tempfile::tempdir().unwrap();
        let folders = Folders::new(dir.path());
        let addr = Some([10, 0, 0, 1].into());
        let options = Init { alone: false, addr, ..options(dir.path(), "host-1") };
        let invitation = init(&options).unwrap().invitation.unwrap().to_string();
        let fingerprint = authority(&folders).unwrap().fingerprint().unwrap();
        assert!(invitation.starts_with(&format!("10.0.0.1:1114/{fingerprint}/")), "{invitation}");
        let role = Role::read(&folders).unwrap();
        let cluster = "host-1=https://10.0.0.1:2380".to_owned();
        assert_eq!(role, Role::Member { cluster, joined: false, id: None });
        assert!(init(&options).unwrap().invitation.is_none());
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
