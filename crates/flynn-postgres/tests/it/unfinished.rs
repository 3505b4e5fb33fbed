//! What is cut off, or never begun, leaves nothing that nobody knows.

use std::{future::Future, pin::pin};

use api::controller::Provisioned;
use clap::Parser;
use flynn_postgres::{
    config::ApiConfig,
    domain::names::DatabaseId,
    store::{Databases, StoreError},
};

use crate::support::{api_with, connect, create, served, superuser};

/// Databases and roles that were made here.
const MADE: &str = "SELECT datname FROM pg_database WHERE length(datname) = 32 \
     UNION ALL SELECT rolname FROM pg_roles WHERE length(rolname) = 32";
/// `CREATE DATABASE` that waits for [`LOCK`].
const WAITS: &str = "SELECT FROM pg_stat_activity \
     WHERE query LIKE 'CREATE DATABASE%' AND state = 'active' AND wait_event_type = 'Lock'";
/// Nobody makes a database until its transaction ends.
const LOCK: &str = "BEGIN; COMMENT ON DATABASE template0 IS 'locked'";

/// A session that keeps the server from making databases.
async fn lock(postgres: &testkit::Postgres) -> tokio_postgres::Client {
    let locking = superuser(postgres).await;
    locking.batch_execute(LOCK).await.unwrap();
    locking
}

async fn until(superuser: &tokio_postgres::Client, what: &str, sql: &str, count: usize) {
    testkit::wait_until(what, async || match superuser.query(sql, &[]).await.unwrap().len() {
        now if now == count => Ok(()),
        now => Err(now),
    })
    .await;
}

/// Waits until a database is being made, and not made.
async fn until_it_waits<T: std::fmt::Debug>(
    superuser: &tokio_postgres::Client,
    work: &mut (impl Future<Output = T> + Unpin),
) {
    tokio::select! {
        done = work => panic!("it waits: {done:?}"),
        () = until(superuser, "it waits", WAITS, 1) => {}
    }
}

#[tokio::test]
async fn an_unnamed_database_that_takes_too_long_is_not_left_over() {
    let (postgres, api, superuser) = served().await;
    let locking = lock(&postgres).await;
    let err = api.client.post::<Provisioned>("/databases", &()).await.unwrap_err();
    assert!(err.is_retryable(), "{err}");
    until(&superuser, "the server has given it up", WAITS, 0).await;
    locking.batch_execute("COMMIT").await.unwrap();
    until(&superuser, "nothing is left", MADE, 0).await;
}

#[tokio::test]
async fn an_unnamed_database_whose_connection_is_lost_is_not_left_over() {
    let (postgres, api, superuser) = served().await;
    let locking = lock(&postgres).await;
    let mut made = pin!(api.client.post::<Provisioned>("/databases", &()));
    until_it_waits(&superuser, &mut made).await;
    let cut = WAITS.replace("SELECT", "SELECT pg_terminate_backend(pid)");
    superuser.batch_execute(&cut).await.unwrap();
    let err = made.await.unwrap_err();
    assert!(err.is_retryable(), "{err}");
    locking.batch_execute("COMMIT").await.unwrap();
    until(&superuser, "nothing is left", MADE, 0).await;
}

#[tokio::test]
async fn an_unnamed_database_whose_asker_hangs_up_is_removed_and_a_named_one_stays() {
    let (postgres, api, superuser) = served().await;
    let locking = lock(&postgres).await;
    until_it_waits(&superuser, &mut pin!(api.client.post::<Provisioned>("/databases", &()))).await;
    locking.batch_execute("COMMIT").await.unwrap();
    until(&superuser, "nothing is left", MADE, 0).await;
    locking.batch_execute(LOCK).await.unwrap();
    let id = "0fb1a2c3-0000-4000-8000-0123456789ab";
    until_it_waits(&superuser, &mut pin!(create(&api, id))).await;
    locking.batch_execute("COMMIT").await.unwrap();
    until(&superuser, "it is made", MADE, 2).await;
    create(&api, id).await.unwrap();
    until(&superuser, "it is the same", MADE, 2).await;
}

fn databases(postgres: &testkit::Postgres, lifetime: &daemon::Lifetime) -> Databases {
    let port = postgres.port().to_string();
    let args = ["api", "--key=x", "--host=127.0.0.1", "--pg-port", &port, "--password"];
    let config = ApiConfig::parse_from(args.into_iter().chain([postgres.password()]));
    Databases::new(&config, lifetime)
}

