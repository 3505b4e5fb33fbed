//! The cluster of several hosts that `script/cluster` made, from outside.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use api::host::{ActiveJob, META_APP_NAME};
use serde_json::Value;

use crate::{
    shell::{Said, run},
    until,
};

/// A host may take so long to be whole again.
pub const WHOLE: Duration = Duration::from_secs(90);

/// `script/cluster …`.
pub fn cluster(words: &[&str]) -> Said {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../script/cluster");
    run(Path::new("/"), &[&[script], words].concat())
}

/// A line of shell on a host.
pub fn on(host: u8, line: &str) -> Said {
    cluster(&["exec", &host.to_string(), "bash", "-c", line])
}

/// Where a host is.
///
/// # Panics
/// When there is no such host.
pub fn address(host: u8) -> String {
    let dir =
        std::env::var("FLYNN_CLUSTER_DIR").unwrap_or_else(|_| "/var/lib/flynn-cluster".into());
    let path = format!("{dir}/h{host}/address");
    let last = std::fs::read_to_string(&path).unwrap_or_else(|err| panic!("{path}: {err}"));
    format!("10.217.0.{}", last.trim())
}

/// Where a host's router is.
pub fn router(host: u8) -> SocketAddr {
    let ip: Ipv4Addr = address(host).parse().expect("the address is one");
    (ip, 80).into()
}

/// `flynn-host list --json`, as one host sees it.
///
/// # Errors
/// What it said.
pub fn list(host: u8) -> Result<Vec<Value>, Said> {
    let said = on(host, "flynn-host list --json");
    serde_json::from_str(&said.out).map_err(|_| said)
}

/// The number of a host out of its id.
pub fn number(id: &str) -> u8 {
    id.trim_start_matches('h').split('-').next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// The processes of an app that are up, with their hosts.
///
/// # Errors
/// What `flynn ps` said.
pub fn up(host: u8, app: &str) -> Result<Vec<(String, u8)>, Said> {
    let said = on(host, &format!("flynn -a {app} ps --json"));
    let jobs: Vec<Value> = serde_json::from_str(&said.out).map_err(|_| said)?;
    let up = jobs.iter().filter(|job| job["state"] == "up").filter_map(|job| job["id"].as_str());
    Ok(up.map(|id| (id.to_owned(), number(id))).collect())
}

/// The hosts that run a process type of an app, once any does.
pub async fn hosts_of(hosts: &[u8], app: &str, kind: &str) -> BTreeSet<u8> {
    until(&format!("a {kind} process of {app}"), WHOLE, async || {
        let ps = format!("flynn -a {app} ps --json");
        let said = on(hosts[0], &ps);
        let jobs: Vec<Value> = serde_json::from_str(&said.out).map_err(|_| said)?;
        let up = jobs.iter().filter(|job| job["state"] == "up" && job["type"] == kind);
        let on: BTreeSet<u8> = up.filter_map(|job| job["id"].as_str()).map(number).collect();
        if on.is_empty() {
            Err(Said { status: 0, out: format!("{jobs:?}"), err: String::new() })
        } else {
            Ok(on)
        }
    })
    .await
}

/// The hosts that keep data the cluster cannot write without: that of Postgres and that of shelf. What only talks to them
/// (Postgres' API, the controller) may be anywhere.
pub async fn hosts_with_data(hosts: &[u8]) -> BTreeSet<u8> {
    &hosts_of(hosts, "postgres", "postgres").await | &hosts_of(hosts, "shelf", "web").await
}

/// The host that leads, as one host sees it.
///
/// # Errors
/// What was seen instead.
pub fn leader(host: u8) -> Result<u8, String> {
    let seen = list(host).map_err(|said| format!("{said:?}"))?;
    let leads = seen.iter().find(|one| one["leader"] == true && one["jobs"].is_u64());
    leads.and_then(|one| one["id"].as_str()).map(number).ok_or_else(|| format!("{seen:?}"))
}

/// Takes a host's own entry out of discovery; its daemon announces itself again, last in the order of succession.
const STEP_BACK: &str = r#"id=$(curl -fs http://127.0.0.1:1111/services/flynn-host/instances |
    jq -re --arg host "$HOST_ID" '.[] | select(.meta.id == $host) | .id') &&
    curl -fsX DELETE -u ":$(docker exec flynn-discoverd printenv DISCOVERD_KEY)" \
    http://127.0.0.1:1111/services/flynn-host/instances/$id"#;

