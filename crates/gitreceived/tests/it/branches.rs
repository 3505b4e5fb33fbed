//! Which pushes deploy, and what becomes of the others.

use std::fs;

use crate::world::World;

async fn deployments(world: &World) -> usize {
    fs::read_to_string(world.path("deployed")).unwrap_or_default().lines().count()
}

#[tokio::test]
async fn main_and_master_are_two_names_of_what_is_deployed() {
    let world = World::new().await;
    world.repository("app", "my-app").await;
    let (ok, said) = world.git_as("me", "app", &["push", "flynn", "master:main"]).await;
    assert!(ok && said.contains("Application deployed"), "{said}");
    world.commit("app", "two", b"2").await;
    let (ok, said) = world.push("app").await;
    assert!(ok && said.contains("Application deployed"), "{said}");
    let head = world.git("app", &["rev-parse", "HEAD"]).await;
    assert_eq!(world.head().unwrap(), head.trim());
    let (ok, said) = world.git_as("me", "app", &["push", "flynn", "master:main"]).await;
    assert!(ok && said.contains("Everything up-to-date"), "{said}");
    assert_eq!(deployments(&world).await, 2);
    world.end().await;
}

#[tokio::test]
async fn other_branches_and_tags_are_kept_in_the_cluster_and_not_deployed() {
    let mut world = World::new().await;
    world.repository("app", "my-app").await;
    assert!(world.push("app").await.0);
    world.git("app", &["checkout", "-q", "-b", "feature"]).await;
    world.commit("app", "feature", b"1").await;
    world.git("app", &["tag", "-a", "v1", "-m", "v1"]).await;
    let (ok, said) = world.git_as("me", "app", &["push", "flynn", "feature", "v1"]).await;
    assert!(ok, "{said}");
    assert!(said.contains("feature is kept and not deployed: only main and master are"), "{said}");
    assert!(said.contains("git push flynn 'v1^{commit}:refs/heads/master'"), "{said}");
    assert_eq!((deployments(&world).await, world.packs().len()), (1, 2));
    let feature = world.git("app", &["rev-parse", "feature"]).await;
    assert_eq!(world.fake().refs.lock().unwrap()["refs/heads/feature"], feature.trim());
    // Another instance has them too, and needs nothing sent when the branch is deployed.
    world.restart_elsewhere().await;
    let (ok, said) = world.git_as("me", "app", &["push", "flynn", "feature", "v1"]).await;
    assert!(ok && said.contains("Everything up-to-date"), "{said}");
    let (ok, said) = world.git_as("me", "app", &["push", "flynn", "feature:master"]).await;
    assert!(ok && said.contains("Application deployed"), "{said}");
    let (ok, said) = world.git_as("me", "app", &["push", "flynn", ":feature", ":v1"]).await;
    assert!(ok && said.contains("feature is deleted"), "{said}");
    assert!(world.fake().refs.lock().unwrap().is_empty());
    world.end().await;
}

#[tokio::test]
async fn an_app_may_name_its_branch() {
    let world = World::new().await;
    world.repository("app", "my-app").await;
    *world.fake().deploy_branch.lock().unwrap() = Some("live".into());
    let (ok, said) = world.push("app").await;
    assert!(ok && said.contains("master is kept and not deployed: only live is"), "{said}");
    assert_eq!(world.head(), None);
    let (ok, said) = world.git_as("me", "app", &["push", "flynn", "master:live"]).await;
    assert!(ok && said.contains("Application deployed"), "{said}");
    world.end().await;
}

#[tokio::test]
async fn a_tag_on_master_is_deployed_as_its_commit() {
    let world = World::new().await;
    world.repository("app", "my-app").await;
    for version in ["v1", "v2"] {
        world.commit("app", version, version.as_bytes()).await;
        world.git("app", &["tag", "-a", version, "-m", version]).await;
        let wish = format!("{version}:refs/heads/master");
        let (ok, said) = world.git_as("me", "app", &["push", "flynn", &wish]).await;
        assert!(ok && said.contains("Application deployed"), "{said}");
        let commit = world.git("app", &["rev-parse", "HEAD"]).await;
        assert_eq!(world.head().unwrap(), commit.trim());
        let (ok, said) = world.push("app").await;
        assert!(ok && said.contains("Everything up-to-date"), "{said}");
    }
    world.commit("app", "three", b"3").await;
    let (ok, said) = world.push("app").await;
    assert!(ok && said.contains("Application deployed"), "{said}");
    let (ok, said) =
        world.git_as("me", "app", &["push", "flynn", "HEAD^{tree}:refs/heads/master"]).await;
    assert!(!ok, "{said}");
    world.end().await;
}

