//! Against a real Postgres.

use std::sync::atomic::{AtomicU32, Ordering};

use pg::{Config, Error, Pool};
use testkit::Postgres;

mod embedded {
    refinery::embed_migrations!("tests/migrations");
}

fn config(postgres: &Postgres) -> Config {
    Config {
        host: postgres.host().into(),
        port: postgres.port(),
        user: postgres.user().into(),
        password: postgres.password().into(),
        database: postgres.database().into(),
        application: "test".into(),
    }
}

#[tokio::test]
async fn a_pool_waits_for_its_server_and_survives_its_restart() {
    let mut postgres = Postgres::start().await;
    let pool = Pool::new(config(&postgres), 2);
    postgres.kill();
    let (_, ()) = tokio::join!(pool.migrate(embedded::migrations::runner()), async {
        assert!(matches!(pool.client().await, Err(Error::Unavailable(_))));
        postgres.restart().await;
    });
    let insert = async || {
        let client = pool.client().await?;
        pg::execute(&client, "INSERT INTO things (name) VALUES ($1)", &[&"one"]).await
    };
    assert_eq!(insert().await.unwrap(), 1);
    assert_eq!(insert().await.unwrap_err().violated(), Some("things_pkey"));
    postgres.restart().await;
    let client = pool.client().await.unwrap();
    let things = pg::rows(&client, "SELECT name FROM things", &[]).await.unwrap();
    assert_eq!(things[0].get::<_, String>(0), "one");
    // Migrating again changes nothing.
    pool.migrate(embedded::migrations::runner()).await;
}

#[tokio::test]
async fn a_listener_is_nudged_by_notifications_and_by_every_reconnect() {
    let mut postgres = Postgres::start().await;
    let pool = Pool::new(config(&postgres), 2);
    pool.migrate(embedded::migrations::runner()).await;
    let config = config(&postgres);
    let nudges = AtomicU32::new(0);
    let count = || nudges.load(Ordering::SeqCst);
    let nudge = || {
        nudges.fetch_add(1, Ordering::SeqCst);
    };
    let listening = pg::keep_listening(&config, "things", nudge);
    let notified = async {
        let more = async |than: u32| {
            let seen = async || if count() > than { Ok(()) } else { Err(count()) };
            testkit::wait_until("a nudge", seen).await;
        };
        more(0).await;
        let before = count();
        let client = pool.client().await.unwrap();
        pg::execute(&client, "SELECT pg_notify('things', '')", &[]).await.unwrap();
        more(before).await;
        let before = count();
        postgres.restart().await;
        more(before).await;
    };
    tokio::select! {
        () = listening => unreachable!("it listens for ever"),
        () = notified => {}
    }
}
