//! A database is removed with its role, whatever other apps have done.

use std::{collections::BTreeMap, pin::pin};

use api::controller::Provisioned;

use crate::support::{Api, connect, served};

async fn make(api: &Api) -> Provisioned {
    api.client.post("/databases", &()).await.unwrap()
}

async fn remove(api: &Api, id: &str) -> Result<(), api_client::Error> {
    api.client.delete(&format!("/databases?id={id}")).await
}

/// As this role, in that database.
async fn says(
    role: &BTreeMap<String, String>,
    database: &BTreeMap<String, String>,
    sql: &str,
) -> tokio_postgres::Client {
    let url = role["DATABASE_URL"].replace(&role["PGDATABASE"], &database["PGDATABASE"]);
    let client = connect(&url).await.unwrap();
    client.batch_execute(sql).await.unwrap();
    client
}

async fn exists(superuser: &tokio_postgres::Client, role: &str) -> bool {
    let role = superuser.query_opt("SELECT FROM pg_roles WHERE rolname = $1", &[&role]).await;
    role.unwrap().is_some()
}

#[tokio::test]
async fn a_role_that_another_app_names_is_removed_and_that_app_loses_nothing() {
    let (_postgres, api, superuser) = served().await;
    let (one, two, other) = (make(&api).await, make(&api).await, make(&api).await);
    let (own, role) = (&one.env["PGDATABASE"], &two.env["PGUSER"]);
    let grants = format!(
        r#"CREATE TABLE t (n int); GRANT CONNECT ON DATABASE "{own}" TO "{role}"; GRANT SELECT ON t TO "{role}";
        GRANT CREATE ON SCHEMA public TO "{role}"; ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO "{role}";
        ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON t TO "{role}", "{0}" USING (true)"#,
        one.env["PGUSER"]
    );
    let owner = says(&one.env, &one.env, &grants).await;
    let made = "CREATE TABLE theirs AS SELECT 7 AS n; SELECT lo_create(77); \
                ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC";
    let inside = says(&two.env, &one.env, made).await;
    says(
        &two.env,
        &two.env,
        &format!(r#"ALTER DATABASE "{}" IS_TEMPLATE true"#, two.env["PGDATABASE"]),
    )
    .await;
    let grants = format!(r#"GRANT CONNECT ON DATABASE "{}" TO "{role}""#, other.env["PGDATABASE"]);
    says(&other.env, &other.env, &grants).await;
    for hindrance in [
        format!(r#"SET role = "{}""#, one.env["PGUSER"]),
        "SET default_transaction_read_only = on".into(),
        "SET statement_timeout = 1".into(),
        r"SET application_name = 'a \ b'".into(),
        "SET search_path = public, pg_catalog".into(),
        "CONNECTION LIMIT 0".into(),
    ] {
        let sql = format!(r#"ALTER DATABASE "{own}" {hindrance}"#);
        owner.batch_execute(&sql).await.unwrap();
    }
    let close = format!(r#"ALTER DATABASE "{own}" ALLOW_CONNECTIONS false"#);
    superuser.batch_execute(&close).await.unwrap();

    remove(&api, &two.id).await.unwrap();
    assert!(!exists(&superuser, role).await);
    testkit::wait_until("its session is ended", async || {
        if inside.is_closed() { Ok(()) } else { Err("it goes on") }
    })
    .await;
    let open = "SELECT FROM pg_database WHERE datallowconn AND datname = $1";
    assert!(superuser.query_opt(open, &[own]).await.unwrap().is_none(), "it is closed as before");
    for back in ["ALLOW_CONNECTIONS true", "RESET ALL", "CONNECTION LIMIT -1"] {
        let sql = format!(r#"ALTER DATABASE "{own}" {back}"#);
        superuser.batch_execute(&sql).await.unwrap();
    }
    let client = connect(&one.env["DATABASE_URL"]).await.unwrap();
    let kept = client.query_one("SELECT n FROM theirs", &[]).await.unwrap();
    assert_eq!(kept.get::<_, i32>(0), 7);
    let use_it = "ALTER TABLE theirs ADD m int; INSERT INTO theirs VALUES (1, 2); DROP TABLE theirs; \
                  SELECT lo_unlink(77); SELECT * FROM t";
    client.batch_execute(use_it).await.expect("what the role made is the app's own");
    remove(&api, &one.id).await.unwrap();
    remove(&api, &two.id).await.unwrap();
}

/// What an app might set each setting to that it may set, worst first.
const WORST: &str = "SELECT name, ARRAY[CASE \
         WHEN vartype = 'bool' THEN (NOT setting::bool)::text \
         WHEN vartype = 'enum' THEN enumvals[array_upper(enumvals, 1)] \
         WHEN vartype = 'string' THEN 'nothing' \
         WHEN unit IN ('ms', 's', 'min') THEN '1' ELSE min_val END, current_setting(name)] \
     FROM pg_settings WHERE context IN ('user', 'superuser', 'backend', 'superuser-backend') \
     UNION ALL VALUES ('seed', ARRAY['0.5']), ('role', ARRAY[$1::text]), ('session_authorization', ARRAY[$1]), \
         ('is_superuser', ARRAY['off']), ('transaction_isolation', ARRAY['serializable']), \
         ('transaction_read_only', ARRAY['on']), ('transaction_deferrable', ARRAY['on'])";

#[tokio::test]
async fn no_setting_of_a_database_keeps_a_role_from_leaving_it() {
    let (_postgres, api, superuser) = served().await;
    let (one, two) = (make(&api).await, make(&api).await);
    let role = &two.env["PGUSER"];
    let grants = format!(r#"CREATE TABLE t (n int); GRANT SELECT ON t TO "{role}""#);
    let owner = says(&one.env, &one.env, &grants).await;
    let mut set = Vec::new();
    for row in superuser.query(WORST, &[&one.env["PGUSER"]]).await.unwrap() {
        let (name, values): (String, Vec<Option<String>>) = (row.get(0), row.get(1));
        for value in values.into_iter().flatten() {
            let own = &one.env["PGDATABASE"];
            let sql = format!(r#"ALTER DATABASE "{own}" SET {name} = '{value}'"#);
            if owner.batch_execute(&sql).await.is_ok() {
                set.push(name);
                break;
            }
        }
    }
    for name in ["seed", "role", "statement_timeout", "idle_session_timeout"] {
        assert!(set.iter().any(|set| set == name), "{name} is not among {set:?}");
    }
    assert!(set.len() > 100, "{set:?}");
    remove(&api, &two.id).await.unwrap();
    assert!(!exists(&superuser, role).await);
}

#[tokio::test]
async fn what_a_role_made_in_a_superusers_database_runs_as_no_superuser() {
    let (postgres, api, superuser) = served().await;
    let (made, reader) = (make(&api).await, make(&api).await);
    let shared: BTreeMap<_, _> =
        [("PGDATABASE".to_owned(), postgres.fresh_database().await)].into();
    let url = format!(
        "postgres://{}:{}@{}:{}/{}",
        postgres.user(),
        postgres.password(),
        postgres.host(),
        postgres.port(),
        shared["PGDATABASE"]
    );
    let open = format!(r#"GRANT CREATE ON SCHEMA public TO "{}""#, made.env["PGUSER"]);
    connect(&url).await.unwrap().batch_execute(&open).await.unwrap();
    let trap = "CREATE FUNCTION who() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT current_user::text'";
    says(&made.env, &shared, trap).await;
    remove(&api, &made.id).await.unwrap();
    let client = says(&reader.env, &shared, "SELECT 1").await;
    let who: String = client.query_one("SELECT who()", &[]).await.unwrap().get(0);
    let is_super = "SELECT FROM pg_roles WHERE rolname = $1 AND rolsuper";
    assert!(superuser.query_opt(is_super, &[&who]).await.unwrap().is_none(), "it runs as {who}");
}

#[tokio::test]
async fn whoever_keeps_a_removal_waiting_is_put_out() {
    let (_postgres, api, superuser) = served().await;
    let (one, two) = (make(&api).await, make(&api).await);
    let role = &two.env["PGUSER"];
    let grants = format!(r#"CREATE TABLE t (n int); BEGIN; GRANT SELECT ON t TO "{role}""#);
    let _open = says(&one.env, &one.env, &grants).await;
    let _own = says(&two.env, &two.env, "BEGIN; ALTER ROLE CURRENT_USER PASSWORD 'x'").await;
    remove(&api, &two.id).await.unwrap();
    assert!(!exists(&superuser, role).await);
}

/// Two apps, of which the second made this in the first's database.
async fn guest(api: &Api, makes: &str) -> (Provisioned, Provisioned) {
    let (one, two) = (make(api).await, make(api).await);
    let (own, role) = (&one.env["PGDATABASE"], &two.env["PGUSER"]);
    let open = format!(
        r#"GRANT CONNECT ON DATABASE "{own}" TO "{role}"; GRANT CREATE ON SCHEMA public TO "{role}""#
    );
    says(&one.env, &one.env, &open).await;
    says(&two.env, &one.env, makes).await;
    (one, two)
}

#[tokio::test]
async fn however_many_keep_a_removal_waiting_they_are_put_out_together() {
    let (_postgres, api, superuser) = served().await;
    let tables = ["a", "b", "c", "d", "e", "f"];
    let made: String = tables.map(|t| format!("CREATE TABLE {t} (n int);")).concat();
    let (one, two) = guest(&api, &made).await;
    let share = format!(r#"GRANT ALL ON ALL TABLES IN SCHEMA public TO "{}""#, one.env["PGUSER"]);
    says(&two.env, &one.env, &share).await;
    let mut locking = Vec::new();
    for table in tables {
        let lock = format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE");
        locking.push(says(&one.env, &one.env, &lock).await);
    }
    remove(&api, &two.id).await.unwrap();
    assert!(!exists(&superuser, &two.env["PGUSER"]).await);
}

#[tokio::test]
async fn a_role_leaves_more_tables_than_the_server_has_locks_for() {
    let (_postgres, api, superuser) = served().await;
    let tables = "DO $$ BEGIN FOR i IN 1..8000 LOOP EXECUTE format('CREATE TABLE t%s ()', i); \
                  IF i % 500 = 0 THEN COMMIT; END IF; END LOOP; END $$";
    let (one, two) = guest(&api, tables).await;
    let policies = format!(
        r#"DO $$ BEGIN FOR i IN 1..600 LOOP EXECUTE format('CREATE TABLE p%1$s ();
        CREATE POLICY his ON p%1$s TO "{1}"; CREATE POLICY ours ON p%1$s TO "{0}", "{1}"', i); END LOOP; END $$"#,
        one.env["PGUSER"], two.env["PGUSER"]
    );
    let owner = says(&one.env, &one.env, &policies).await;
    testkit::wait_until("it is removed", || remove(&api, &two.id)).await;
    assert!(!exists(&superuser, &two.env["PGUSER"]).await);
    let left = "SELECT count(*), every(policyname = 'ours' AND roles = ARRAY[current_user]) FROM pg_policies";
    let left = owner.query_one(left, &[]).await.unwrap();
    assert_eq!((left.get(0), left.get(1)), (600_i64, Some(true)));
    let taken = "SELECT count(*) FROM pg_tables WHERE tableowner = 'pg_database_owner'";
    assert_eq!(owner.query_one(taken, &[]).await.unwrap().get::<_, i64>(0), 8000);
}

#[tokio::test]
async fn a_database_that_lets_nobody_in_for_a_moment_is_entered_again() {
    let (_postgres, api, superuser) = served().await;
    let (one, two) = guest(&api, "CREATE TABLE t (n int)").await;
    let lock = format!(r#"BEGIN; ALTER DATABASE "{}" RENAME TO renamed"#, one.env["PGDATABASE"]);
    testkit::wait_until("it is locked", async || {
        let locked = superuser.batch_execute(&lock).await;
        if locked.is_err() {
            superuser.batch_execute("ROLLBACK").await.unwrap();
        }
        locked
    })
    .await;
    let waits = "SELECT FROM pg_locks WHERE NOT granted AND classid = 'pg_database'::regclass";
    let mut removed = pin!(remove(&api, &two.id));
    tokio::select! {
        done = &mut removed => panic!("it waits: {done:?}"),
        () = testkit::wait_until("it has come again", async || {
            let waiting = superuser.query(waits, &[]).await.unwrap().len();
            if waiting > 1 { Ok(()) } else { Err(waiting) }
        }) => {}
    }
    superuser.batch_execute("ROLLBACK").await.unwrap();
    removed.await.unwrap();
}

#[tokio::test]
async fn a_role_that_is_named_again_and_again_is_removed() {
    let (_postgres, api, superuser) = served().await;
    let (one, two) = (make(&api).await, make(&api).await);
    let role = &two.env["PGUSER"];
    let client = says(&one.env, &one.env, "CREATE TABLE t (n int)").await;
    let name = format!(r#"GRANT SELECT ON t TO "{role}""#);
    let naming = async {
        while client.batch_execute(&name).await.is_ok() {}
        std::future::pending::<()>().await;
    };
    tokio::select! {
        removed = async {
            // It may be told to come again, as the controller does.
            testkit::wait_until("it is removed", || remove(&api, &two.id)).await;
        } => removed,
        () = naming => {}
    }
    assert!(!exists(&superuser, role).await);
}

#[tokio::test]
async fn a_session_that_was_beginning_does_not_outlive_its_role() {
    let (postgres, api, superuser) = served().await;
    let made = make(&api).await;
    let public = postgres.fresh_database().await;
    // It has passed the look at its role, and waits for its database.
    let lock = format!("BEGIN; ALTER DATABASE {public} RENAME TO renamed");
    superuser.batch_execute(&lock).await.unwrap();
    let url = made.env["DATABASE_URL"]
        .replace(&format!("/{}", made.env["PGDATABASE"]), &format!("/{public}"));
    let mut begins = pin!(connect(&url));
    let waits = "SELECT FROM pg_locks WHERE NOT granted AND classid = 'pg_database'::regclass";
    tokio::select! {
        _ = &mut begins => panic!("it waits"),
        () = testkit::wait_until("it waits", async || {
            superuser.query_opt(waits, &[]).await.unwrap().ok_or("nothing waits")?;
            Ok::<_, &str>(())
        }) => {}
    }
    remove(&api, &made.id).await.unwrap();
    superuser.batch_execute("ROLLBACK").await.unwrap();
    assert!(begins.await.is_err(), "it goes on without its role");
}

#[tokio::test]
async fn a_role_that_owns_another_database_is_left_alone() {
    let (_postgres, api, _) = served().await;
    let (one, two) = (make(&api).await, make(&api).await);
    let mixed = format!("/databases/{}:{}", one.env["PGUSER"], two.env["PGDATABASE"]);
    let err = remove(&api, &mixed).await.unwrap_err();
    assert!(err.to_string().contains(&one.env["PGDATABASE"]), "{err}");
    for made in [&one, &two] {
        connect(&made.env["DATABASE_URL"]).await.expect("nothing was removed");
    }
}
