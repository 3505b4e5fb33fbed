//! Resources, with a provider of somebody else.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use api::controller::{IDEMPOTENCY_KEY, NewProvider, NewResource, Provisioned};
use axum::{
    Json, Router,
    extract::{Query, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use daemon::auth::{self, Keys};
use tokio::{net::TcpListener, sync::watch};

use crate::world::{World, client};

/// A provider that makes names.
#[derive(Clone, Default)]
struct Provider {
    /// What it made, by the id it was asked under.
    made: watch::Sender<BTreeMap<String, String>>,
    /// What it destroyed.
    destroyed: watch::Sender<Vec<String>>,
    /// Answers of either kind that get lost, from now on.
    lost: Arc<Mutex<u32>>,
}

impl Provider {
    async fn start(&self, world: &World) -> NewProvider {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/things", listener.local_addr().unwrap());
        let keys = Keys::parse("provider-key");
        let router = Router::new()
            .route("/things", post(create).delete(destroy))
            .layer(axum::middleware::from_fn_with_state(keys, auth::require))
            .with_state(self.clone());
        world.lifetime.serve(listener, router);
        NewProvider { url, name: "things".into(), key: Some("provider-key".into()) }
    }

    fn loses(&self) -> bool {
        let mut lost = self.lost.lock().unwrap();
        let loses = *lost > 0;
        *lost = lost.saturating_sub(1);
        loses
    }
}

async fn create(State(provider): State<Provider>, headers: HeaderMap) -> Response {
    let key = headers[IDEMPOTENCY_KEY].to_str().unwrap().to_owned();
    let id = format!("/things/{key}");
    provider.made.send_modify(|made| drop(made.insert(key, id.clone())));
    if provider.loses() {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let env = [("THING".to_owned(), id.clone())].into();
    Json(Provisioned { id, env }).into_response()
}

async fn destroy(
    State(provider): State<Provider>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    if provider.loses() {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    provider.destroyed.send_modify(|destroyed| destroyed.push(query["id"].clone()));
    Json(()).into_response()
}

fn of(app: &str) -> NewResource {
    NewResource { apps: vec![app.into()], ..NewResource::default() }
}

#[tokio::test]
async fn a_removed_resource_can_be_restored_and_one_that_is_not_is_destroyed_after_the_grace() {
    let world = World::start().await;
    let provider = Provider::default();
    let new = provider.start(&world).await;
    let known = world.client.create_provider(&new).await.unwrap();
    assert!(!serde_json::to_string(&known).unwrap().contains("provider-key"));
    let app = world.app("shop").await;
    // What was made for an answer that is lost is nobody's resource.
    *provider.lost.lock().unwrap() = 1;
    let lost = world.client.provision("things", &of("shop")).await.unwrap_err();
    assert!(lost.is_retryable(), "{lost}");
    assert!(world.client.resources("shop").await.unwrap().is_empty());
    let made = world.client.provision("things", &of("shop")).await.unwrap();
    assert_eq!(made.apps, [app.id]);
    assert_eq!(provider.made.borrow().len(), 2);
    assert!(made.env["THING"].ends_with(&made.id.to_string()));

    let removed = world.client.remove_resource("things", made.id).await.unwrap();
    assert!(removed.purge_at.unwrap() > jiff::Timestamp::now());
    assert!(world.client.resources("shop").await.unwrap().is_empty());
    assert!(world.client.all_resources(false).await.unwrap().is_empty());
    let listed = world.client.all_resources(true).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert!(listed[0].env.is_empty(), "a list of everything holds secrets");
    let restored = world.client.restore_resource("things", made.id).await.unwrap();
    assert_eq!((restored.apps, restored.env), (made.apps.clone(), made.env.clone()));
    assert_eq!(world.client.resources("shop").await.unwrap().len(), 1);
    assert!(provider.destroyed.borrow().is_empty());

    // The deletion of its only app removes it, too; a controller whose grace is over destroys it, however often that fails.
    let second = world.app("second").await;
    world.client.add_resource_app("things", made.id, "second").await.unwrap();
    world.client.delete_app("shop").await.unwrap();
    let left = world.client.resource("things", made.id).await.unwrap();
    assert_eq!((left.apps, left.deleted_at), (vec![second.id], None));
    world.client.delete_app("second").await.unwrap();
    let left = world.client.resource("things", made.id).await.unwrap();
    assert!(left.deleted_at.is_some());
    world.client.restore_resource("things", made.id).await.unwrap();
    let hasty = controller::Config { resource_grace: Duration::ZERO, ..world.config.clone() };
    let hasty = client(controller::start(hasty, &world.lifetime).await.unwrap().addr);
    *provider.lost.lock().unwrap() = 1;
    hasty.remove_resource("things", made.id).await.unwrap();
    let mut destroyed = provider.destroyed.subscribe();
    let gone = destroyed.wait_for(|destroyed| !destroyed.is_empty());
    let gone = tokio::time::timeout(Duration::from_secs(30), gone).await.unwrap().unwrap().clone();
    assert_eq!(gone, [made.external_id]);
}

#[tokio::test]
async fn a_provider_is_forgotten_once_nothing_is_left_that_it_would_have_to_destroy() {
    let world = World::start().await;
    let provider = Provider::default();
    let new = provider.start(&world).await;
    world.client.create_provider(&new).await.unwrap();
    world.app("shop").await;
    let made = world.client.provision("things", &of("shop")).await.unwrap();
    let refused = world.client.remove_provider("things").await.unwrap_err();
    assert!(refused.is_conflict() && refused.to_string().contains("used by shop"), "{refused}");
    // It can be restored still.
    world.client.remove_resource("things", made.id).await.unwrap();
    let refused = world.client.remove_provider("things").await.unwrap_err();
    assert!(refused.is_conflict(), "{refused}");
    world.client.restore_resource("things", made.id).await.unwrap();
    let hasty = controller::Config { resource_grace: Duration::ZERO, ..world.config.clone() };
    let hasty = client(controller::start(hasty, &world.lifetime).await.unwrap().addr);
    hasty.remove_resource("things", made.id).await.unwrap();
    let removed = testkit::wait_until("nothing is left", async || {
        world.client.remove_provider("things").await
    })
    .await;
    assert_eq!(removed.name, "things");
    assert_eq!(provider.destroyed.borrow()[0], made.external_id);
    assert!(world.client.providers().await.unwrap().is_empty());
    let missing = world.client.remove_provider("things").await.unwrap_err();
    assert!(missing.is_not_found(), "{missing}");
    let told = "SELECT count(*) FROM events WHERE object_type = 'provider_deletion'";
    assert_eq!(world.number(told).await, 1);

    // What it makes for an answer that is lost has to be destroyed, too.
    world.client.create_provider(&new).await.unwrap();
    *provider.lost.lock().unwrap() = 1;
    world.client.provision("things", &of("shop")).await.unwrap_err();
    let refused = world.client.remove_provider("things").await.unwrap_err();
    assert!(refused.is_conflict() && refused.to_string().contains("did not say"), "{refused}");
}

#[tokio::test]
async fn a_provider_that_is_gone_for_good_can_be_forgotten_but_for_what_is_used() {
    let world = World::start().await;
    let provider = Provider::default();
    let new = provider.start(&world).await;
    world.client.create_provider(&new).await.unwrap();
    world.app("shop").await;
    let made = world.client.provision("things", &of("shop")).await.unwrap();
    *provider.lost.lock().unwrap() = 1;
    world.client.provision("things", &of("shop")).await.unwrap_err();
    let refused = world.client.force_provider_removal("things").await.unwrap_err();
    assert!(refused.is_conflict() && refused.to_string().contains("used by shop"), "{refused}");
    assert_eq!(world.number("SELECT count(*) FROM provisionings").await, 1, "nothing was given up");
    world.client.remove_resource("things", made.id).await.unwrap();
    let refused = world.client.remove_provider("things").await.unwrap_err();
    assert!(refused.to_string().contains("--force"), "{refused}");
    world.client.force_provider_removal("things").await.unwrap();
    assert!(world.client.providers().await.unwrap().is_empty());
    let lost = world.client.restore_resource(&made.provider.to_string(), made.id).await;
    assert!(lost.unwrap_err().is_not_found());
    assert_eq!(world.number("SELECT count(*) FROM provisionings").await, 0);
}

#[tokio::test]
async fn what_is_put_is_what_is_answered() {
    let world = World::start().await;
    let provider = Provider::default();
    let new = provider.start(&world).await;
    world.client.create_provider(&new).await.unwrap();
    let id = api::id::ResourceId::random();
    let put = |value: &str, external: &str| NewResource {
        external_id: Some(external.into()),
        env: [("A".to_owned(), value.to_owned())].into(),
        ..NewResource::default()
    };
    world.client.put_resource("things", id, &put("1", "x")).await.unwrap();
    let changed = world.client.put_resource("things", id, &put("2", "x")).await.unwrap();
    assert_eq!(changed.env["A"], "2");
    let err = world.client.put_resource("things", id, &put("2", "y")).await.unwrap_err();
    assert!(err.to_string().contains("another resource"), "{err}");
    let err = world.client.provision("things", &of("nobody")).await.unwrap_err();
    assert!(err.to_string().contains("names no app"), "{err}");
}

/// Does something to a resource and leaves it undecided; answers who decides.
async fn undecided(world: &World, sql: &str) -> pg::Client {
    let db = pg::Pool::new(world.config.database.clone(), 1);
    db.migrate(refinery::Runner::new(&[]).set_abort_missing(false)).await;
    let client = db.client().await.unwrap();
    client.batch_execute(&format!("BEGIN; {sql}")).await.unwrap();
    client
}

/// Decides when somebody waits for it.
async fn decide(world: &World, client: pg::Client) {
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted";
    testkit::wait_until("somebody waits", async || match world.number(waiting).await {
        0 => Err(()),
        _ => Ok(()),
    })
    .await;
    client.batch_execute("COMMIT").await.unwrap();
}

#[tokio::test]
async fn of_two_changes_of_a_resource_the_second_sees_what_the_first_did() {
    let world = World::start().await;
    let provider = Provider::default();
    let new = provider.start(&world).await;
    world.client.create_provider(&new).await.unwrap();
    world.app("shop").await;
    let second = world.app("second").await;
    let made = world.client.provision("things", &of("shop")).await.unwrap();
    let id = made.id.uuid();

    let remove = format!("UPDATE resources SET deleted_at = now() WHERE resource_id = '{id}'");
    let removing = undecided(&world, &remove).await;
    let add = world.client.add_resource_app("things", made.id, "second");
    let (added, ()) = tokio::join!(add, decide(&world, removing));
    assert!(added.as_ref().is_err_and(|err| err.is_conflict()), "{added:?}");

    world.client.restore_resource("things", made.id).await.unwrap();
    let add = format!(
        "SELECT 1 FROM resources WHERE resource_id = '{id}' FOR UPDATE; \
         INSERT INTO app_resources (app_id, resource_id) VALUES ('{}', '{id}')",
        second.id.uuid()
    );
    let adding = undecided(&world, &add).await;
    let (deleted, ()) = tokio::join!(world.client.delete_app("shop"), decide(&world, adding));
    deleted.unwrap();
    let left = world.client.resource("things", made.id).await.unwrap();
    assert_eq!((left.apps, left.deleted_at), (vec![second.id], None));
}
