//! flynn-postgres-api over HTTP, with the real PostgreSQL.

#![expect(clippy::unwrap_used, reason = "a test may fail that way")]

use api::controller::Provisioned;
use clap::Parser;
use flynn_postgres::config::ApiConfig;
use tokio_postgres::NoTls;

struct Api {
    client: api_client::Client,
    base: String,
    _lifetime: daemon::Lifetime,
}

async fn api(port: u16, password: &str) -> Api {
    let port = port.to_string();
    let config = ApiConfig::parse_from([
        "api",
        "--port=0",
        "--key=secret",
        "--host=127.0.0.1",
        "--pg-port",
        &port,
        "--password",
        password,
    ]);
    let lifetime = daemon::Lifetime::default();
    let running = flynn_postgres::start(&config, &lifetime).await.unwrap();
    let base = format!("http://127.0.0.1:{}", running.addr.port());
    let client = api_client::Client::new(base.as_str(), Some("secret".into())).without_retries();
    Api { client, base, _lifetime: lifetime }
}

async fn connect(url: &str) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    #[expect(clippy::disallowed_methods, reason = "ends with its client")]
    tokio::spawn(connection);
    Ok(client)
}

#[tokio::test]
async fn a_database_is_its_roles_own_and_can_be_removed_twice() {
    let postgres = testkit::Postgres::start().await;
    let api = api(postgres.port(), postgres.password()).await;
    let one: Provisioned = api.client.post("/databases", &serde_json::json!({})).await.unwrap();
    let two: Provisioned = api.client.post("/databases", &()).await.unwrap();
    assert_ne!(one.env["PGUSER"], two.env["PGUSER"]);
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
}