#[tokio::test]
async fn tags_that_follow_are_kept_with_the_deployment() {
    let world = World::new().await;
    world.repository("app", "my-app").await;
    assert!(world.push("app").await.0);
    world.commit("app", "two", b"2").await;
    world.git("app", &["tag", "-a", "release-2", "-m", "release 2"]).await;
    let push = ["-c", "push.followTags=true", "push", "flynn", "master"];
    let (ok, said) = world.git_as("me", "app", &push).await;
    assert!(ok && said.contains("Application deployed"), "{said}");
    assert!(said.contains("The tag release-2 is kept."), "{said}");
    assert!(world.fake().refs.lock().unwrap().contains_key("refs/tags/release-2"));
    world.end().await;
}

#[tokio::test]
async fn a_shallow_clone_is_told_what_it_lacks() {
    let world = World::new().await;
    world.repository("app", "my-app").await;
    world.commit("app", "two", b"2").await;
    let source = format!("file://{}", world.path("app").display());
    world.git("", &["clone", "-q", "--depth", "1", &source, "shallow"]).await;
    let url = world.url("my-app");
    let (ok, said) = world.git_as("me", "shallow", &["push", &url, "master"]).await;
    assert!(!ok && said.contains("git fetch --unshallow"), "{said}");
    world.end().await;
}

/// Deploys an app and makes a branch and a tag beside it.
async fn deployed() -> World {
    let world = World::new().await;
    world.repository("app", "my-app").await;
    assert!(world.push("app").await.0);
    world.git("app", &["tag", "-a", "v1", "-m", "v1"]).await;
    world
}

/// Pushes one ref; whether it was taken, and all that was said.
async fn push(world: &World, what: &str) -> (bool, String) {
    world.git_as("me", "app", &["push", "flynn", what]).await
}

#[tokio::test]
async fn a_branch_that_cannot_be_beside_another_is_refused_and_the_app_stays_pushable() {
    let mut world = deployed().await;
    assert!(push(&world, "master:refs/heads/a").await.0);
    for wish in ["master:refs/heads/a/b", "master:refs/heads/main/x", "master:refs/heads/master/x"]
    {
        let (ok, said) = push(&world, wish).await;
        assert!(!ok && said.contains("Cannot create 'refs/heads/"), "{said}");
    }
    let (ok, said) = world
        .git_as("me", "app", &["push", "flynn", "master:refs/heads/b", "master:refs/heads/b/c"])
        .await;
    assert!(
        !ok && said.contains("Cannot create 'refs/heads/b/c': there is 'refs/heads/b'"),
        "{said}"
    );
    assert_eq!(Vec::from_iter(world.fake().refs.lock().unwrap().keys().cloned()), ["refs/heads/a"]);
    world.restart_elsewhere().await;
    // What goes in the same push makes room.
    let (ok, said) =
        world.git_as("me", "app", &["push", "flynn", ":a", "master:refs/heads/a/b"]).await;
    assert!(ok, "{said}");
    world.commit("app", "two", b"2").await;
    let (ok, said) = world.push("app").await;
    assert!(ok && said.contains("Application deployed"), "{said}");
    world.end().await;
}

#[tokio::test]
async fn on_a_new_app_nothing_is_kept_that_the_deployed_branches_leave_no_room_for() {
    let world = World::new().await;
    world.repository("app", "my-app").await;
    let (ok, said) = push(&world, "master:refs/heads/main/x").await;
    assert!(!ok && said.contains("there is 'refs/heads/main'"), "{said}");
    assert!(world.fake().refs.lock().unwrap().is_empty());
    for wish in ["master", "master:main"] {
        let (ok, said) = push(&world, wish).await;
        assert!(ok, "{said}");
    }
    world.end().await;
}

