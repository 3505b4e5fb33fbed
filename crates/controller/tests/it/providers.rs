//! Providers that are slow, broken, or somebody's who did not read the protocol.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use api::{
    controller::{IDEMPOTENCY_KEY, NewProvider, NewResource},
    error::ErrorCode,
    id::ResourceId,
};
use axum::{
    Router,
    extract::{Query, State},
    http::{
        HeaderMap, StatusCode,
        header::{CONTENT_TYPE, LOCATION},
    },
    response::{IntoResponse, Response},
    routing::{any, post},
};
use controller_client::Controller;
use daemon::Lifetime;
use serde_json::json;
use tokio::{net::TcpListener, sync::watch};

use crate::world::{World, client};

/// A provider that answers what a test says.
#[derive(Clone, Default)]
struct Provider {
    /// What it says to each request for something; else it makes things.
    answer: Arc<Mutex<Option<(u16, String)>>>,
    /// What it says when it is to destroy something.
    refusal: Arc<Mutex<Option<u16>>>,
    /// Requests to make something that have come.
    asked: watch::Sender<u32>,
    /// What it was told to destroy, whether it has answered or not.
    told: watch::Sender<Vec<String>>,
    /// Whether it lets requests wait.
    shut: watch::Sender<bool>,
}

impl Provider {
    async fn start(&self, world: &World, name: &str) -> NewProvider {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/things", listener.local_addr().unwrap());
        let router = Router::new()
            .route("/things", post(create).delete(destroy))
            .route("/elsewhere", any(async || r#"{"id": "elsewhere", "env": {}}"#))
            .with_state(self.clone());
        world.lifetime.serve(listener, router);
        let new = NewProvider { url, name: name.into(), key: None };
        world.client.create_provider(&new).await.unwrap();
        new
    }

    fn says(&self, status: u16, body: &str) {
        *self.answer.lock().unwrap() = Some((status, body.to_owned()));
    }

    async fn pass(&self) {
        self.shut.subscribe().wait_for(|shut| !shut).await.unwrap();
    }
}

async fn create(State(provider): State<Provider>, headers: HeaderMap) -> Response {
    provider.asked.send_modify(|asked| *asked += 1);
    provider.pass().await;
    let key = headers[IDEMPOTENCY_KEY].to_str().unwrap().to_owned();
    let made = json!({"id": key, "env": {"THING": "x"}}).to_string();
    let (status, body) = provider.answer.lock().unwrap().clone().unwrap_or((200, made));
    let status = StatusCode::from_u16(status).unwrap();
    // Where a redirect leads to.
    (status, [(CONTENT_TYPE, "application/json"), (LOCATION, "/elsewhere")], body).into_response()
}

async fn destroy(
    State(provider): State<Provider>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    provider.told.send_modify(|told| told.push(query["id"].clone()));
    provider.pass().await;
    let status = provider.refusal.lock().unwrap().unwrap_or(200);
    // What is said with a success is nobody's business.
    (StatusCode::from_u16(status).unwrap(), [(LOCATION, "/elsewhere")], "gone!").into_response()
}

/// A controller that destroys at once what is removed or lost.
async fn hasty(world: &World) -> Controller {
    let hasty = controller::Config { resource_grace: Duration::ZERO, ..world.config.clone() };
    client(controller::start(hasty, &world.lifetime).await.unwrap().addr)
}

const PROVISIONINGS: &str = "SELECT count(*) FROM provisionings";

async fn until_none_is_lost(world: &World) {
    testkit::wait_until("no answer is lost", async || match world.number(PROVISIONINGS).await {
        0 => Ok(()),
        left => Err(left),
    })
    .await;
}

/// As if the answer to a request had been lost five minutes ago.
async fn lose(world: &World) {
    let lost = "INSERT INTO provisionings (resource_id, provider_id, retry_at) \
                SELECT gen_random_uuid(), provider_id, now() FROM providers";
    world.sql(lost).await;
}

fn nothing() -> NewResource {
    NewResource::default()
}

#[tokio::test]
async fn what_is_a_recorded_resource_is_not_taken_back() {
    let (world, provider) = (World::start().await, Provider::default());
    provider.start(&world, "things").await;
    provider.says(200, r#"{"id": "one", "env": {}}"#);
    let made = world.client.provision("things", &nothing()).await.unwrap();
    assert_eq!(made.external_id, "one");
    let again = world.client.provision("things", &nothing()).await.unwrap_err();
    assert!(again.is_exists(), "{again}");
    assert_eq!(world.number(PROVISIONINGS).await, 0, "it is known whose it is");

    // As if that had not been noticed, or as if somebody had recorded it meanwhile.
    lose(&world).await;
    let _hasty = hasty(&world).await;
    until_none_is_lost(&world).await;
    assert_eq!((*provider.asked.borrow(), provider.told.borrow().len()), (3, 0));
    assert_eq!(world.client.resource("things", made.id).await.unwrap().deleted_at, None);

    // From the moment on in which it is to be destroyed, nobody can record it.
    provider.says(200, r#"{"id": "two", "env": {}}"#);
    let mut told = provider.told.subscribe();
    *provider.refusal.lock().unwrap() = Some(500);
    lose(&world).await;
    let told = told.wait_for(|told| !told.is_empty());
    tokio::time::timeout(testkit::LIMIT, told).await.unwrap().unwrap();
    let external_id = Some("two".to_owned());
    let new = NewResource { external_id, ..nothing() };
    let refused = world.client.put_resource("things", ResourceId::random(), &new).await;
    let refused = refused.unwrap_err();
    assert!(refused.is_conflict() && refused.to_string().contains("being destroyed"), "{refused}");
    *provider.refusal.lock().unwrap() = None;
    world.sql("UPDATE provisionings SET retry_at = now()").await;
    until_none_is_lost(&world).await;
    world.client.put_resource("things", ResourceId::random(), &new).await.unwrap();
    assert!(provider.told.borrow().iter().all(|id| id == "two"));
}

#[tokio::test]
async fn a_provider_that_hangs_holds_up_no_other() {
    let world = World::start().await;
    let (stuck, other) = (Provider::default(), Provider::default());
    stuck.start(&world, "stuck").await;
    other.start(&world, "other").await;
    let hasty = hasty(&world).await;
    let mut made = Vec::new();
    for _ in 0..12 {
        made.push(world.client.provision("stuck", &nothing()).await.unwrap());
    }
    let last = world.client.provision("other", &nothing()).await.unwrap();
    stuck.shut.send_replace(true);
    for resource in made {
        hasty.remove_resource("stuck", resource.id).await.unwrap();
    }
    let mut told = stuck.told.subscribe();
    tokio::time::timeout(testkit::LIMIT, told.wait_for(|told| told.len() >= 2))
        .await
        .unwrap()
        .unwrap();
    hasty.remove_resource("other", last.id).await.unwrap();
    let left = "SELECT count(*) FROM resources r JOIN providers p USING (provider_id) \
                WHERE p.name = 'other'";
    testkit::wait_until("the other has done it", async || match world.number(left).await {
        0 => Ok(()),
        left => Err(left),
    })
    .await;
    // Two controllers, with two places each for it.
    let told = stuck.told.borrow().len();
    assert!(told <= 4, "it has its places, and no more: {told}");
    stuck.shut.send_replace(false);
    let left = "SELECT count(*) FROM resources";
    testkit::wait_until_for(Duration::from_secs(60), "all are destroyed", async || {
        match world.number(left).await {
            0 => Ok(()),
            left => Err(left),
        }
    })
    .await;
}

#[tokio::test]
async fn a_provider_that_fails_is_asked_less_and_less_often() {
    let (world, provider) = (World::start().await, Provider::default());
    provider.start(&world, "things").await;
    *provider.refusal.lock().unwrap() = Some(500);
    let made = world.client.provision("things", &nothing()).await.unwrap();
    let hasty = hasty(&world).await;
    hasty.remove_resource("things", made.id).await.unwrap();
    // Once it has answered.
    let failures =
        "SELECT CASE WHEN asked_at IS NULL THEN purge_failures ELSE -1 END::bigint FROM resources";
    let pause = "SELECT extract(epoch FROM purge_at - now())::bigint FROM resources";
    for (before, seconds) in [(0, 15), (3, 120), (30, 3600)] {
        let again = format!("UPDATE resources SET purge_failures = {before}, purge_at = now()");
        world.sql(&again).await;
        testkit::wait_until("it is tried", async || match world.number(failures).await {
            more if more > before => Ok(()),
            other => Err(other),
        })
        .await;
        let pause = world.number(pause).await;
        assert!((seconds - 10..=seconds).contains(&pause), "{before}: {pause}");
    }
}

#[tokio::test]
async fn a_provider_that_could_not_be_asked_or_named_is_refused() {
    let (world, provider) = (World::start().await, Provider::default());
    let good = provider.start(&world, "things").await;
    let urls = ["http://a b/", "http://", "http://:80/", "http://[::1/", "discoverd+http://"];
    for url in urls {
        let new = NewProvider { url: url.into(), name: "other".into(), key: None };
        let refused = world.client.create_provider(&new).await.unwrap_err();
        assert_eq!(refused.code(), Some(ErrorCode::ValidationError), "{url}");
        assert!(refused.to_string().starts_with("url cannot be used"), "{refused}");
    }
    let (id, long) = (ResourceId::random().to_string(), "x".repeat(101));
    for name in [" ", ".", "..", "a/b", "a\0b", &id, &long] {
        let new = NewProvider { url: "http://x/".into(), name: name.into(), key: None };
        let refused = world.client.create_provider(&new).await.unwrap_err();
        assert_eq!(refused.code(), Some(ErrorCode::ValidationError), "{name:?}: {refused}");
    }
    // The same in another spelling.
    for url in [format!("{}/", good.url), good.url.to_uppercase().replace("THINGS", "%74hings")] {
        let new = NewProvider { url, name: "other".into(), key: None };
        let refused = world.client.create_provider(&new).await.unwrap_err();
        assert!(refused.is_exists() && refused.to_string().contains("things"), "{refused}");
    }
    let known = world.client.providers().await.unwrap();
    assert_eq!(known.iter().map(|one| &one.url).collect::<Vec<_>>(), [&good.url]);
}

#[tokio::test]
async fn a_provider_that_was_not_reached_has_made_nothing() {
    let world = World::start().await;
    let url = format!("http://127.0.0.1:{}/", testkit::free_port());
    let away = NewProvider { url, name: "away".into(), key: None };
    world.client.create_provider(&away).await.unwrap();
    // One that an earlier version took.
    let old = NewProvider { url: "http://x/".into(), name: "old".into(), key: None };
    world.client.create_provider(&old).await.unwrap();
    world.sql("UPDATE providers SET url = 'http://a b/' WHERE name = 'old'").await;
    for (name, why) in [("away", "provider away could not be asked"), ("old", "provider old")] {
        let failed = world.client.provision(name, &nothing()).await.unwrap_err();
        assert!(failed.to_string().contains(why), "{failed}");
        assert_ne!(failed.code(), Some(ErrorCode::UnknownError), "{failed}");
        assert_eq!(world.number(PROVISIONINGS).await, 0, "{name}");
        world.client.remove_provider(name).await.unwrap();
    }
}

#[tokio::test]
async fn what_a_provider_says_wrong_is_told_with_its_name() {
    let (world, provider) = (World::start().await, Provider::default());
    provider.start(&world, "boxes").await;
    let long = format!(r#"{{"id": "x", "env": {{"A": "{}"}}}}"#, "x".repeat(1 << 20));
    let refusal = r#"{"code": "validation_error", "message": "there is no such size"}"#;
    // What it says, what is told of it, and whether it may have made something.
    let cases = [
        (200, "", "boxes cannot be used: it has no id", true),
        (204, "", "boxes cannot be used: it has no id", true),
        (200, "null", "boxes cannot be used: it has no id", true),
        (200, "{}", "boxes cannot be used: it has no id", true),
        (200, r#"{"id": "", "env": {}}"#, "boxes cannot be used: its id is empty", true),
        (200, "<html>", "boxes cannot be used: it is no JSON", true),
        (200, long.as_str(), "boxes is too long (more than 1 MiB)", true),
        (500, "oh", "boxes answered 500", true),
        (502, "oh", "boxes answered 502", true),
        (401, "", "boxes answered 401: it does not take the key it was added with", false),
        (404, "", "boxes answered 404", false),
        (302, "", "boxes answered 302: what is asked for is elsewhere", false),
        (307, "", "boxes answered 307: what is asked for is elsewhere", false),
        (409, "", "boxes answered 409", false),
        (400, refusal, "boxes refused: there is no such size", false),
    ];
    for (status, body, why, made) in cases {
        provider.says(status, body);
        let failed = world.client.provision("boxes", &nothing()).await.unwrap_err();
        assert!(failed.to_string().contains(why), "{status}: {failed}");
        let code = if body == refusal {
            ErrorCode::ValidationError
        } else {
            ErrorCode::ServiceUnavailable
        };
        assert_eq!(failed.code(), Some(code), "{failed}");
        assert_eq!(failed.is_retryable(), [409, 500, 502].contains(&status), "{status}: {failed}");
        assert_eq!(world.number(PROVISIONINGS).await, i64::from(made), "{status} {why}");
        world.sql("DELETE FROM provisionings").await;
    }
}

#[tokio::test]
async fn what_cannot_be_used_is_taken_back() {
    let (world, provider) = (World::start().await, Provider::default());
    provider.start(&world, "boxes").await;
    let _hasty = hasty(&world).await;
    let envs =
        ["null", r#"{"A": 1}"#, r#"{"": "x"}"#, r#"{"A=B": "x"}"#, r#"{"A": "secret\u0000"}"#];
    for (number, env) in envs.iter().enumerate() {
        provider.says(200, &format!(r#"{{"id": "{number}", "env": {env}}}"#));
        let failed = world.client.provision("boxes", &nothing()).await.unwrap_err().to_string();
        assert!(failed.contains("the answer of provider boxes cannot be used"), "{failed}");
        assert!(!failed.contains("secret"), "{failed}");
        until_none_is_lost(&world).await;
        assert_eq!(provider.told.borrow().last(), Some(&number.to_string()), "{env}");
    }
    provider.says(200, r#"{"id": "a\u0000b", "env": {}}"#);
    let failed = world.client.provision("boxes", &nothing()).await.unwrap_err().to_string();
    assert!(failed.contains("its id holds a NUL character and cannot be stored"), "{failed}");
    until_none_is_lost(&world).await;
    // It might read the part before it, which is another's.
    assert_eq!(provider.told.borrow().last().unwrap(), "4");
    assert_eq!(world.number("SELECT count(*) FROM resources").await, 0);
}

#[tokio::test]
async fn a_resource_is_recorded_though_who_asked_for_it_has_gone() {
    let (world, provider) = (World::start().await, Provider::default());
    provider.start(&world, "things").await;
    world.app("shop").await;
    provider.shut.send_replace(true);
    let mut asked = provider.asked.subscribe();
    let new = NewResource { apps: vec!["shop".into()], ..nothing() };
    tokio::select! {
        made = world.client.provision("things", &new) => panic!("it waits: {made:?}"),
        _ = asked.wait_for(|asked| *asked > 0) => {}
    }
    // One thread serves all connections here: by then it has noticed that this one is closed.
    world.client.providers().await.unwrap();
    provider.shut.send_replace(false);
    let made = testkit::wait_until("it is recorded", async || {
        world.client.resources("shop").await.unwrap().pop().ok_or("it is not")
    })
    .await;
    assert_eq!(made.env["THING"], "x");
    assert_eq!(world.number(PROVISIONINGS).await, 0);
}

#[tokio::test]
async fn while_a_provider_may_still_destroy_something_it_is_not_asked_again_and_not_forgotten() {
    let (world, provider) = (World::start().await, Provider::default());
    provider.start(&world, "things").await;
    provider.says(200, r#"{"id": "shop", "env": {}}"#);
    let made = world.client.provision("things", &nothing()).await.unwrap();
    let hasty = hasty(&world).await;
    provider.shut.send_replace(true);
    hasty.remove_resource("things", made.id).await.unwrap();
    let mut told = provider.told.subscribe();
    let asked = told.wait_for(|told| !told.is_empty());
    tokio::time::timeout(testkit::LIMIT, asked).await.unwrap().unwrap();
    let pause = "SELECT extract(epoch FROM purge_at - now())::bigint FROM resources";
    assert!(world.number(pause).await > 120, "longer than a request may take");
    let purging = world.client.all_resources(true).await.unwrap().pop().unwrap();
    assert!(purging.purging, "it is told that it cannot be restored");
    let refused = world.client.force_provider_removal("things").await.unwrap_err();
    assert!(refused.is_conflict() && refused.to_string().contains("may yet do it"), "{refused}");
    // What it has made anew under the id is not the removed one, and is nobody's.
    provider.shut.send_replace(false);
    testkit::wait_until("it is forgotten", async || {
        match world.number("SELECT count(*) FROM resources").await {
            0 => Ok(()),
            left => Err(left),
        }
    })
    .await;
    assert_eq!(*provider.told.borrow(), ["shop"]);
    world.client.force_provider_removal("things").await.unwrap();
}

#[tokio::test]
async fn a_redirect_destroys_nothing() {
    let (world, provider) = (World::start().await, Provider::default());
    provider.start(&world, "things").await;
    let made = world.client.provision("things", &nothing()).await.unwrap();
    *provider.refusal.lock().unwrap() = Some(301);
    let hasty = hasty(&world).await;
    hasty.remove_resource("things", made.id).await.unwrap();
    let refused = "SELECT count(*) FROM resources WHERE purge_failures > 0 AND asked_at IS NULL";
    testkit::wait_until("it has answered", async || match world.number(refused).await {
        1 => Ok(()),
        other => Err(other),
    })
    .await;
    assert_eq!(
        world.number("SELECT count(*) FROM events WHERE object_type = 'resource_purge'").await,
        0
    );
}

#[tokio::test]
async fn who_uses_a_resource_is_told_and_asked() {
    let (world, provider) = (World::start().await, Provider::default());
    provider.start(&world, "things").await;
    let (shop, cart) = (world.app("shop").await, world.app("cart").await);
    provider.says(200, r#"{"id": "one", "env": {}}"#);
    let new = NewResource { apps: vec!["shop".into()], ..nothing() };
    let made = world.client.provision("things", &new).await.unwrap();
    let refused = world.client.force_provider_removal("things").await.unwrap_err();
    assert!(refused.is_conflict() && refused.to_string().contains("used by shop"), "{refused}");
    // Since it was seen that one app uses it, another does.
    world.client.add_resource_app("things", made.id, "cart").await.unwrap();
    let refused = world.client.remove_resource_of("things", made.id, shop.id).await.unwrap_err();
    assert!(refused.is_conflict(), "{refused}");
    world.client.remove_resource_app("things", made.id, "shop").await.unwrap();
    world.client.remove_resource_of("things", made.id, cart.id).await.unwrap();
    let same = NewResource { external_id: Some("one".into()), ..nothing() };
    let refused = world.client.put_resource("things", ResourceId::random(), &same).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains(&format!("flynn resource-restore {}", made.id)), "{refused}");
}

#[tokio::test]
async fn what_a_controller_began_to_destroy_when_it_shall_stop_is_destroyed() {
    let (world, provider) = (World::start().await, Provider::default());
    provider.start(&world, "things").await;
    let made = world.client.provision("things", &nothing()).await.unwrap();
    provider.shut.send_replace(true);
    let lifetime = Lifetime::default();
    let hasty = controller::Config { resource_grace: Duration::ZERO, ..world.config.clone() };
    let hasty = client(controller::start(hasty, &lifetime).await.unwrap().addr);
    hasty.remove_resource("things", made.id).await.unwrap();
    provider.told.subscribe().wait_for(|told| !told.is_empty()).await.unwrap();
    let opened = async {
        // It has had time to be cut off.
        lifetime.stop().cancelled().await;
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        provider.shut.send_replace(false);
    };
    let (drained, ()) = tokio::join!(lifetime.clone().drain(testkit::LIMIT), opened);
    drained.unwrap();
    assert!(world.client.all_resources(true).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_controller_that_shall_stop_waits_for_what_it_began_and_else_for_nothing() {
    let (world, provider) = (World::start().await, Provider::default());
    provider.start(&world, "things").await;
    let made = world.client.provision("things", &nothing()).await.unwrap();
    let hasty = controller::Config { resource_grace: Duration::ZERO, ..world.config.clone() };
    let start = async |lifetime| controller::start(hasty.clone(), lifetime).await.unwrap();
    let idle = Lifetime::default();
    let running = start(&idle).await;
    idle.end();
    running.until_finished().await;

    provider.shut.send_replace(true);
    let busy = Lifetime::default();
    let running = start(&busy).await;
    client(running.addr).remove_resource("things", made.id).await.unwrap();
    provider.told.subscribe().wait_for(|told| !told.is_empty()).await.unwrap();
    busy.end();
    let mut finished = std::pin::pin!(running.until_finished());
    for _ in 0..100 {
        assert!(futures_util::poll!(&mut finished).is_pending());
        tokio::task::yield_now().await;
    }
    provider.shut.send_replace(false);
    finished.await;
    assert!(world.client.all_resources(true).await.unwrap().is_empty());
}
