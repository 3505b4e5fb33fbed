use api::{
    controller::{App, ArtifactType, NewApp, NewArtifact, NewFormation, NewProvider, NewRelease},
    error::ErrorCode,
    id::{ArtifactId, ReleaseId},
    route::{NewRoute, Route},
};
use controller_client::{Controller, Error, EventQuery};

use crate::world::World;

fn named(name: &str) -> NewApp {
    NewApp { name: Some(name.into()), ..NewApp::default() }
}

fn field(err: &Error) -> Option<&str> {
    let Error::Api { body, .. } = err else { return None };
    body.detail.as_ref()?.get("field")?.as_str()
}

#[tokio::test]
async fn an_app_is_made_found_changed_and_deleted_and_its_name_is_free_again() {
    let world = World::start().await;
    let client = &world.client;
    let app = world.app("one").await;
    assert_eq!(client.app("one").await.unwrap(), app);
    assert_eq!(client.app(&app.id.to_string()).await.unwrap(), app);
    let drawn = client.create_app(&NewApp::default()).await.unwrap();
    assert!(drawn.name.contains('-'), "{}", drawn.name);
    assert_eq!(client.apps().await.unwrap().len(), 2);

    let taken = client.create_app(&named("one")).await.unwrap_err();
    assert_eq!(taken.code(), Some(ErrorCode::ObjectExists));
    assert!(taken.to_string().contains("choose another name"), "{taken}");

    let change = NewApp { deploy_timeout: Some(33), ..NewApp::default() };
    assert_eq!(client.update_app("one", &change).await.unwrap().deploy_timeout, 33);

    client.delete_app("one").await.unwrap();
    assert!(client.app("one").await.unwrap_err().is_not_found());
    assert!(client.routes("one").await.unwrap_err().is_not_found());
    let again = world.app("one").await;
    assert_ne!(again.id, app.id);
    let query = EventQuery { types: &["app_deletion"], ..EventQuery::default() };
    let deletions = client.past_events(&query, 10).await.unwrap();
    assert_eq!(deletions[0].app, Some(app.id));
}

#[tokio::test]
async fn an_app_has_a_route_of_its_own_and_no_domain_belongs_to_two() {
    let world = World::start().await;
    let client = &world.client;
    let one = world.app("one").await;
    world.app("two").await;
    let routes = client.routes("one").await.unwrap();
    assert_eq!(routes[0].domain, "one.test.localhost");
    assert_eq!(routes[0].service, "one-web");
    assert_eq!(routes[0].parent_ref, format!("controller/apps/{}", one.id));

    let route = |service: &str| {
        let (kind, domain) = ("http".into(), "shop.example".into());
        NewRoute::from(Route { kind, domain, service: service.into(), ..Route::default() })
    };
    let at = |domain: &str| {
        let (kind, domain) = ("http".into(), domain.to_owned());
        NewRoute::from(Route { kind, domain, ..Route::default() })
    };
    let made = client.create_route("one", &route("")).await.unwrap();
    assert_eq!(*world.neighbours.synced.lock().unwrap(), [42, 43, 44]);
    // The owner may change it, nobody else.
    let foreign = client.create_route("one", &route("two-web")).await.unwrap_err();
    assert_eq!(field(&foreign), Some("service"));
    assert!(client.create_route("one", &route("flynn-host")).await.is_err());
    let process = api::expand::slug_process("one", "other-web");
    let processes = [("other-web".to_owned(), process)].into();
    let new = NewRelease { app_id: Some(one.id), processes, ..NewRelease::default() };
    client.create_release(&new).await.unwrap();
    let changed = client.create_route("one", &route("one-other-web")).await.unwrap();
    let now = (changed.id.as_str(), changed.service.as_str());
    assert_eq!(now, (made.id.as_str(), "one-other-web"));
    let taken = client.create_route("two", &route("")).await.unwrap_err();
    assert_eq!(taken.code(), Some(ErrorCode::Conflict));
    assert!(taken.to_string().contains("belongs to another app"), "{taken}");
    assert!(client.delete_route("two", &made.id).await.unwrap_err().is_not_found());
    client.delete_route("one", &made.id).await.unwrap();
    assert!(client.route("one", &made.id).await.unwrap_err().is_not_found());

    // What an interrupted deletion left stands in nobody's way.
    world.neighbours.routes.lock().unwrap()[1].parent_ref = "controller/apps/00".into();
    assert!(client.create_route("one", &at("two.test.localhost")).await.is_err());
    let gone = world.app("gone").await;
    client.delete_app("gone").await.unwrap();
    world.neighbours.routes.lock().unwrap()[1].parent_ref = format!("controller/apps/{}", gone.id);
    let freed = client.create_route("one", &at("two.test.localhost")).await.unwrap();
    client.delete_route("one", &freed.id).await.unwrap();

    client.delete_app("one").await.unwrap();
    let left = world.neighbours.routes.lock().unwrap().clone();
    assert_eq!(left, []);
}

