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