#[tokio::test]
async fn a_branch_is_kept_at_the_commit_of_a_tag_and_never_at_a_tree() {
    let mut world = deployed().await;
    let (ok, said) = push(&world, "v1:refs/heads/other").await;
    assert!(ok, "{said}");
    let commit = world.git("app", &["rev-parse", "HEAD"]).await;
    assert_eq!(world.fake().refs.lock().unwrap()["refs/heads/other"], commit.trim());
    let (ok, said) = push(&world, "HEAD^{tree}:refs/heads/t").await;
    assert!(!ok && said.contains("Cannot update 'refs/heads/t'"), "{said}");
    world.restart_elsewhere().await;
    let (ok, said) = push(&world, ":other").await;
    assert!(ok && said.contains("other is deleted"), "{said}");
    world.end().await;
}

#[tokio::test]
async fn a_repository_with_refs_that_none_can_have_is_pushed_to_all_the_same() {
    let mut world = deployed().await;
    let id = async |what: &str| world.git("app", &["rev-parse", what]).await.trim().to_owned();
    let (commit, tag, tree) = (id("HEAD").await, id("v1").await, id("HEAD^{tree}").await);
    assert!(push(&world, "v1").await.0);
    let broken = [
        ("refs/heads/a", &commit),
        ("refs/heads/a/b", &commit),
        ("refs/heads/main/x", &commit),
        ("refs/heads/other", &tag),
        ("refs/heads/t", &tree),
        ("refs/heads/bad..name", &commit),
    ];
    let refs = broken.map(|(name, id)| (name.to_owned(), id.clone()));
    world.fake().refs.lock().unwrap().extend(refs);
    // Here, and where the repository was never before.
    for n in ["2", "3"] {
        world.commit("app", n, n.as_bytes()).await;
        let (ok, said) = world.push("app").await;
        assert!(ok && said.contains("Application deployed"), "{said}");
        world.restart_elsewhere().await;
    }
    // What could not be shown can be pushed anew, and what was in its way can be deleted.
    for wish in ["master:refs/heads/other", "master:refs/heads/t", ":a", ":a/b"] {
        let (ok, said) = push(&world, wish).await;
        assert!(ok, "{wish}: {said}");
    }
    world.end().await;
}

#[tokio::test]
async fn what_only_this_copy_has_is_no_reason_not_to_store_it() {
    let mut world = deployed().await;
    world.git("app", &["checkout", "-q", "-b", "feature"]).await;
    world.commit("app", "feature", b"1").await;
    assert!(push(&world, "feature").await.0);
    // The copy is asked for once more while the pack of the feature is listed.
    assert!(push(&world, "master:refs/heads/same").await.0);
    assert_eq!(world.packs().len(), 2);
    fs::write(world.path("packs"), &world.packs()[0]).unwrap();
    let (ok, said) = push(&world, "feature:master").await;
    assert!(ok && said.contains("Application deployed"), "{said}");
    // Its objects are where every other instance finds them.
    world.restart_elsewhere().await;
    world.commit("app", "more", b"2").await;
    let (ok, said) = push(&world, "feature:master").await;
    assert!(ok && said.contains("Application deployed"), "{said}");
    world.end().await;
}

#[tokio::test]
async fn a_branch_that_leaves_no_room_for_the_deployed_one_is_named_before_anything_is_deployed() {
    let world = World::new().await;
    world.repository("app", "my-app").await;
    assert!(push(&world, "master:refs/heads/mine").await.0);
    let mine = world.fake().refs.lock().unwrap().remove("refs/heads/mine").unwrap();
    world.fake().refs.lock().unwrap().insert("refs/heads/main/x".into(), mine);
    let (ok, said) = push(&world, "master:main").await;
    assert!(!ok && said.contains("'refs/heads/main': there is 'refs/heads/main/x'"), "{said}");
    assert_eq!(deployments(&world).await, 0);
    assert!(push(&world, ":main/x").await.0);
    let (ok, said) = push(&world, "master:main").await;
    assert!(ok && said.contains("Application deployed"), "{said}");
    world.end().await;
}