#[tokio::test]
async fn what_waits_in_line_when_the_daemon_stops_is_not_begun_and_what_has_begun_is_finished() {
    let postgres = testkit::Postgres::start().await;
    let (locking, superuser) = (lock(&postgres).await, superuser(&postgres).await);
    let lifetime = daemon::Lifetime::default();
    let databases = databases(&postgres, &lifetime);
    let name = |digit: &str| Some(digit.repeat(32).parse().unwrap());
    let mut begun = pin!(databases.create(name("1"), || true));
    until_it_waits(&superuser, &mut begun).await;
    let mut waits = pin!(databases.create(name("2"), || true));
    assert!(futures_util::poll!(&mut waits).is_pending());
    lifetime.end();
    assert!(matches!(waits.await, Err(StoreError::Stopping)));
    let late = databases.create(name("3"), || true).await;
    assert!(matches!(late, Err(StoreError::Stopping)), "{late:?}");
    assert!(futures_util::poll!(&mut begun).is_pending());
    locking.batch_execute("COMMIT").await.unwrap();
    begun.await.unwrap();
    until(&superuser, "only the first is made", MADE, 2).await;
}

#[tokio::test]
async fn what_a_killed_daemon_had_under_way_ends_with_it() {
    let postgres = testkit::Postgres::start().await;
    let (locking, superuser) = (lock(&postgres).await, superuser(&postgres).await);
    let databases = databases(&postgres, &daemon::Lifetime::default());
    let name = "1".repeat(32);
    {
        let mut killed = Box::pin(databases.create(Some(name.parse().unwrap()), || true));
        until_it_waits(&superuser, &mut killed).await;
    }
    // Its removal, by the next daemon, waits for that.
    let id = format!("/databases/{name}:{name}").parse().unwrap();
    let next = self::databases(&postgres, &daemon::Lifetime::default());
    next.delete(&id).await.unwrap();
    locking.batch_execute("COMMIT").await.unwrap();
    until(&superuser, "nothing goes on", WAITS, 0).await;
    until(&superuser, "nothing is left", MADE, 0).await;
}

