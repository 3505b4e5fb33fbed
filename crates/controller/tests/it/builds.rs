//! Turns to build.

use crate::world::World;

refinery::embed_migrations!("migrations");

#[tokio::test]
async fn a_few_builds_run_at_once_and_the_others_wait_in_the_order_they_came() {
    let world = World::start().await;
    world.app("shop").await;
    let id = |n: u32| format!("{n:032}");
    let place = async |n: u32| world.client.build_turn(&id(n), "shop").await.unwrap().place;
    for (n, expected) in [(1, 0), (2, 0), (3, 1), (4, 2), (3, 1), (1, 0)] {
        assert_eq!(place(n).await, expected, "build {n}");
    }
    world.client.end_build_turn(&id(2)).await.unwrap();
    assert_eq!(place(4).await, 1);
    assert_eq!(place(3).await, 0);
    // One that comes back is the last, and one that is asked to end twice is no error.
    assert_eq!(place(2).await, 2);
    world.client.end_build_turn(&id(9)).await.unwrap();
    assert!(world.client.build_turn(&id(5), "nothing").await.unwrap_err().is_not_found());
    assert!(world.client.build_turn("short", "shop").await.is_err());
}

#[tokio::test]
async fn a_build_that_no_longer_asks_loses_its_turn() {
    let world = World::start().await;
    let app = world.app("shop").await;
    let id = |n: u32| format!("{n:032}");
    for n in 1..=3 {
        world.client.build_turn(&id(n), &app.name).await.unwrap();
    }
    let pool = pg::Pool::new(world.config.database.clone(), 1);
    pool.migrate(migrations::runner()).await;
    let database = pool.client().await.unwrap();
    let sql = "UPDATE builds SET seen_at = now() - interval '61 seconds' WHERE id = $1";
    assert_eq!(pg::execute(&database, sql, &[&id(1)]).await.unwrap(), 1);
    assert_eq!(world.client.build_turn(&id(3), &app.name).await.unwrap().place, 0);
}
