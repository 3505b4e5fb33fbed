//! The cluster under test, from outside.

use std::{env, net::SocketAddr, sync::Arc, time::Duration};

use api::{host::ActiveJob, key};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::shell::{Said, sh};

fn var(name: &str, default: &str) -> String {
    env::var(name).unwrap_or_else(|_| default.into())
}

/// Domain of the cluster.
pub fn domain() -> String {
    var("CLUSTER_DOMAIN", "localhost")
}

/// Port of plain HTTP.
pub fn http_port() -> u16 {
    var("HTTP_PORT", "80").parse().expect("HTTP_PORT is a port")
}

/// Where the host keeps its data.
pub fn data_dir() -> String {
    var("FLYNN_DATA_DIR", "/var/lib/flynn")
}

/// A service's key, as its clients have it.
///
/// # Panics
/// When the cluster key cannot be read.
pub fn service_key(service: &str) -> String {
    let path = format!("{}/host/cluster.key", data_dir());
    let cluster = std::fs::read_to_string(&path).unwrap_or_else(|err| panic!("{path}: {err}"));
    key::derive(cluster.trim(), service, key::VERSION)
}

/// Every name is at one address.
struct Here(SocketAddr);

impl Resolve for Here {
    fn resolve(&self, _: Name) -> Resolving {
        let here: Addrs = Box::new(std::iter::once(self.0));
        Box::pin(std::future::ready(Ok(here)))
    }
}

/// An HTTP client to whom every name is this machine; `pooled` keeps its connections.
pub fn http(pooled: bool) -> reqwest::Client {
    http_at(([127, 0, 0, 1], http_port()).into(), pooled)
}

/// An HTTP client to whom every name is at an address.
///
/// # Panics
/// Never: the options are valid.
pub fn http_at(addr: SocketAddr, pooled: bool) -> reqwest::Client {
    reqwest::Client::builder()
        .dns_resolver(Arc::new(Here(addr)))
        .timeout(Duration::from_secs(20))
        .pool_max_idle_per_host(if pooled { 64 } else { 0 })
        .no_proxy()
        .build()
        .expect("the options are valid")
}

/// URL of a name of the cluster.
pub fn url(name: &str) -> String {
    match http_port() {
        80 => format!("http://{name}.{}/", domain()),
        port => format!("http://{name}.{}:{port}/", domain()),
    }
}

/// Asks flynn-host for its jobs.
///
/// # Errors
/// When it does not answer.
pub async fn jobs() -> Result<Vec<ActiveJob>, reqwest::Error> {
    let key = service_key("flynn-host");
    let request = http(false).get("http://127.0.0.1:1113/host/jobs").basic_auth("", Some(key));
    let jobs: std::collections::BTreeMap<String, ActiveJob> =
        request.send().await?.error_for_status()?.json().await?;
    Ok(jobs.into_values().collect())
}

/// The jobs of an app that hold room.
///
/// # Errors
/// When flynn-host does not answer.
pub async fn jobs_of(app: &str) -> Result<Vec<ActiveJob>, reqwest::Error> {
    let named = |job: &ActiveJob| {
        job.job.metadata.get(api::host::META_APP_NAME).is_some_and(|name| name == app)
    };
    Ok(jobs().await?.into_iter().filter(|job| job.status.is_active() && named(job)).collect())
}

/// Kills the first process of a container from outside the engine, as a crash would.
pub fn crash(container: &str) -> Said {
    // 0: it has just died, and a kill of 0 would be one of ourselves.
    sh(&format!(
        "pid=$(docker inspect -f '{{{{.State.Pid}}}}' {container}) && [ \"$pid\" -gt 0 ] && kill -9 $pid"
    ))
}

/// Names of the containers of a system app's jobs.
///
/// # Panics
/// When flynn-host does not answer.
pub async fn containers_of(app: &str) -> Vec<String> {
    let jobs = jobs_of(app).await.expect("flynn-host answers");
    jobs.into_iter().map(|job| job.container_id).filter(|id| !id.is_empty()).collect()
}

/// Runs a line of shell in which `$(addr SERVICE)` is the address of a service's first instance.
pub fn works(check: &str) -> Said {
    sh(&format!("{ADDR}; {check}"))
}

/// The shell function `addr`.
pub const ADDR: &str =
    "addr() { curl -fs http://127.0.0.1:1111/services/$1/instances | jq -re '.[0].addr'; }";

/// Waits until a line of shell succeeds; see [`works`].
pub async fn back(name: &str, check: &str, bound: Duration) {
    crate::until(&format!("{name} to be back"), bound, async || {
        let said = works(check);
        if said.status == 0 { Ok(()) } else { Err(said) }
    })
    .await;
}