/// Lets a host lead: whichever leads instead steps back. Nothing is restarted, and no job is touched.
pub async fn lead(hosts: &[u8], wanted: u8) {
    until(&format!("host {wanted} to lead"), WHOLE, async || {
        let leads = leader(wanted)?;
        if leads == wanted {
            return Ok(());
        }
        on(leads, &format!("HOST_ID=h{leads}; {STEP_BACK}")).ok();
        let next = until("another to lead", WHOLE, async || match leader(wanted) {
            Ok(next) if next != leads => Ok(next),
            seen => Err(seen),
        });
        let next = next.await;
        if next == wanted { Ok(()) } else { Err(format!("host {next} leads")) }
    })
    .await;
    until("every host to see it", WHOLE, async || {
        let seen: Vec<_> = hosts.iter().map(|host| leader(*host)).collect();
        if seen.iter().all(|leads| *leads == Ok(wanted)) { Ok(()) } else { Err(seen) }
    })
    .await;
}

/// Which of several rounds of the stories this is; what may be chosen differs from round to round.
pub fn round() -> usize {
    std::env::var("FLYNN_ROUND").ok().and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// The processes of an app that really run on a host, by that host's word: which, and what they do.
///
/// # Errors
/// What it said.
pub fn running(host: u8, app: &str) -> Result<Vec<String>, Said> {
    let said = on(host, "flynn-host ps --json");
    let jobs: Vec<ActiveJob> = serde_json::from_str(&said.out).map_err(|_| said)?;
    let of_app =
        |job: &&ActiveJob| job.job.metadata.get(META_APP_NAME).is_some_and(|name| name == app);
    let told = |job: &ActiveJob| format!("h{host}-{} {:?}", job.job.id, job.status);
    Ok(jobs.iter().filter(of_app).map(told).collect())
}

/// Waits until exactly so many processes of an app run, on all these hosts together, and all are up.
pub async fn count(hosts: &[u8], app: &str, wanted: usize, bound: Duration) {
    until(&format!("{wanted} processes of {app}"), bound, async || {
        let mut all = Vec::new();
        for host in hosts {
            all.extend(running(*host, app).map_err(|said| format!("{said:?}"))?);
        }
        let up = up(hosts[0], app).map_err(|said| format!("{said:?}"))?;
        if all.len() == wanted && up.len() == wanted {
            Ok(())
        } else {
            Err(format!("{} run: {all:?}; up: {up:?}", all.len()))
        }
    })
    .await;
}

/// An order to start three hosts in: one of the six, every one in the soak.
pub fn order() -> [u8; 3] {
    let orders = [[1, 2, 3], [1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1]];
    let chosen = std::env::var("FLYNN_ORDER").ok().and_then(|n| n.parse::<usize>().ok());
    orders[chosen.unwrap_or(4) % orders.len()]
}

/// What a host's own member of etcd has: a hash of all keys at a revision, the newest if none is given.
fn hash_of_keys(host: u8, revision: Option<&str>) -> Result<Value, Said> {
    let asked = serde_json::json!({ "revision": revision.unwrap_or("0") });
    let ask = "curl -fsm 5 -X POST http://127.0.0.1:2381/v3/maintenance/hash -d";
    let said = on(host, &format!("{ask} '{asked}'"));
    serde_json::from_str(&said.out).map_err(|_| said)
}

/// Waits until every member of etcd answers, and has the same keys as the others at the same revision.
pub async fn same_keys(hosts: &[u8]) {
    until("all members of etcd to have the same keys", WHOLE, async || {
        let first = hash_of_keys(hosts[0], None)?;
        let revision = first["header"]["revision"].as_str().unwrap_or_default().to_owned();
        let hashes: Result<Vec<Value>, Said> = hosts
            .iter()
            .map(|host| Ok(hash_of_keys(*host, Some(&revision))?["hash"].clone()))
            .collect();
        let hashes = hashes?;
        if hashes.iter().all(|hash| hash.is_number() && *hash == hashes[0]) {
            Ok(())
        } else {
            Err(Said { status: 0, out: format!("{hashes:?} at {revision}"), err: String::new() })
        }
    })
    .await;
}

/// Waits until the cluster is whole: these hosts are up, none is more, and etcd has its members.
pub async fn whole(hosts: &[u8], voters: usize) {
    until("the cluster to be whole", WHOLE, async || {
        let seen = list(hosts[0]).map_err(|said| format!("{said:?}"))?;
        let state: BTreeMap<u8, (bool, String)> = seen
            .iter()
            .map(|one| {
                let id = number(one["id"].as_str().unwrap_or_default());
                (id, (one["up"] == true, one["etcd"].as_str().unwrap_or_default().to_owned()))
            })
            .collect();
        let all_up = hosts.iter().all(|host| state.get(host).is_some_and(|(up, _)| *up));
        let votes = state.values().filter(|(_, etcd)| etcd == "voter").count();
        let leads = seen.iter().any(|one| one["leader"] == true && one["jobs"].is_u64());
        let good = all_up && state.len() == hosts.len() && votes == voters && leads;
        if good { Ok(()) } else { Err(format!("{state:?}, leads: {leads}")) }
    })
    .await;
}
