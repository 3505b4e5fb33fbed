//! One discoverd follows another instead of etcd, and loses nothing when it has to go on without.

use api::discoverd::{Event, EventKind};
use api_client::Client;
use futures_util::StreamExt;
use testkit::{Etcd, wait_until};

use crate::support::{Daemon, Options, addrs, instance, until};

/// Whether it watches etcd itself: only then others may follow it.
async fn watches_etcd(daemon: &Daemon) -> bool {
    let path = "/facts?revision=0&epoch=0";
    relay(daemon).events::<serde_json::Value>(path).await.is_ok()
}

fn relay(of: &Daemon) -> Client {
    of.client().client().without_retries()
}

async fn until_it_follows(daemon: &Daemon) {
    // Before it knows anything nobody may follow it, either.
    daemon.until_it_takes_writes().await;
    wait_until("it follows another", async || {
        if watches_etcd(daemon).await { Err("it watches etcd") } else { Ok(()) }
    })
    .await;
    daemon.until_it_takes_writes().await;
}

async fn until_it_watches_etcd(daemon: &Daemon) {
    wait_until("it watches etcd", async || {
        if watches_etcd(daemon).await { Ok(()) } else { Err("it follows another") }
    })
    .await;
}

#[tokio::test]
async fn what_is_registered_at_either_is_known_at_both() {
    let etcd = Etcd::start().await;
    let member = Daemon::start(&etcd).await;
    member.client().register_for_host("web", &instance(1)).await.unwrap();
    let follower = Options { relay: Some(relay(&member)), ..Options::new(&etcd) }.start().await;
    until_it_follows(&follower).await;

    follower.client().register_for_host("web", &instance(2)).await.unwrap();
    for daemon in [&member, &follower] {
        let mut watch = daemon.client().watch("web");
        let set = until(&mut watch, "both", |set| set.instances.len() == 2).await;
        assert_eq!(addrs(&set), ["10.0.0.1:8080", "10.0.0.2:8080"]);
        let set = until(&mut watch, "the leader", |set| set.leader.is_some()).await;
        assert_eq!(set.leader.as_ref().unwrap().instance.addr, "10.0.0.1:8080");
    }
    // The oldest goes: whoever watches etcd records the next leader, and the follower knows the same term.
    member.client().unregister("web", &instance(1).id).await.unwrap();
    let mut terms = Vec::new();
    for daemon in [&member, &follower] {
        let mut watch = daemon.client().watch("web");
        let second = |set: &discoverd_client::ServiceSet| {
            set.leader.as_ref().is_some_and(|l| l.instance.addr == "10.0.0.2:8080")
        };
        terms
            .push(until(&mut watch, "the next leader", second).await.leader.as_ref().unwrap().term);
    }
    assert_eq!(terms[0], terms[1]);
}

#[tokio::test]
async fn a_follower_goes_on_by_itself_and_follows_again() {
    let mut etcd = Etcd::start().await;
    let state = tempfile::tempdir().unwrap();
    let options = Options { state_dir: Some(state.path()), ..Options::new(&etcd) };
    let member = options.start().await;
    member.until_it_takes_writes().await;
    member.client().register_for_host("web", &instance(1)).await.unwrap();
    let port = member.addr.port();
    let follower = Options { relay: Some(relay(&member)), ..Options::new(&etcd) }.start().await;
    until_it_follows(&follower).await;
    let client = follower.client();
    let mut events = Box::pin(client.client().events::<Event>("/services/web").await.unwrap());

    member.end().await;
    until_it_watches_etcd(&follower).await;
    client.register_for_host("web", &instance(2)).await.unwrap();
    let _member = Options { port, ..options }.start().await;
    until_it_follows(&follower).await;
    client.register_for_host("web", &instance(3)).await.unwrap();

    etcd.kill();
    let mut watch = client.watch("web");
    wait_until("it says that it is stale", async || {
        let write = client.client().without_retries();
        let path = format!("/services/web/instances/{}", instance(9).id);
        let refused = write.delete::<serde_json::Value>(&path).await.unwrap_err();
        if refused.is_retryable() { Ok(()) } else { Err(refused) }
    })
    .await;
    let set = until(&mut watch, "the last answer", |set| set.current).await;
    assert_eq!(set.instances.len(), 3);
    etcd.restart().await;
    wait_until("writes succeed again", async || {
        client.register_for_host("web", &instance(4)).await
    })
    .await;

    // One stream told it all, each once, and nothing was ever gone.
    let mut told = Vec::new();
    while !told.contains(&instance(4).addr) {
        let event = tokio::time::timeout(testkit::LIMIT, events.next()).await.unwrap();
        let event = event.unwrap().unwrap();
        assert_ne!(event.kind, EventKind::Down, "{event:?}");
        if event.kind == EventKind::Up {
            told.push(event.instance.unwrap().addr);
        }
    }
    let expected: Vec<String> = (1..=4).map(|n| instance(n).addr).collect();
    assert_eq!(told, expected);
}
