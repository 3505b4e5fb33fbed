//! Databases are added, removed and brought back, and what they give goes with them.

use std::collections::BTreeMap;

use api::{
    controller::{NewResource, Provider, Resource},
    error::ErrorCode,
    id::{ProviderId, ResourceId},
};
use axum::{
    Json, Router,
    extract::{Path, RawQuery, State},
    response::Response,
    routing::{delete, get, post, put},
};

use crate::{
    fake::{Shared, error, found, not_found},
    scene::Scene,
};

/// What the fake answers of providers and resources.
pub(crate) fn routes() -> Router<Shared> {
    Router::new()
        .route("/providers", get(providers))
        .route("/providers/{provider}", delete(remove_provider))
        .route("/resources", get(all))
        .route("/apps/{app}/resources", get(of_app))
        .route("/providers/{provider}/resources", post(provision))
        .route("/providers/{provider}/resources/{id}", get(one).delete(remove))
        .route("/providers/{provider}/resources/{id}/restore", post(restore))
        .route("/providers/{provider}/resources/{id}/apps/{app}", put(one_of_app))
}

fn provider(number: u8, name: &str) -> Provider {
    Provider {
        id: format!("{number:032}").parse::<ProviderId>().unwrap(),
        url: "http://provider".into(),
        name: name.into(),
        created_at: jiff::Timestamp::UNIX_EPOCH,
        updated_at: jiff::Timestamp::UNIX_EPOCH,
    }
}

async fn providers() -> Json<[Provider; 2]> {
    Json([provider(1, "postgres"), provider(2, "boxes")])
}

async fn remove_provider(
    State(world): State<Shared>,
    Path(id): Path<ProviderId>,
    RawQuery(query): RawQuery,
) -> Response {
    let is_forced = query.as_deref() == Some("force=true");
    if !is_forced && world.lock().unwrap().resources.iter().any(|resource| resource.provider == id)
    {
        return error(ErrorCode::Conflict, "it has resources");
    }
    found(providers().await.0.iter().find(|provider| provider.id == id))
}

async fn all(State(world): State<Shared>) -> Json<Vec<Resource>> {
    let mut resources = world.lock().unwrap().resources.clone();
    resources.iter_mut().for_each(|resource| resource.env.clear());
    Json(resources)
}

async fn of_app(State(world): State<Shared>) -> Json<Vec<Resource>> {
    let mut resources = world.lock().unwrap().resources.clone();
    resources.retain(|resource| resource.deleted_at.is_none());
    Json(resources)
}

async fn provision(
    State(world): State<Shared>,
    Path(name): Path<String>,
    Json(new): Json<NewResource>,
) -> Json<Resource> {
    let mut world = world.lock().unwrap();
    let number = world.resources.len() + 1;
    let env: &[(&str, String)] = match name.as_str() {
        "postgres" => &[
            ("FLYNN_POSTGRES", "postgres".into()),
            ("PGHOST", "leader".into()),
            ("DATABASE_URL", format!("postgres://{number}")),
        ],
        _ => &[("BOX", number.to_string())],
    };
    let resource = Resource {
        id: ResourceId::random(),
        provider: provider(if name == "postgres" { 1 } else { 2 }, &name).id,
        external_id: number.to_string(),
        env: env.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        apps: new.apps.iter().filter_map(|app| world.app(app)).map(|app| app.id).collect(),
        created_at: world.now(),
        deleted_at: None,
        purge_at: None,
        purging: false,
    };
    world.resources.insert(0, resource.clone());
    Json(resource)
}

async fn one(world: State<Shared>, Path((_, id)): Path<(String, ResourceId)>) -> Response {
    changed(&world, id, |_| {})
}

async fn one_of_app(
    world: State<Shared>,
    Path((_, id, _)): Path<(String, ResourceId, String)>,
) -> Response {
    changed(&world, id, |_| {})
}

async fn remove(world: State<Shared>, Path((_, id)): Path<(String, ResourceId)>) -> Response {
    changed(&world, id, |resource| resource.deleted_at = Some(resource.created_at))
}

async fn restore(world: State<Shared>, Path((_, id)): Path<(String, ResourceId)>) -> Response {
    changed(&world, id, |resource| resource.deleted_at = None)
}

fn changed(world: &Shared, id: ResourceId, change: impl Fn(&mut Resource)) -> Response {
    let mut world = world.lock().unwrap();
    let Some(resource) = world.resources.iter_mut().find(|r| r.id == id) else {
        return not_found();
    };
    change(resource);
    found(Some(resource.clone()))
}

