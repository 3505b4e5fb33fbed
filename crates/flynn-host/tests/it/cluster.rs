//! sampi on the leading host, and the network jobs live in.

use std::{collections::BTreeSet, time::Duration};

use api::{
    cluster::{Refusal, State, Tx},
    discoverd::{Instance, Term},
    error::ErrorCode,
    host::Status,
    id::JobId,
};
use host_client::{Cluster, CommitError};
use serde_json::json;
use testkit::wait_until_for;
use tokio::time::timeout;

use crate::support::{Fixture, LIMIT, ended, is, meta, shell, shell_with};

async fn leading(host: &Fixture, cluster: &Cluster) -> State {
    wait_until_for(LIMIT, "the host leads", || async {
        let state = cluster.state().await.map_err(|err| err.to_string())?;
        if state.hosts.contains_key(&host.prefix) { Ok(state) } else { Err(format!("{state:?}")) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_committed_job_runs_and_one_planned_on_an_old_state_is_refused() {
    let host = Fixture::start().await;
    let cluster = Cluster::new(host.url(), Some(host.key("flynn-host")));
    let state = leading(&host, &cluster).await;
    assert!(state.term > Term::default());
    let job = shell("sleep 1000");
    let tx = Tx {
        term: state.term,
        based_on: [(host.prefix.clone(), state.hosts[&host.prefix].version)].into(),
        add: [(host.prefix.clone(), vec![job.clone()])].into(),
        ..Tx::default()
    };
    let committed = cluster.commit(&tx).await.unwrap();
    assert!(committed.lost.is_empty());
    host.wait(job.id, is(Status::Running)).await;
    let state = cluster.state().await.unwrap();
    assert!(state.hosts[&host.prefix].jobs.contains_key(&job.id));
    match cluster.commit(&tx).await {
        Err(CommitError::Rejected(rejected)) => {
            assert_eq!(rejected.hosts[&host.prefix], Refusal::Changed);
        }
        other => panic!("{other:?}"),
    }
    let version = state.hosts[&host.prefix].version;
    let tx = Tx {
        term: state.term,
        based_on: [(host.prefix.clone(), version)].into(),
        remove: [(host.prefix.clone(), vec![job.id])].into(),
        ..Tx::default()
    };
    cluster.commit(&tx).await.unwrap();
    assert_eq!(host.wait(job.id, ended).await.status, Status::Done);
    wait_until_for(LIMIT, "its room is free", || async {
        let state = cluster.state().await.unwrap();
        if state.hosts[&host.prefix].jobs.is_empty() { Ok(()) } else { Err(state) }
    })
    .await;
    assert!(host.client().status().await.unwrap().leader);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_the_host_refuses_is_reported_lost() {
    let host = Fixture::start().await;
    let cluster = Cluster::new(host.url(), Some(host.key("flynn-host")));
    let state = leading(&host, &cluster).await;
    let mut bad = shell("true");
    bad.config.linux_capabilities = vec!["SYS_ADMIN".into()];
    let mut odd = shell("true");
    odd.limits.memory = 1;
    let good = shell("sleep 1000");
    let [bad_id, odd_id, good_id] = [bad.id, odd.id, good.id];
    let add = [(host.prefix.clone(), vec![bad, odd, good])].into();
    let tx = Tx { term: state.term, add, ..Tx::default() };
    let committed = cluster.commit(&tx).await.unwrap();
    assert!(committed.lost.contains_key(&host.prefix));
    assert!(committed.refused[&bad_id].contains("SYS_ADMIN"), "each for its own reason");
    assert!(committed.refused[&odd_id].contains("limits.memory"));
    assert!(!committed.refused.contains_key(&good_id));
    host.client().stop_job(good_id).await.unwrap();
    host.wait(good_id, ended).await;
    wait_until_for(LIMIT, "none of them is in the state", || async {
        let state = cluster.state().await.unwrap();
        if state.hosts[&host.prefix].jobs.is_empty() { Ok(()) } else { Err(state) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_of_an_old_leader_is_refused() {
    let host = Fixture::start().await;
    let client = host.client();
    let term = |epoch| Term { epoch, revision: 1 };
    client.with_term(term(8)).put_job(&shell("true")).await.unwrap();
    let late = client.with_term(term(7)).put_job(&shell("true")).await.unwrap_err();
    assert_eq!(late.code(), Some(ErrorCode::PreconditionFailed));
    client.set_tags(&meta(&[("rack", "a"), ("gone", "")])).await.unwrap();
    wait_until_for(LIMIT, "the tag is registered", || async {
        let hosts = host.discoverd.instances("flynn-host");
        if hosts.iter().any(|one| one.meta.get("tag:rack").is_some_and(|v| v == "a")) {
            Ok(())
        } else {
            Err(hosts)
        }
    })
    .await;
}

/// The jobs that the journal on disk holds.
fn journal(host: &Fixture) -> BTreeSet<JobId> {
    let files = std::fs::read_dir(host.dir.path().join("host/jobs")).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    names.filter_map(|name| name.strip_suffix(".json")?.parse().ok()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_whose_asker_hangs_up_is_done_wholly_or_not_at_all() {
    let host = Fixture::start().await;
    let cluster = Cluster::new(host.url(), Some(host.key("flynn-host")));
    let (client, state) = (host.client(), leading(&host, &cluster).await);
    for n in 0..30u64 {
        let (job, patience) = (shell("true"), Duration::from_micros(500 * (n % 15)));
        if n % 2 == 0 {
            let _gave_up = timeout(patience, client.put_job(&job)).await;
        } else {
            let add = [(host.prefix.clone(), vec![job])].into();
            let tx = Tx { term: state.term, add, ..Tx::default() };
            let _gave_up = timeout(patience, cluster.commit(&tx)).await;
        }
    }
    wait_until_for(LIMIT, "what is written down, known and counted is the same", || async {
        let known = client.jobs().await.map_err(|err| err.to_string())?;
        let state = cluster.state().await.map_err(|err| err.to_string())?;
        let counted: BTreeSet<JobId> = state.hosts[&host.prefix].jobs.keys().copied().collect();
        let (known, kept): (BTreeSet<JobId>, _) = (known.into_keys().collect(), journal(&host));
        let same = known == kept && counted.is_empty() && !known.is_empty();
        if same { Ok(()) } else { Err(format!("{known:?} {kept:?} {counted:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_nobody_reaches_does_not_keep_another_from_leading() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut host = Fixture::start().await;
    let cluster = Cluster::new(host.url(), Some(host.key("flynn-host")));
    leading(&host, &cluster).await;
    let meta = meta(&[("id", "unreached")]);
    let unreached = Instance::new("http", &silent.local_addr().unwrap().to_string(), meta);
    host.discoverd.put("flynn-host", unreached);
    host.stop_daemon().await;
    host.start_daemon().await;
    let cluster = Cluster::new(host.url(), Some(host.key("flynn-host")));
    let state = leading(&host, &cluster).await;
    assert!(!state.hosts.contains_key("unreached"), "{state:?}");
    let listed = host.client().hosts().await.unwrap();
    let of = |id: &str| listed.iter().find(|one| one.id == id).unwrap();
    assert!(of("unreached").up && of("unreached").unreachable);
    assert!(!of(&host.prefix).unreachable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_reaches_the_host_only_where_it_may() {
    let host = Fixture::start().await;
    let port = host.addr().port();
    let open = |ip: &str, port: u16| {
        format!("nc -w 2 {ip} {port} </dev/null >/dev/null 2>&1 && echo yes || echo no")
    };
    // The gateway's API is open to jobs (it asks for a key); what else listens on every address is not.
    let other = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
    let closed = other.local_addr().unwrap().port();
    let gateway = host.client().status().await.unwrap().gateway.to_string();
    let line = format!("{}; {}", open(&gateway, port), open(&gateway, closed));
    let job = shell_with(&line, json!({}));
    host.run(&job, ended).await;
    let log = host.log(job.id, None, true).await;
    let log: Vec<&str> = log.iter().map(|(_, msg)| msg.as_str()).collect();
    assert_eq!(log, ["yes", "no"]);
    let rules = crate::support::run("iptables", &["-w", "10", "-S", &host.config.chain]);
    let limited = format!("--dport {port} -m connlimit");
    assert!(rules.contains(&limited), "{rules}");
    let text = crate::support::run("ip", &["route", "show", "type", "blackhole"]);
    let range = &host.client().status().await.unwrap().subnet;
    let range = range.split('/').next().unwrap();
    assert!(text.contains(range), "{text}");
}
