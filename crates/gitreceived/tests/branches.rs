//! Which pushes deploy, and what becomes of the others.
#![expect(clippy::unwrap_used, reason = "helpers of tests too")]
#![expect(dead_code, reason = "the world of the other tests")]

mod world;

use std::fs;

use world::World;

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
    assert!(said.contains("git push flynn v1^{commit}:refs/heads/master"), "{said}");
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
