//! Against a real etcd that is killed, frozen and compacted.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use keyspace::{Change, Keyspace, Transaction, Update, Watch};
use testkit::{Etcd, wait_until};

const TTL: Duration = Duration::from_secs(5);

async fn connect(etcd: &Etcd) -> Keyspace {
    Keyspace::connect(&[etcd.url()]).await.unwrap()
}

/// The next update, or a panic.
async fn next(watch: &mut Watch) -> Update {
    tokio::time::timeout(Duration::from_secs(15), watch.next()).await.expect("an update comes")
}

/// The changes up to the next `Synced`, and its revision. `Lost` is passed over.
async fn changes(watch: &mut Watch) -> (Vec<Change>, u64) {
    let mut changes = Vec::new();
    loop {
        match next(watch).await {
            Update::Change(change) => changes.push(change),
            Update::Synced { revision } => return (changes, revision),
            Update::Lost { .. } => {}
        }
    }
}

async fn until_lost(watch: &mut Watch) {
    while !matches!(next(watch).await, Update::Lost { .. }) {}
}

fn keys(changes: &[Change]) -> Vec<(&str, bool)> {
    changes.iter().map(|change| (change.key.as_str(), change.value.is_some())).collect()
}

#[tokio::test]
async fn a_watch_tells_what_is_there_and_then_every_change_below_its_prefix() {
    let etcd = Etcd::start().await;
    let keyspace = connect(&etcd).await;
    let first = keyspace.put("/a/1", "one").await.unwrap();
    keyspace.put("/b/1", "elsewhere").await.unwrap();
    let mut watch = keyspace.watch("/a/");
    let (told, revision) = changes(&mut watch).await;
    assert_eq!(keys(&told), [("/a/1", true)]);
    assert_eq!((told[0].create_revision, revision), (first, first + 1));

    let both = Transaction::new().put("/a/2", "two").delete("/a/1");
    let second = keyspace.commit(both).await.unwrap();
    let (told, revision) = changes(&mut watch).await;
    assert_eq!(keys(&told), [("/a/2", true), ("/a/1", false)]);
    assert_eq!(revision, second);
    assert_eq!(told[1].create_revision, first);
}

#[tokio::test]
async fn nothing_is_lost_when_etcd_is_killed_and_compacted() {
    let mut etcd = Etcd::start().await;
    let keyspace = connect(&etcd).await;
    let mut watch = keyspace.watch("/a/");
    for key in ["/a/stays", "/a/goes", "/a/changes", "/a/returns"] {
        keyspace.put(key, "before").await.unwrap();
    }
    let mut seen = 0;
    while seen < 4 {
        seen += changes(&mut watch).await.0.len();
    }
    etcd.kill();
    until_lost(&mut watch).await;
    assert!(keyspace.get("/a/stays").await.unwrap_err().is_unavailable());

    etcd.restart().await;
    let writer = connect(&etcd).await;
    for key in ["/a/goes", "/a/returns"] {
        writer.delete(key).await.unwrap();
    }
    for key in ["/a/changes", "/a/returns", "/a/new"] {
        writer.put(key, "after").await.unwrap();
    }
    let revision = writer.delete("/a/no-such").await.unwrap();
    let mut raw = etcd_client::Client::connect([etcd.url()], None).await.unwrap();
    raw.compact(revision as i64, None).await.unwrap();

    let mut told = Vec::new();
    while !told.iter().any(|change: &Change| change.key == "/a/new") {
        told.extend(changes(&mut watch).await.0);
    }
    let mut seen = keys(&told);
    seen.sort_unstable();
    assert_eq!(
        seen,
        [
            ("/a/changes", true),
            ("/a/goes", false),
            ("/a/new", true),
            ("/a/returns", false),
            ("/a/returns", true)
        ]
    );
    writer.put("/a/later", "1").await.unwrap();
    assert_eq!(keys(&changes(&mut watch).await.0), [("/a/later", true)]);
}

