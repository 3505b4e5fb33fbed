//! What a database is, and what its role may do.

use api::controller::Provisioned;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{Api, api, api_with, connect, create, superuser};

#[tokio::test]
async fn a_database_is_its_roles_own_and_can_be_removed_twice() {
    let postgres = testkit::Postgres::start().await;
    let api = api(postgres.port(), postgres.password()).await;
    let one: Provisioned = api.client.post("/databases", &serde_json::json!({})).await.unwrap();
    let two: Provisioned = api.client.post("/databases", &()).await.unwrap();
    assert_ne!(one.env["PGUSER"], two.env["PGUSER"]);
    let wish = serde_json::json!({ "version": "9.5" });
    let err = api.client.post::<Provisioned>("/databases", &wish).await.unwrap_err();
    assert!(err.to_string().contains("unknown field `version`"), "{err}");
    assert_eq!(one.id, format!("/databases/{}:{}", one.env["PGUSER"], one.env["PGDATABASE"]));

    let client = connect(&one.env["DATABASE_URL"]).await.unwrap();
    client.batch_execute("CREATE TABLE t (n int)").await.unwrap();
    assert!(client.batch_execute("CREATE ROLE other").await.is_err());
    let others = one.env["DATABASE_URL"].replace(&one.env["PGDATABASE"], &two.env["PGDATABASE"]);
    assert!(connect(&others).await.is_err(), "a role gets into another's database");

    let delete = format!("/databases?id={}", one.id);
    api.client.delete::<()>(&delete).await.unwrap();
    api.client.delete::<()>(&delete).await.unwrap();
    assert!(connect(&one.env["DATABASE_URL"]).await.is_err());
    let err = api.client.delete::<()>("/databases?id=/databases/x:y").await.unwrap_err();
    assert!(err.to_string().contains("32 hex digits"), "{err}");
    api.client.get::<serde_json::Value>("/ping").await.unwrap();
    let status: serde_json::Value = api.client.get("/.well-known/status").await.unwrap();
    assert_eq!(status["data"]["status"], "healthy");
}