#[tokio::test]
async fn what_cannot_be_used_is_refused_with_the_field_and_nothing_is_stored() {
    let world = World::start().await;
    let client = &world.client;
    let err = client.create_app(&named("Not_A_Name")).await.unwrap_err();
    assert_eq!((err.code(), field(&err)), (Some(ErrorCode::ValidationError), Some("name")));
    assert!(err.to_string().contains("lower-case"), "{err}");
    assert_eq!(client.apps().await.unwrap(), Vec::<App>::new());

    let app = world.app("one").await;
    let release = world.release(&app, &["web"], "serve").await;
    let formation = NewFormation { processes: [("wob".to_owned(), 1)].into() };
    let err = client.put_formation("one", release.id, &formation).await.unwrap_err();
    assert_eq!(field(&err), Some("processes"));
    assert!(err.to_string().contains("its types: web"), "{err}");
    assert!(client.formation("one", release.id).await.unwrap_err().is_not_found());

    let new = NewRelease { artifacts: vec![ArtifactId::random()], ..NewRelease::default() };
    assert_eq!(field(&client.create_release(&new).await.unwrap_err()), Some("artifacts"));
    let err = client.deploy_release("one", ReleaseId::random()).await.unwrap_err();
    assert_eq!(field(&err), Some("id"));
    let other = world.app("two").await;
    let foreign = world.release(&other, &["web"], "serve").await;
    let err = client.deploy_release("one", foreign.id).await.unwrap_err();
    assert!(err.to_string().contains("another app"), "{err}");

    let kind = ArtifactType::Docker;
    let bad = NewArtifact { id: None, kind, uri: "ftp://x".into(), meta: [].into() };
    assert_eq!(field(&client.create_artifact(&bad).await.unwrap_err()), Some("uri"));
    assert_eq!(field(&client.add_key("nonsense").await.unwrap_err()), Some("key"));
    let bad = NewProvider { url: "postgres".into(), name: "pg".into(), key: None };
    assert_eq!(field(&client.create_provider(&bad).await.unwrap_err()), Some("url"));
}

#[tokio::test]
async fn nothing_answers_without_the_key_but_ping() {
    let world = World::start().await;
    let base = world.client.client().endpoint().to_string();
    for key in [None, Some("wrong".to_owned()), Some(String::new())] {
        let client = Controller::new(base.as_str(), key);
        client.ping().await.unwrap();
        assert_eq!(client.apps().await.unwrap_err().code(), Some(ErrorCode::Unauthorized));
        assert_eq!(client.keys().await.unwrap_err().code(), Some(ErrorCode::Unauthorized));
        let events = client.events(&EventQuery::default()).await;
        assert_eq!(events.err().and_then(|err| err.code()), Some(ErrorCode::Unauthorized));
    }
}

#[tokio::test]
async fn without_a_database_it_answers_ping_and_says_try_again() {
    let world = World::without_controller().await;
    world.postgres.lock().await.kill();
    let running = controller::start(world.config.clone(), &world.lifetime).await.unwrap();
    let client = crate::world::client(running.addr);
    client.ping().await.unwrap();
    let once = Controller::with_client(client.client().without_retries());
    let err = once.apps().await.unwrap_err();
    assert_eq!(err.code(), Some(ErrorCode::ServiceUnavailable));
    assert!(err.is_retryable());
    world.postgres.lock().await.restart().await;
    testkit::wait_until("apps can be listed", async || once.apps().await).await;
}

#[tokio::test]
async fn a_release_never_changes_and_its_environment_is_in_no_event() {
    let world = World::start().await;
    let client = &world.client;
    let app = world.app("one").await;
    let release = world.release(&app, &["web"], "serve").await;
    let mut same = NewRelease {
        id: Some(release.id),
        app_id: release.app_id,
        artifacts: release.artifacts.clone(),
        env: release.env.clone(),
        meta: release.meta.clone(),
        processes: release.processes.clone(),
    };
    assert_eq!(client.create_release(&same).await.unwrap(), release);
    same.env.clear();
    let err = client.create_release(&same).await.unwrap_err();
    assert_eq!(err.code(), Some(ErrorCode::ObjectExists));
    // A list has no environments.
    let listed = client.releases("one").await.unwrap();
    assert_eq!(listed, [api::controller::Release { env: [].into(), ..release.clone() }]);
    let events = client.past_events(&EventQuery::default(), 100).await.unwrap();
    assert!(!serde_json::to_string(&events).unwrap().contains("sesame"));
}

