//! A database that an earlier version filled.

use api::controller::META_VOLUMES_BY_NAME;
use refinery::Target;

use crate::world::{World, client};

mod migrations {
    refinery::embed_migrations!("migrations");
}

#[tokio::test]
async fn apps_that_had_volumes_keep_their_names_and_later_ones_have_those_of_their_id() {
    let world = World::without_controller().await;
    let before = pg::Pool::new(world.config.database.clone(), 1);
    before.migrate(migrations::migrations::runner().set_target(Target::Version(2))).await;
    let filled = "
        INSERT INTO apps (app_id, name, strategy, deploy_timeout) VALUES
            ('00000000-0000-0000-0000-000000000001', 'keeps', 'one-by-one', 120),
            ('00000000-0000-0000-0000-000000000002', 'keeps-none', 'one-by-one', 120);
        INSERT INTO releases (release_id, app_id, processes) VALUES
            ('00000000-0000-0000-0000-000000000011', NULL, '{\"db\": {\"volumes\": [{\"path\": \"/data\"}]}}'),
            ('00000000-0000-0000-0000-000000000012', '00000000-0000-0000-0000-000000000002', '{\"web\": {}}');
        INSERT INTO formations (app_id, release_id, processes) VALUES
            ('00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000011', '{\"db\": 1}');";
    before.client().await.unwrap().batch_execute(filled).await.unwrap();
    let running = controller::start(world.config.clone(), &world.lifetime).await.unwrap();
    let world = World { client: client(running.addr), ..world };
    world.app("new").await;
    let by_name = async |app: &str| {
        let app = world.client.app(app).await.unwrap();
        app.meta.get(META_VOLUMES_BY_NAME).map(String::as_str) == Some("true")
    };
    assert!(by_name("keeps").await);
    assert!(!by_name("keeps-none").await && !by_name("new").await);
    // Nobody takes it away or gives it to another.
    for app in ["keeps", "new"] {
        let mut meta = std::collections::BTreeMap::new();
        if app == "new" {
            meta.insert(META_VOLUMES_BY_NAME.to_owned(), "true".to_owned());
        }
        let change = api::controller::NewApp { meta: Some(meta), ..Default::default() };
        world.client.update_app(app, &change).await.unwrap();
        assert_eq!(by_name(app).await, app == "keeps");
    }
}

#[tokio::test]
async fn the_passwords_of_old_providers_are_in_no_event() {
    let world = World::without_controller().await;
    let before = pg::Pool::new(world.config.database.clone(), 1);
    before.migrate(migrations::migrations::runner().set_target(Target::Version(84))).await;
    let urls = [
        ("http://me:p@ss@box:80/a@b", "http://box:80/a@b"),
        ("discoverd+http://me:secret@boxes/pw", "discoverd+http://boxes/pw"),
        (r"http:\\token@box", r"http:\\box"),
        ("http:me:secret@box/", "http:box/"),
        ("//me:secret@box/", "box/"),
        ("http://box/things/me@home", "http://box/things/me@home"),
    ];
    let client = before.client().await.unwrap();
    let values = urls.map(|(url, _)| serde_json::json!({ "name": "p", "url": url }));
    // Nothing that an event may hold is in the way.
    let odd = ["null", "[1]", "\"me@box\"", "{\"url\": null}", "{\"url\": {\"a\": \"b@c\"}}"];
    let odd = odd.map(|data| serde_json::from_str(data).unwrap());
    for (id, data) in (1_i64..).zip(values.iter().chain(&odd)) {
        let insert = "INSERT INTO events (event_id, object_type, object_id, data) \
                      VALUES ($1::bigint, CASE $1::bigint % 2 WHEN 0 THEN 'provider' ELSE 'provider_deletion' END, 'p', $2)";
        pg::execute(&client, insert, &[&id, &pg::types::Json(data)]).await.unwrap();
    }
    drop(client);
    before.migrate(migrations::migrations::runner()).await;
    let client = before.client().await.unwrap();
    let rows = pg::rows(&client, "SELECT data FROM events ORDER BY event_id", &[]).await.unwrap();
    let after: Vec<serde_json::Value> = rows.iter().map(|row| row.get("data")).collect();
    let told: Vec<_> =
        after[..urls.len()].iter().map(|data| data["url"].as_str().unwrap()).collect();
    assert_eq!(told, urls.map(|(_, told)| told));
    assert_eq!(after[urls.len()..], odd);
}