#[tokio::test]
async fn what_a_killed_daemon_began_to_remove_is_not_given_back() {
    let postgres = testkit::Postgres::start().await;
    let superuser = superuser(&postgres).await;
    let api = api_with(postgres.port(), postgres.password(), &["--measure-seconds=1"]).await;
    let (id, other) =
        ("0fb1a2c3-0000-4000-8000-0123456789ab", "0fb1a2c3-0000-4000-8000-0123456789ac");
    let made = create(&api, id).await.unwrap();
    let other = create(&api, other).await.unwrap().env["PGUSER"].clone();
    let locking = self::superuser(&postgres).await;
    let lock = format!(r#"BEGIN; COMMENT ON DATABASE "{}" IS 'locked'"#, made.env["PGDATABASE"]);
    locking.batch_execute(&lock).await.unwrap();
    let databases = databases(&postgres, &daemon::Lifetime::default());
    let removed = made.id.parse().unwrap();
    {
        let mut killed = pin!(databases.delete(&removed));
        let drops = WAITS.replace("CREATE", "DROP");
        tokio::select! {
            done = &mut killed => panic!("it waits: {done:?}"),
            () = until(&superuser, "it waits", &drops, 1) => {}
        }
    }
    // The quota lets roles in again that are small enough. When it has done so twice it has looked at all of them.
    for _ in 0..2 {
        superuser.batch_execute(&format!(r#"ALTER ROLE "{other}" NOLOGIN"#)).await.unwrap();
        let let_in = format!("SELECT FROM pg_roles WHERE rolcanlogin AND rolname = '{other}'");
        until(&superuser, "the other role is let in", &let_in, 1).await;
    }
    let role = &made.env["PGUSER"];
    let let_in = format!("SELECT FROM pg_roles WHERE rolcanlogin AND rolname = '{role}'");
    assert_eq!(superuser.query(&let_in, &[]).await.unwrap().len(), 0, "its role is let in again");
    let err = create(&api, id).await.unwrap_err();
    assert!(err.to_string().contains("is being removed"), "{err}");
    locking.batch_execute("COMMIT").await.unwrap();
    let delete = format!("/databases?id={}", made.id);
    api.client.delete::<()>(&delete).await.unwrap();
    let again = create(&api, id).await.unwrap();
    connect(&again.env["DATABASE_URL"]).await.unwrap();
}

/// A database that another's role is to leave, which is closed, and in which the superuser keeps that role from leaving.
struct Closed {
    postgres: testkit::Postgres,
    superuser: tokio_postgres::Client,
    locking: tokio_postgres::Client,
    named: String,
    id: DatabaseId,
}

impl Closed {
    async fn make() -> Self {
        let (postgres, api, superuser) = served().await;
        let one: Provisioned = api.client.post("/databases", &()).await.unwrap();
        let two: Provisioned = api.client.post("/databases", &()).await.unwrap();
        let named = one.env["PGDATABASE"].clone();
        let (user, password) = (postgres.user(), postgres.password());
        let at = format!("{}:{}", postgres.host(), postgres.port());
        let url = format!("postgres://{user}:{password}@{at}/{named}");
        let locking = connect(&url).await.unwrap();
        let own =
            format!(r#"CREATE TABLE t (n int); ALTER TABLE t OWNER TO "{}""#, two.env["PGUSER"]);
        locking.batch_execute(&own).await.unwrap();
        locking.batch_execute("BEGIN; LOCK TABLE t").await.unwrap();
        let close = format!(r#"ALTER DATABASE "{named}" ALLOW_CONNECTIONS false"#);
        superuser.batch_execute(&close).await.unwrap();
        Self { postgres, superuser, locking, named, id: two.id.parse().unwrap() }
    }

    async fn until_it_lets_in(&self, whether: bool) {
        let sql =
            format!("SELECT FROM pg_database WHERE datname = '{}' AND datallowconn", self.named);
        until(&self.superuser, "it is open, or closed", &sql, usize::from(whether)).await;
    }
}

#[tokio::test]
async fn a_closed_database_is_closed_again_when_the_time_for_leaving_it_is_over() {
    let closed = Closed::make().await;
    let databases = databases(&closed.postgres, &daemon::Lifetime::default());
    let err = databases.delete(&closed.id).await.unwrap_err();
    assert!(matches!(err, StoreError::TimedOut { .. }), "{err}");
    closed.until_it_lets_in(false).await;
}

#[tokio::test]
async fn a_closed_database_that_a_killed_daemon_opened_is_closed_again() {
    let closed = Closed::make().await;
    let databases = databases(&closed.postgres, &daemon::Lifetime::default());
    {
        let mut killed = pin!(databases.delete(&closed.id));
        tokio::select! {
            done = &mut killed => panic!("it waits: {done:?}"),
            () = closed.until_it_lets_in(true) => {}
        }
    }
    closed.locking.batch_execute("ROLLBACK").await.unwrap();
    let next = self::databases(&closed.postgres, &daemon::Lifetime::default());
    next.delete(&closed.id).await.unwrap();
    closed.until_it_lets_in(false).await;
}

#[tokio::test]
async fn a_session_that_outlived_its_role_is_ended_by_and_by() {
    let postgres = testkit::Postgres::start().await;
    let superuser = superuser(&postgres).await;
    let api = api_with(postgres.port(), postgres.password(), &["--measure-seconds=1"]).await;
    let made = create(&api, "0fb1a2c3-0000-4000-8000-0123456789ab").await.unwrap();
    let client = connect(&made.env["DATABASE_URL"]).await.unwrap();
    // As after a removal that was killed at its end.
    let gone = format!("DELETE FROM pg_authid WHERE rolname = '{}'", made.env["PGUSER"]);
    superuser.batch_execute(&gone).await.unwrap();
    testkit::wait_until("its session is ended", async || {
        if client.is_closed() { Ok(()) } else { Err("it goes on") }
    })
    .await;
}

#[tokio::test]
async fn a_server_that_is_read_only_is_so_for_now() {
    let (_postgres, api, superuser) = served().await;
    let id = "0fb1a2c3-0000-4000-8000-0123456789ab";
    let made = create(&api, id).await.unwrap();
    superuser.batch_execute("ALTER SYSTEM SET default_transaction_read_only = on").await.unwrap();
    superuser.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let refused = testkit::wait_until("it is read-only", async || {
        create(&api, id).await.err().ok_or("it writes")
    })
    .await;
    assert!(refused.is_retryable() && refused.to_string().contains("read-only"), "{refused}");
    let delete = format!("/databases?id={}", made.id);
    let refused = api.client.delete::<()>(&delete).await.unwrap_err();
    assert!(refused.is_retryable(), "{refused}");
}