#[tokio::test]
async fn a_key_is_added_once_and_removed_by_its_fingerprint() {
    let world = World::start().await;
    let client = &world.client;
    let line =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHUqGvDsC8Aj+4s3tXbXWTHOqhUDSvlrcGFCxF3Fhl3K me";
    let key = client.add_key(line).await.unwrap();
    assert_eq!(format!("{} {}", key.key, key.comment), line);
    let again = client.add_key(line).await.unwrap_err();
    assert_eq!(again.code(), Some(ErrorCode::ObjectExists));
    let colons: Vec<_> =
        key.fingerprint.as_bytes().chunks(2).map(String::from_utf8_lossy).collect();
    client.remove_key(&colons.join(":")).await.unwrap();
    assert!(client.keys().await.unwrap().is_empty());
    assert!(client.remove_key(&key.fingerprint).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn a_key_may_be_bound_to_apps_and_stays_so_when_their_names_go_to_others() {
    let world = World::start().await;
    let client = &world.client;
    let line =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHUqGvDsC8Aj+4s3tXbXWTHOqhUDSvlrcGFCxF3Fhl3K me";
    let (one, two) = (world.app("one").await, world.app("two").await);
    let nobody = client.add_key_for(line, &["nobody".into()]).await.unwrap_err();
    assert_eq!(field(&nobody), Some("apps"));
    let both = ["one".to_owned(), two.id.to_string(), "two".to_owned()];
    let key = client.add_key_for(line, &both).await.unwrap();
    let mut bound = vec![one.id, two.id];
    bound.sort();
    assert_eq!(key.apps, bound);
    assert_eq!(client.keys().await.unwrap()[0].apps, bound);
    client.delete_app("one").await.unwrap();
    assert_ne!(world.app("one").await.id, one.id);
    assert_eq!(client.keys().await.unwrap()[0].apps, bound);
    let again = client.add_key(line).await.unwrap_err();
    assert_eq!(
        again.code(),
        Some(ErrorCode::ObjectExists),
        "it does not get more by being added again"
    );
}

#[tokio::test]
async fn no_service_belongs_to_two_apps_however_they_are_named() {
    let world = World::start().await;
    let client = &world.client;
    let (shop, api) = (world.app("shop").await, world.app("shop-api").await);
    let release = |app: &App, kind: &str| {
        let process = api::expand::slug_process(&app.name, kind);
        let processes = [(kind.to_owned(), process)].into();
        NewRelease { app_id: Some(app.id), processes, ..NewRelease::default() }
    };
    client.create_release(&release(&api, "web")).await.unwrap();
    let refused = client.create_release(&release(&shop, "api-web")).await.unwrap_err();
    assert_eq!(field(&refused), Some("processes"));
    assert!(refused.to_string().contains("belongs to app shop-api"), "{refused}");

    // The other way round: the name comes second.
    client.create_release(&release(&shop, "admin-web")).await.unwrap();
    let refused = client.create_app(&named("shop-admin")).await.unwrap_err();
    assert!(refused.to_string().contains("belongs to app shop"), "{refused}");
    client.delete_app("shop").await.unwrap();
    client.create_app(&named("shop-admin")).await.unwrap();
}

#[tokio::test]
async fn routers_that_are_slow_keep_no_connection_to_the_database_from_anybody() {
    let world = World::start().await;
    let client = &world.client;
    world.app("one").await;
    let mut releases = Vec::new();
    for n in 0..20 {
        let app = world.app(&format!("app-{n}")).await;
        releases.push(world.release(&app, &["web"], "serve").await);
    }
    // Their first deployments bring them their routes again.
    world.neighbours.routes.lock().unwrap().clear();
    world.neighbours.gate.shut("sync");
    for (n, release) in releases.iter().enumerate() {
        client.deploy_release(&format!("app-{n}"), release.id).await.unwrap();
    }
    let route = |n: u32| {
        let (kind, domain) = ("http".into(), format!("{n}.example"));
        NewRoute::from(Route { kind, domain, ..Route::default() })
    };
    let changes = (0..20).map(async |n| client.create_route("one", &route(n)).await);
    // One that has no route of its own.
    let part = || [("flynn-system-app".to_owned(), "true".to_owned())].into();
    let others = async {
        // More than there are connections.
        world.neighbours.gate.reached_by(40).await;
        for n in 0..20 {
            client
                .create_app(&NewApp { meta: Some(part()), ..named(&format!("part-{n}")) })
                .await
                .unwrap();
        }
        world.neighbours.gate.open();
    };
    let (changed, ()) = tokio::join!(futures_util::future::join_all(changes), others);
    assert!(changed.into_iter().all(|changed| changed.is_ok()));
}
