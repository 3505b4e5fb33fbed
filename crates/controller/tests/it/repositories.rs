//! Branches and tags that are kept and not deployed.

use std::collections::BTreeMap;

use api::{
    controller::{PacksChange, RefsChange},
    error::ErrorCode,
};

use crate::world::World;

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
