//! The scheduler as a process, in a cluster whose only host is full: it knows of all that is wanted and can start none.

use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc, time::Duration};

use anyhow::Context;
use api::{
    cluster::{Capacity, HostState, State, TAG_FULL},
    discoverd::{Instance, META_JOB, Term},
    host::{Event, EventKind},
};
use axum::{Json, Router, response::sse, routing::get};
use daemon::Lifetime;
use futures_util::{StreamExt, stream};
use testkit::{Etcd, wait_until_for};
use tokio::{net::TcpListener, process::Child};

use super::server::KEY;
use crate::{
    discoverd::{Server as Discoverd, ours},
    usage,
};

/// Which job it is told that it is.
const JOB: &str = "host-00000000000000000000000000000001";

/// Far longer than reading all formations takes, also on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);

pub(super) struct Scheduler {
    process: Child,
    host: Lifetime,
    _discoverd: Discoverd,
    _etcd: Etcd,
}

impl Scheduler {
    /// Starts the scheduler that was built with this program, and waits until it knows what is wanted.
    pub(super) async fn start(controller: u16) -> anyhow::Result<Self> {
        let etcd = Etcd::start().await;
        let discoverd = Discoverd::start(&etcd).await?;
        let host = Lifetime::default();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let host_port = listener.local_addr()?.port();
        host.serve(listener, full_host(host_port));
        let port = testkit::free_port();
        let client = discoverd.client();
        for (service, port, meta) in [
            ("controller", controller, None),
            ("flynn-host", host_port, Some(("id", "host"))),
            ("controller-scheduler", port, Some((META_JOB, JOB))),
        ] {
            let meta = meta.map(|(key, value)| (key.to_owned(), value.to_owned()));
            let meta: BTreeMap<_, _> = meta.into_iter().collect();
            let instance = Instance::new("http", &format!("127.0.0.1:{port}"), meta);
            client.register_for_host(service, &instance).await.context("registering")?;
        }
        let process = ours("scheduler")?
            .env("PORT", port.to_string())
            .env("CONTROLLER_KEY", KEY)
            .env("HOST_KEY", KEY)
            .env("DISCOVERD", format!("http://{}", discoverd.addr()))
            .env("FLYNN_JOB_ID", JOB)
            .env("RUST_LOG", "error")
            .spawn()
            .context("starting the scheduler, which is built with: cargo build -p scheduler")?;
        let status = api_client::Client::new(format!("http://127.0.0.1:{port}"), None);
        wait_until_for(START_LIMIT, "the scheduler knows what is wanted", || {
            status.get::<serde_json::Value>("/.well-known/status")
        })
        .await;
        Ok(Self { process, host, _discoverd: discoverd, _etcd: etcd })
    }

    /// Bytes of memory it has.
    pub(super) fn memory(&self) -> anyhow::Result<u64> {
        usage::pss(self.process.id().context("the scheduler has ended")?)
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.host.end();
    }
}

/// What a scheduler asks a host that leads.
fn full_host(port: u16) -> Router {
    let host = HostState {
        version: 1,
        addr: format!("127.0.0.1:{port}"),
        tags: [(TAG_FULL.to_owned(), String::new())].into(),
        capacity: Capacity { memory: 0, cpu: 0, addresses: 0 },
        jobs: BTreeMap::new(),
    };
    let term = Term { epoch: 1, revision: 1 };
    let hosts = [("host".to_owned(), Arc::new(host))].into();
    let state = Arc::new(State { term, hosts, volumes: BTreeMap::new() });
    let events = async || {
        let synced = Event { event: EventKind::Synced, job: None };
        let synced = sse::Event::default().json_data(synced);
        sse::Sse::new(stream::iter([synced]).chain(stream::pending()))
    };
    Router::new()
        .route("/cluster/state", get(async move || Json(state.clone())))
        .route("/host/jobs", get(events))
}