#[tokio::test]
async fn a_frozen_etcd_is_noticed_and_its_return_too() {
    let etcd = Etcd::start().await;
    let keyspace = connect(&etcd).await;
    let mut watch = keyspace.watch("/a/");
    changes(&mut watch).await;
    etcd.freeze();
    until_lost(&mut watch).await;
    assert!(keyspace.put("/a/1", "1").await.unwrap_err().is_unavailable());
    etcd.thaw();
    changes(&mut watch).await;
    wait_until("writes succeed again", || keyspace.put("/a/1", "1")).await;
}

#[tokio::test]
async fn a_watch_waits_for_an_etcd_that_is_not_there_yet() {
    let mut etcd = Etcd::start().await;
    etcd.kill();
    let mut watch = connect(&etcd).await.watch("/a/");
    until_lost(&mut watch).await;
    etcd.restart().await;
    assert!(changes(&mut watch).await.0.is_empty());
}

#[tokio::test]
async fn a_guard_that_does_not_hold_writes_nothing() {
    let etcd = Etcd::start().await;
    let keyspace = connect(&etcd).await;
    let first = keyspace.create("/a", "1").await.unwrap();
    assert!(keyspace.create("/a", "2").await.unwrap_err().is_conflict());
    let second = keyspace.put_if("/a", "2", first).await.unwrap();
    assert!(keyspace.put_if("/a", "3", first).await.unwrap_err().is_conflict());
    assert!(keyspace.delete_if("/a", first).await.unwrap_err().is_conflict());
    let entry = keyspace.get("/a").await.unwrap().unwrap();
    assert_eq!(
        (&*entry.value, entry.create_revision, entry.mod_revision),
        (&b"2"[..], first, second)
    );
    keyspace.delete_if("/a", second).await.unwrap();
    assert_eq!(keyspace.get("/a").await.unwrap(), None);
    keyspace.commit(Transaction::new().when_present("/a").put("/b", "1")).await.unwrap_err();
    assert_eq!(keyspace.list("/").await.unwrap().entries, []);
}

#[tokio::test]
async fn a_listing_of_many_pages_is_complete() {
    let etcd = Etcd::start().await;
    let keyspace = connect(&etcd).await;
    let keys: Vec<String> = (0..2500).map(|n| format!("/many/{n:05}")).collect();
    for hundred in keys.chunks(100) {
        let puts = hundred.iter().fold(Transaction::new(), |tx, key| tx.put(key, "x"));
        keyspace.commit(puts).await.unwrap();
    }
    let listing = keyspace.list("/many/").await.unwrap();
    let listed: Vec<_> = listing.entries.into_iter().map(|entry| entry.key).collect();
    assert_eq!(listed, keys);
}

#[tokio::test]
async fn a_lease_is_continued_by_another_process_and_its_end_is_told() {
    let etcd = Etcd::start().await;
    let mut lease = connect(&etcd).await.grant(TTL).await.unwrap();
    lease.renew().await.unwrap();
    let (keyspace, id) = (connect(&etcd).await, lease.id());
    assert_eq!(id.to_string().parse(), Ok(id));
    drop(lease);
    let mut lease = keyspace.lease(id);
    lease.renew().await.unwrap();
    lease.renew().await.unwrap();
    assert!(keyspace.remaining(id).await.unwrap().is_some());
    let mut watch = keyspace.watch("/a/");
    keyspace.put_leased("/a/1", "1", id).await.unwrap();
    // Nobody renews it.
    let gone = loop {
        let (told, _) = changes(&mut watch).await;
        if let Some(gone) = told.into_iter().find(|change| change.value.is_none()) {
            break gone;
        }
    };
    assert_eq!((gone.key.as_str(), gone.lease), ("/a/1", Some(id)));
    assert!(matches!(lease.renew().await, Err(keyspace::Error::LeaseGone { .. })));
    let put = keyspace.put_leased("/a/1", "1", id).await;
    assert!(matches!(put, Err(keyspace::Error::LeaseGone { .. })), "{put:?}");
    assert_eq!(keyspace.remaining(id).await.unwrap(), None);
    keyspace.revoke(id).await.unwrap();
}
