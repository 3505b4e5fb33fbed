//! A provider with the real PostgreSQL.

use api::controller::Provisioned;
use clap::Parser;
use flynn_postgres::config::ApiConfig;
use tokio_postgres::NoTls;

/// A provider that serves.
pub(crate) struct Api {
    pub(crate) client: api_client::Client,
    pub(crate) base: String,
    _lifetime: daemon::Lifetime,
}

pub(crate) async fn api(port: u16, password: &str) -> Api {
    api_with(port, password, &[]).await
}

pub(crate) async fn api_with(port: u16, password: &str, more: &[&str]) -> Api {
    let port = port.to_string();
    let args = [
        "api",
        "--port=0",
        "--key=secret",
        "--host=127.0.0.1",
        "--pg-port",
        &port,
        "--password",
        password,
    ];
    let config = ApiConfig::parse_from(args.iter().chain(more));
    let lifetime = daemon::Lifetime::default();
    let running = flynn_postgres::start(&config, &lifetime).await.unwrap();
    let base = format!("http://127.0.0.1:{}", running.addr.port());
    let client = api_client::Client::new(base.as_str(), Some("secret".into())).without_retries();
    Api { client, base, _lifetime: lifetime }
}

pub(crate) async fn connect(url: &str) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    #[expect(clippy::disallowed_methods, reason = "ends with its client")]
    tokio::spawn(connection);
    Ok(client)
}

/// As the controller asks: under an id of its own.
pub(crate) async fn create(api: &Api, id: &str) -> Result<Provisioned, api_client::Error> {
    let client = api.client.with_header(api::controller::IDEMPOTENCY_KEY, id);
    client.post("/databases", &serde_json::json!({})).await
}

/// A server, a provider that serves it, and a connection of the superuser.
pub(crate) async fn served() -> (testkit::Postgres, Api, tokio_postgres::Client) {
    let postgres = testkit::Postgres::start().await;
    let api = api(postgres.port(), postgres.password()).await;
    let superuser = superuser(&postgres).await;
    (postgres, api, superuser)
}

/// The server's own connection, as the API's.
pub(crate) async fn superuser(postgres: &testkit::Postgres) -> tokio_postgres::Client {
    let (user, password) = (postgres.user(), postgres.password());
    let at = format!("{}:{}", postgres.host(), postgres.port());
    connect(&format!("postgres://{user}:{password}@{at}/postgres")).await.unwrap()
}