/// An answer as it is sent.
async fn raw_get(api: &Api, path: &str) -> String {
    let addr = api.base.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let ask = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(ask.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn no_key_no_database_and_ping_tells_the_truth() {
    let api = api(testkit::free_port(), "x").await;
    let stranger =
        api_client::Client::new(api.base.as_str(), Some("guess".into())).without_retries();
    let err = stranger.post::<Provisioned>("/databases", &()).await.unwrap_err();
    assert!(err.to_string().contains("key"), "{err}");
    let err = api.client.get::<()>("/ping").await.unwrap_err();
    assert!(err.to_string().contains("cannot be reached"), "{err}");
    let status = raw_get(&api, "/.well-known/status").await;
    assert!(status.starts_with("HTTP/1.1 500") && status.contains("unhealthy"), "{status}");
    assert!(status.contains("cannot be reached"), "{status}");
}

#[tokio::test]
async fn a_server_that_turns_the_api_away_is_not_one_that_is_away() {
    let postgres = testkit::Postgres::start().await;
    let api = api(postgres.port(), "guess").await;
    for err in [
        api.client.get::<()>("/ping").await.unwrap_err(),
        api.client.post::<Provisioned>("/databases", &()).await.unwrap_err(),
    ] {
        let said = err.to_string();
        assert!(said.contains("password authentication failed") && !err.is_retryable(), "{said}");
    }
}

#[tokio::test]
async fn what_was_accepted_is_done_although_its_asker_hangs_up() {
    let postgres = testkit::Postgres::start().await;
    let api = api(postgres.port(), postgres.password()).await;
    let made = create(&api, "0fb1a2c3-0000-4000-8000-0123456789ac").await.unwrap();
    let superuser = format!(
        "postgres://{}:{}@{}:{}/{}",
        postgres.user(),
        postgres.password(),
        postgres.host(),
        postgres.port(),
        postgres.database()
    );
    let superuser = connect(&superuser).await.unwrap();
    let count = async |sql: &str| superuser.query(sql, &[]).await.unwrap().len();
    // The database can go, and its role waits.
    superuser.batch_execute("BEGIN; LOCK TABLE pg_authid IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let path = format!("/databases?id={}", made.id);
    let waits = "SELECT FROM pg_locks WHERE NOT granted";
    tokio::select! {
        deleted = api.client.delete::<()>(&path) => panic!("it waits: {deleted:?}"),
        () = testkit::wait_until("it waits", async || match count(waits).await {
            0 => Err("nothing waits"),
            _ => Ok(()),
        }) => {}
    }
    superuser.batch_execute("COMMIT").await.unwrap();
    let left = format!(
        "SELECT datname FROM pg_database WHERE datname = '{0}' UNION SELECT rolname FROM pg_roles WHERE rolname = '{0}'",
        made.env["PGUSER"]
    );
    testkit::wait_until("nothing is left", async || match count(&left).await {
        0 => Ok(()),
        left => Err(left),
    })
    .await;
}

#[tokio::test]
async fn what_was_made_for_a_lost_answer_is_the_answer_of_the_next_request() {
    let postgres = testkit::Postgres::start().await;
    let api = api(postgres.port(), postgres.password()).await;
    let id = "0fb1a2c3-0000-4000-8000-0123456789ab";
    let first = create(&api, id).await.unwrap();
    let client = connect(&first.env["DATABASE_URL"]).await.unwrap();
    client.batch_execute("CREATE TABLE t (n int)").await.unwrap();
    let second = create(&api, id).await.unwrap();
    assert_eq!(first.id, second.id);
    let client = connect(&second.env["DATABASE_URL"]).await.unwrap();
    client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    let err = create(&api, "'; DROP ROLE flynn").await.unwrap_err();
    assert!(err.to_string().contains("UUID"), "{err}");
}

#[tokio::test]
async fn a_role_has_few_connections_and_none_to_the_servers_own_databases() {
    let postgres = testkit::Postgres::start().await;
    let api = api(postgres.port(), postgres.password()).await;
    let made: Provisioned = api.client.post("/databases", &()).await.unwrap();
    let url = &made.env["DATABASE_URL"];
    for own in ["postgres", "template1"] {
        let theirs = url.replace(&format!("/{}", made.env["PGDATABASE"]), &format!("/{own}"));
        assert!(connect(&theirs).await.is_err(), "a role gets into {own}");
    }
    let mut clients = Vec::new();
    let client = connect(url).await.unwrap();
    for (setting, value) in [("statement_timeout", "1h"), ("work_mem", "4MB")] {
        let shown = client.query_one(&format!("SHOW {setting}"), &[]).await.unwrap();
        assert_eq!(shown.get::<_, &str>(0), value);
    }
    let more = client.batch_execute("SET temp_file_limit = -1").await.unwrap_err();
    assert!(more.as_db_error().unwrap().message().contains("permission denied"), "{more}");
    let refused = loop {
        match connect(url).await {
            Ok(client) => clients.push(client),
            Err(err) => break err,
        }
        assert!(clients.len() < 100, "a role may take all connections");
    };
    let why = refused.as_db_error().map(|err| err.message().to_owned());
    assert!(why.as_deref().is_some_and(|why| why.contains("too many connections")), "{why:?}");
    api.client.post::<Provisioned>("/databases", &()).await.unwrap();
}

#[tokio::test]
async fn a_flood_of_pings_is_one_connection_at_a_time() {
    let postgres = testkit::Postgres::start().await;
    let api = api(postgres.port(), postgres.password()).await;
    let made: Provisioned = api.client.post("/databases", &()).await.unwrap();
    let watching = connect(&made.env["DATABASE_URL"]).await.unwrap();
    let pings = (0..300).map(|_| api.client.get::<serde_json::Value>("/ping"));
    let mut flood = Box::pin(futures_util::future::join_all(pings));
    let superusers = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'flynn' \
                      AND application_name = 'flynn-postgres-api'";
    let mut most = 0;
    let answers = loop {
        tokio::select! {
            answers = &mut flood => break answers,
            row = watching.query_one(superusers, &[]) => {
                most = most.max(row.unwrap().get::<_, i64>(0));
            }
        }
    };
    assert!(answers.iter().all(Result::is_ok));
    assert!(most <= 2, "{most} connections at a time");
}

#[tokio::test]
async fn a_database_above_its_quota_is_read_and_one_that_is_written_on_is_closed() {
    let postgres = testkit::Postgres::start().await;
    // An empty database has some 7 MiB.
    let quota = ["--database-len-max=16777216", "--measure-seconds=1"];
    let api = api_with(postgres.port(), postgres.password(), &quota).await;
    let made = create(&api, "0fb1a2c3-0000-4000-8000-0123456789ab").await.unwrap();
    let own: Provisioned = api.client.post("/databases", &()).await.unwrap();
    let fill = "CREATE TABLE IF NOT EXISTS big (t text); ALTER TABLE big ALTER t SET STORAGE EXTERNAL; \
                INSERT INTO big SELECT repeat('x', 1000000) FROM generate_series(1, 11)";
    let (url, own) = (&made.env["DATABASE_URL"], &own.env["DATABASE_URL"]);
    for url in [url, own] {
        connect(url).await.unwrap().batch_execute(fill).await.unwrap();
    }
    let message = |err: &tokio_postgres::Error| {
        err.as_db_error().map_or_else(|| err.to_string(), |err| err.message().to_owned())
    };
    let writes = async |begin: &str, sql: &str| {
        let client = connect(url).await.map_err(|err| message(&err))?;
        client.batch_execute(begin).await.map_err(|err| message(&err))?;
        client.batch_execute(sql).await.map_err(|err| message(&err))
    };
    let until = async |what: &str, begin: &str, sql: &str| {
        testkit::wait_until(what, async || match writes(begin, sql).await {
            Err(why) if why.contains(what) => Ok(()),
            other => Err(other),
        })
        .await;
    };
    let little = "CREATE TABLE IF NOT EXISTS little (n int)";
    until("read-only transaction", "SELECT 1", little).await;
    let count = connect(url).await.unwrap().query_one("SELECT count(*) FROM big", &[]).await;
    assert_eq!(count.unwrap().get::<_, i64>(0), 11, "it is still read");
    until("not permitted to log in", "SET default_transaction_read_only = off", fill).await;
    let client = connect(own).await.unwrap();
    client.batch_execute(fill).await.expect("the cluster's own database has no quota");
}

/// Makes `pg_database_size` answer as this body says; its one argument is `$1`.
async fn sizes_are(superuser: &tokio_postgres::Client, body: &str) {
    let function = format!(
        "CREATE OR REPLACE FUNCTION public.pg_database_size(oid) RETURNS bigint LANGUAGE plpgsql \
         AS $f$ BEGIN {body} END $f$; \
         ALTER ROLE flynn SET search_path = public, pg_catalog"
    );
    superuser.batch_execute(&function).await.unwrap();
}

#[tokio::test]
async fn a_database_without_files_or_size_keeps_no_other_from_being_measured() {
    let postgres = testkit::Postgres::start().await;
    let quota = ["--database-len-max=16777216", "--measure-seconds=1"];
    let superuser = superuser(&postgres).await;
    let api = api_with(postgres.port(), postgres.password(), &[]).await;
    let made = |n: u32| format!("0fb1a2c3-0000-4000-8000-{n:012x}");
    let mut names = Vec::new();
    for n in 0..3 {
        names.push(create(&api, &made(n)).await.unwrap().env["PGDATABASE"].clone());
    }
    // The first is one whose removal was killed: it has no files. The second cannot be looked at.
    let oid = "SELECT oid::int8 FROM pg_database WHERE datname = $1";
    let oid: i64 = superuser.query_one(oid, &[&names[0]]).await.unwrap().get(0);
    let gone = format!("COPY (SELECT 1) TO PROGRAM 'rm -r base/{oid}'");
    superuser.batch_execute(&gone).await.unwrap();
    let second = format!(
        "IF (SELECT datname FROM pg_database WHERE oid = $1) = '{}' THEN RAISE 'no'; END IF; \
         RETURN CASE WHEN pg_catalog.pg_database_size($1) > 0 THEN 1::bigint << 40 END;",
        names[1]
    );
    sizes_are(&superuser, &second).await;
    let _measuring = api_with(postgres.port(), postgres.password(), &quota).await;
    let closed = "SELECT array_agg(rolname::text ORDER BY rolname) FROM pg_roles \
                  WHERE NOT rolcanlogin AND rolname = ANY($1)";
    testkit::wait_until("the third is closed", async || {
        let row = superuser.query_one(closed, &[&names]).await.unwrap();
        match row.get::<_, Option<Vec<String>>>(0) {
            Some(closed) if closed == names[2..] => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

#[tokio::test]
async fn databases_are_made_and_removed_while_one_is_being_measured() {
    let postgres = testkit::Postgres::start().await;
    let superuser = superuser(&postgres).await;
    let api = api_with(postgres.port(), postgres.password(), &["--measure-seconds=1"]).await;
    sizes_are(&superuser, "PERFORM pg_sleep(3600); RETURN 1;").await;
    create(&api, "0fb1a2c3-0000-4000-8000-0123456789ab").await.unwrap();
    let measured = "SELECT query_start::text FROM pg_stat_activity \
                    WHERE state = 'active' AND wait_event = 'PgSleep'";
    let began: String = testkit::wait_until("it is being measured", async || {
        let row = superuser.query_opt(measured, &[]).await.unwrap();
        row.map(|row| row.get(0)).ok_or(())
    })
    .await;
    let made: Provisioned = api.client.post("/databases", &()).await.unwrap();
    let delete = format!("/databases?id={}", made.id);
    api.client.delete::<()>(&delete).await.unwrap();
    let still = superuser.query_one(measured, &[]).await.unwrap();
    assert_eq!(still.get::<_, String>(0), began, "it waited for the end");
}