impl Scene {
    fn env(&self) -> BTreeMap<String, String> {
        serde_json::from_str(&self.flynn(&["env", "--json"]).ok().stdout).unwrap()
    }

    /// Adds one; its id.
    fn add(&self, provider: &str) -> String {
        let made = self.flynn(&["resource-add", provider, "--json"]).ok().stdout;
        let made: Resource = serde_json::from_str(&made).unwrap();
        made.id.to_string()
    }
}

#[test]
fn removing_one_of_two_databases_leaves_the_app_with_the_other() {
    let scene = Scene::new();
    scene.add("boxes");
    let first = scene.add("postgres");
    let with_first = scene.env();
    let outcome = scene.flynn(&["resource-add", "postgres"]).ok();
    assert!(outcome.stderr.contains(&format!("of resource {first} are replaced")), "{outcome:?}");
    assert_eq!(scene.env()["DATABASE_URL"], "postgres://3");
    let second = scene.fake.world().resources[0].id.to_string();
    scene.flynn(&["resource-remove", &second]).ok();
    assert_eq!(scene.env(), with_first);
    scene.flynn(&["resource-remove", &first]).ok();
    assert_eq!(scene.env(), [("BOX".to_owned(), "1".to_owned())].into());
}

#[test]
fn a_resource_does_not_replace_what_the_app_has_of_its_own() {
    let scene = Scene::new();
    scene.flynn(&["env-set", "DATABASE_URL=mine", "BOX=mine"]).ok();
    let own = scene.env();
    let err = scene.flynn(&["resource-add", "postgres"]).failed();
    assert!(err.contains("`flynn env-unset DATABASE_URL`"), "{err}");
    assert!(scene.fake.world().resources.is_empty(), "it is made though it is refused");
    // What this provider gives is known only when it has.
    let err = scene.flynn(&["resource-add", "boxes"]).failed();
    assert!(err.contains("`flynn env-unset BOX`"), "{err}");
    assert!(scene.fake.world().resources[0].deleted_at.is_some());
    assert_eq!(scene.env(), own);
    scene.flynn(&["resource-add", "postgres", "--replace"]).ok();
    assert_eq!(scene.env()["DATABASE_URL"], "postgres://2");
    let id = scene.fake.world().resources[0].id.to_string();
    scene.flynn(&["resource-remove", &id]).ok();
    scene.flynn(&["env-set", "DATABASE_URL=mine"]).ok();
    let err = scene.flynn(&["resource-restore", &id]).failed();
    assert!(err.contains("`flynn env-unset DATABASE_URL`"), "{err}");
    assert!(scene.fake.world().resources[0].deleted_at.is_some());
    scene.flynn(&["resource-restore", &id, "--replace"]).ok();
    assert_eq!(scene.env()["DATABASE_URL"], "postgres://2");
}

#[test]
fn a_rollback_does_not_go_silently_to_a_database_that_was_removed() {
    let scene = Scene::new();
    let id = scene.add("postgres");
    scene.flynn(&["resource-remove", &id]).ok();
    let without = scene.fake.world().apps[0].release;
    let err = scene.flynn(&["rollback"]).failed();
    assert!(err.contains(&format!("`flynn resource-restore {id}`")), "{err}");
    assert_eq!(scene.fake.world().apps[0].release, without);
    let outcome = scene.flynn(&["rollback", "-y"]).ok();
    assert!(outcome.stderr.contains(&format!("`flynn resource-restore {id}`")), "{outcome:?}");
    scene.flynn(&["rollback", &without.unwrap().to_string()]).ok();
    scene.fake.world().resources.clear();
    let outcome = scene.flynn(&["rollback"]).ok();
    assert!(outcome.stderr.contains("a database that the app no longer has"), "{outcome:?}");
    assert_eq!(scene.env()["DATABASE_URL"], "postgres://1");
}

#[test]
fn a_provider_is_removed_by_its_name_once_it_has_no_resource() {
    let scene = Scene::new();
    scene.add("boxes");
    let err = scene.flynn(&["provider-remove", "boxes"]).failed();
    assert!(err.contains("it has resources"), "{err}");
    let err = scene.flynn(&["provider-remove", "bxes"]).failed();
    assert!(err.contains("did you mean boxes?"), "{err}");
    scene.flynn(&["provider-remove", "--force", "boxes"]).ok();
    scene.fake.world().resources.clear();
    let said = scene.flynn(&["provider", "remove", "boxes"]).ok().stdout;
    assert!(said.starts_with("Removed provider boxes ("), "{said}");
    let json = scene.flynn(&["provider-remove", "boxes", "--json"]).ok().stdout;
    assert_eq!(serde_json::from_str::<Provider>(&json).unwrap().name, "boxes");
}
