//! This host's part of the cluster's range: claimed once in etcd, kept on disk, so that the host comes up without etcd.

use std::{collections::BTreeMap, error::Error, time::Duration};

use daemon::Lifetime;
use jiff::Timestamp;
use keyspace::{Keyspace, Transaction};
use tracing::{error, info, warn};

use crate::{
    domain::net::Cidr,
    identity::{self, Folders, HostFile, IdentityError},
};

/// Below it: a key a subnet, `100.64.0.0-23`, whose value is the host's id.
const PREFIX: &str = "/flynn/subnets/";
/// Below it: a key a subnet whose host was removed, and when.
const FREED: &str = "/flynn/freed-subnets/";
/// Length of a host's subnet.
pub(crate) const LENGTH: u8 = 23;
/// Pause before etcd is asked again.
const PAUSE: Duration = Duration::from_millis(500);

/// The host has no subnet.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SubnetError {
    /// Another host has it.
    #[error(
        "the subnet {subnet} of this host belongs to host {owner} in etcd; if that host is gone, \
         delete the key {PREFIX}{} there", key_of(*subnet)
    )]
    Taken {
        /// The subnet on disk.
        subnet: Cidr,
        /// Whose it is.
        owner: String,
    },
    /// All are taken.
    #[error("every subnet of {0} belongs to a host; use a larger network range")]
    Full(Cidr),
    /// etcd.
    #[error("etcd could not be asked for a subnet")]
    Etcd(#[source] keyspace::Error),
    /// The disk.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// The key that says whose a subnet is.
pub(crate) fn key(subnet: Cidr) -> String {
    format!("{PREFIX}{}", key_of(subnet))
}

/// The key that says when a subnet became free, and that it did now. Routers may still know jobs at its addresses: the one
/// that is free the longest is given next, and those that nobody ever had before it.
pub(crate) fn freed(subnet: Cidr) -> (String, String) {
    (format!("{FREED}{}", key_of(subnet)), Timestamp::now().as_second().to_string())
}

fn key_of(subnet: Cidr) -> String {
    subnet.to_string().replace('/', "-")
}

/// The host's subnet; claimed if it has none yet, which waits for etcd.
pub(crate) async fn subnet(
    etcd: &Keyspace,
    folders: &Folders,
    host: &mut HostFile,
    lifetime: &Lifetime,
) -> Result<Cidr, SubnetError> {
    if let Some(subnet) = host.subnet {
        return match take(etcd, subnet, &host.id).await {
            Ok(None) => Ok(subnet),
            Ok(Some(owner)) => Err(SubnetError::Taken { subnet, owner }),
            Err(err) => {
                warn!(error = &err as &dyn Error, "etcd is away; using the subnet on disk");
                check_later(etcd.clone(), subnet, host.id.clone(), lifetime);
                Ok(subnet)
            }
        };
    }
    let subnet = loop {
        match claim(etcd, host).await {
            Err(SubnetError::Etcd(err)) => {
                warn!(error = &err as &dyn Error, "waiting for etcd to claim a subnet");
                tokio::time::sleep(PAUSE).await;
            }
            claimed => break claimed?,
        }
    };
    info!("this host's subnet is {subnet}");
    host.subnet = Some(subnet);
    identity::write(folders, host)?;
    Ok(subnet)
}

/// Asks etcd as soon as it is there. A subnet that is another host's ends this daemon, whose next start says why.
fn check_later(etcd: Keyspace, subnet: Cidr, id: String, lifetime: &Lifetime) {
    let own = lifetime.clone();
    lifetime.spawn("subnet", move |stop| async move {
        let asked = async {
            loop {
                if let Ok(owner) = take(&etcd, subnet, &id).await {
                    return owner;
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            owner = asked => if let Some(owner) = owner {
                error!("{}", SubnetError::Taken { subnet, owner });
                own.end();
            },
        }
    });
}

/// The subnet that is this host's already, or else the first nobody has.
async fn claim(etcd: &Keyspace, host: &HostFile) -> Result<Cidr, SubnetError> {
    let taken = etcd.list(PREFIX).await.map_err(SubnetError::Etcd)?.entries;
    let owner = |subnet: Cidr| {
        let key = format!("{PREFIX}{}", key_of(subnet));
        taken.iter().find(|entry| entry.key == key).map(|entry| entry.value.clone())
    };
    let mut parts = host.range.parts(LENGTH);
    if let Some(own) = parts.find(|part| owner(*part).is_some_and(|id| id == host.id.as_bytes())) {
        return Ok(own);
    }
    let freed: BTreeMap<String, i64> = {
        let listed = etcd.list(FREED).await.map_err(SubnetError::Etcd)?.entries;
        let at = |entry: keyspace::Entry| {
            let second = std::str::from_utf8(&entry.value).ok()?.parse().ok()?;
            Some((entry.key.strip_prefix(FREED)?.to_owned(), second))
        };
        listed.into_iter().filter_map(at).collect()
    };
    let mut free: Vec<Cidr> =
        host.range.parts(LENGTH).filter(|part| owner(*part).is_none()).collect();
    free.sort_by_key(|part| freed.get(&key_of(*part)).copied().unwrap_or(i64::MIN));
    for part in free {
        if take(etcd, part, &host.id).await.map_err(SubnetError::Etcd)?.is_none() {
            return Ok(part);
        }
    }
    Err(SubnetError::Full(host.range))
}

/// Takes a subnet for a host, or answers who else has it.
async fn take(etcd: &Keyspace, subnet: Cidr, id: &str) -> Result<Option<String>, keyspace::Error> {
    let key = format!("{PREFIX}{}", key_of(subnet));
    let put = Transaction::new().when_absent(&key).put(&key, id.to_owned());
    match etcd.commit(put).await {
        // Another host's, or of an earlier try of our own: the key says which.
        Err(err) if err.is_conflict() => {}
        done => _ = done?,
    }
    let owner =
        etcd.get(&key).await?.map(|entry| String::from_utf8_lossy(&entry.value).into_owned());
    Ok(owner.filter(|owner| owner != id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(id: &str) -> HostFile {
        let range = "10.9.0.0/22".parse().unwrap();
        let (subnet, tags, addr, joined_at) = Default::default();
        HostFile { id: id.into(), range, subnet, tags, addr, joined_at }
    }

    #[tokio::test]
    async fn every_host_gets_a_subnet_of_its_own_and_keeps_it() {
        let server = testkit::Etcd::start().await;
        let etcd = Keyspace::connect(&[server.url()]).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let folders = Folders::new(dir.path());
        std::fs::create_dir_all(folders.host()).unwrap();
        let of = async |id: &str| {
            let mut host = host(id);
            subnet(&etcd, &folders, &mut host, &Lifetime::default())
                .await
                .map(|subnet| subnet.to_string())
        };
        assert_eq!(of("a").await.unwrap(), "10.9.0.0/23");
        assert_eq!(of("b").await.unwrap(), "10.9.2.0/23");
        assert_eq!(of("a").await.unwrap(), "10.9.0.0/23");
        // Removed one after the other: the one that is free the longest comes first.
        for (subnet, second) in [("10.9.2.0/23", 5), ("10.9.0.0/23", 9)] {
            let subnet = subnet.parse().unwrap();
            let (at, _) = freed(subnet);
            let removal = Transaction::new().delete(key(subnet)).put(at, second.to_string());
            etcd.commit(removal).await.unwrap();
        }
        assert_eq!(of("b").await.unwrap(), "10.9.2.0/23");
        assert_eq!(of("a").await.unwrap(), "10.9.0.0/23");
        assert!(matches!(of("c").await, Err(SubnetError::Full(_))));
        let mut stolen = HostFile { subnet: Some("10.9.0.0/23".parse().unwrap()), ..host("d") };
        let taken = subnet(&etcd, &folders, &mut stolen, &Lifetime::default()).await;
        assert!(matches!(taken, Err(SubnetError::Taken { owner, .. }) if owner == "a"));
    }
}
