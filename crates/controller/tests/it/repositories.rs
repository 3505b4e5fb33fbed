//! Branches and tags that are kept and not deployed; and what the key of gitreceived opens.

use std::collections::BTreeMap;

use api::{
    controller::{PacksChange, RefsChange},
    error::ErrorCode,
};

use api::controller::{Deployment, DeploymentStatus, META_SYSTEM_APP, NewApp, RepositoryLease};
use controller_client::Controller;

use crate::{
    deployments::push,
    scheduler::Scheduler,
    world::{GITRECEIVE_KEY, World},
};

fn change(name: &str, id: Option<String>, packs: Option<(&[&str], &[&str])>) -> RefsChange {
    let paths = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect();
    RefsChange {
        refs: BTreeMap::from([(name.to_owned(), id)]),
        packs: packs.map(|(old, new)| PacksChange { old: paths(old), new: paths(new) }),
    }
}

#[tokio::test]
async fn kept_branches_come_and_go_with_their_packs_by_compare_and_set() {
    let world = World::start().await;
    let client = &world.client;
    world.app("one").await;
    let id = "1".repeat(40);
    let new = change("refs/heads/x", Some(id.clone()), Some((&[], &["/repos/a/1.pack"])));
    let repository = client.change_refs("one", &new).await.unwrap();
    assert_eq!(repository.refs["refs/heads/x"], id);
    assert_eq!(
        (repository.head, &repository.packs[..]),
        (None, &["/repos/a/1.pack".to_owned()][..])
    );
    let err = client.change_refs("one", &new).await.unwrap_err();
    assert_eq!(err.code(), Some(ErrorCode::Conflict));
    let err = client.change_refs("one", &change("x", Some(id), None)).await.unwrap_err();
    assert_eq!(err.code(), Some(ErrorCode::ValidationError));
    client.change_refs("one", &change("refs/heads/x", None, None)).await.unwrap();
    let repository = client.repository("one").await.unwrap();
    assert!(repository.refs.is_empty() && repository.packs.len() == 1);
}

fn paths(packs: &[&str]) -> Vec<String> {
    packs.iter().map(|pack| format!("/repos/a/{pack}.pack")).collect()
}

/// Two pushes to an app at a time: one saw these packs, makes `new` of them and is to be deployed, another made `kept` of
/// them meanwhile for a branch.
struct Two {
    tells: bool,
    new: &'static [&'static str],
    kept: &'static [&'static str],
    then: &'static [&'static str],
}

const SEEN: &[&str] = &["1", "2"];

const ALL_OF_TWO: [Two; 7] = [
    // The deployed one joins what it saw, and the other's pack may need that; the other joins, and what it joined may be
    // gone; both; neither.
    Two { tells: true, new: &["j"], kept: &["1", "2", "t"], then: &["1", "2", "t", "j"] },
    Two { tells: true, new: &["1", "2", "n"], kept: &["k"], then: &["k", "n"] },
    Two { tells: true, new: &["j"], kept: &["k"], then: &["k", "j"] },
    Two { tells: true, new: &["1", "2", "n"], kept: &["1", "2", "t"], then: &["1", "2", "t", "n"] },
    // Nobody else came.
    Two { tells: true, new: &["j"], kept: SEEN, then: &["j"] },
    // A pusher that does not say what it saw is taken as before.
    Two {
        tells: false,
        new: &["1", "2", "n"],
        kept: &["1", "2", "t"],
        then: &["1", "2", "n", "t"],
    },
    Two { tells: false, new: &["j"], kept: &["1", "2", "t"], then: &["j"] },
];

/// Does both; the deployment waits for a scheduler.
async fn push_both(world: &World, app: &str, two: &Two) -> Deployment {
    world.app(app).await;
    let refs = |name: &str| [(name.to_owned(), Some("1".repeat(40)))].into();
    let keep = async |name, old, new| {
        let change = RefsChange { refs: refs(name), packs: Some(PacksChange { old, new }) };
        world.client.change_refs(app, &change).await.unwrap();
    };
    keep("refs/tags/v0", vec![], paths(SEEN)).await;
    let mut deployed = push(None, "c1");
    deployed.head.packs = paths(two.new);
    deployed.head.packs_old = two.tells.then(|| paths(SEEN));
    let deployment = world.client.push(app, &deployed).await.unwrap();
    keep("refs/tags/v1", paths(SEEN), paths(two.kept)).await;
    deployment
}

#[tokio::test]
async fn of_two_pushes_at_a_time_neither_loses_its_pack_whichever_joins_all() {
    let world = World::start().await;
    let client = &world.client;
    let mut begun = Vec::new();
    for (n, two) in ALL_OF_TWO.iter().enumerate() {
        let app = format!("app-{n}");
        begun.push((push_both(&world, &app, two).await, app, two));
    }
    Scheduler::start(&world.lifetime, client);
    for (deployment, app, two) in begun {
        let end = client.wait_deployment(deployment.id, |_| {}).await.unwrap();
        assert_eq!(end.status, DeploymentStatus::Complete, "{end:?}");
        let repository = client.repository(&app).await.unwrap();
        assert_eq!((repository.head.as_deref(), repository.refs.len()), (Some("c1"), 2));
        assert_eq!(repository.packs, paths(two.then), "{app}");
    }
}

#[tokio::test]
async fn the_key_of_gitreceived_opens_what_a_push_needs_and_nothing_of_flynn_itself() {
    let world = World::start().await;
    let running = controller::start(world.config.clone(), &world.lifetime).await.unwrap();
    let url = format!("http://{}", running.addr);
    let pushes = Controller::new(url.as_str(), Some(GITRECEIVE_KEY.into()));
    let app = world.app("one").await;
    let release = world.release(&app, &["web"], "serve").await;
    let meta = [(META_SYSTEM_APP.to_owned(), "true".to_owned())].into();
    let part = NewApp { name: Some("part".into()), meta: Some(meta), ..NewApp::default() };
    let part = world.client.create_app(&part).await.unwrap();
    let secret = world.release(&part, &["web"], "serve").await;
    let lease = RepositoryLease { holder: "a".repeat(16), ttl_seconds: 60 };
    pushes.keys().await.unwrap();
    pushes.app("one").await.unwrap();
    pushes.lease_repository("one", &lease).await.unwrap();
    assert_eq!(pushes.release(release.id).await.unwrap(), release);
    let refused = [
        pushes.apps().await.map(drop),
        pushes.delete_app("one").await,
        pushes.release(secret.id).await.map(drop),
        pushes.current_release("part").await.map(drop),
        pushes.current_release(&part.id.to_string()).await.map(drop),
        pushes.lease_repository("part", &lease).await.map(drop),
        pushes.deploy_release("one", release.id).await.map(drop),
        pushes.add_key("ssh-ed25519 AAAA").await.map(drop),
    ];
    for (at, refused) in refused.into_iter().enumerate() {
        assert_eq!(refused.unwrap_err().code(), Some(ErrorCode::Unauthorized), "{at}");
    }
    let stranger = Controller::new(url.as_str(), Some("another".into()));
    assert_eq!(stranger.keys().await.unwrap_err().code(), Some(ErrorCode::Unauthorized));
}
