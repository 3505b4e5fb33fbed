//! Databases, and what a provider of somebody else makes, as `docs/providers.md` and `examples/README.md` say.

use std::time::Duration;

use e2e::{app::App, shell::sh, until};
use serde_json::Value;

/// Writes a row a request, if it has a database; says how many there are, and which box it has.
const WRITER: &str = r#"
const http = require("http");
const { Pool } = require("pg");
const pool = process.env.DATABASE_URL && new Pool({ connectionString: process.env.DATABASE_URL });
const row = async () => {
  if (!pool) return null;
  await pool.query("CREATE TABLE IF NOT EXISTS visits (at timestamptz)");
  await pool.query("INSERT INTO visits VALUES (now())");
  return Number((await pool.query("SELECT count(*) FROM visits")).rows[0].count);
};
http.createServer((req, res) => row().then(
  rows => res.end(JSON.stringify({ rows, user: process.env.PGUSER || null, box: process.env.BOX_NAME || null })),
  err => { res.statusCode = 500; res.end(String(err)); },
)).listen(process.env.PORT, "0.0.0.0");
process.on("SIGTERM", () => process.exit(0));
"#;

fn writer() -> App {
    let app = App::create("writer");
    app.write(
        "package.json",
        r#"{"name": "writer", "version": "1.0.0", "dependencies": {"pg": "^8.11.0"}}"#,
    );
    app.write("server.js", WRITER);
    app.write("Procfile", "web: node server.js\n");
    app.commit("1");
    app.push().ok();
    app
}

/// The resources a command lists.
fn listed(app: &App, words: &[&str]) -> Vec<Value> {
    let text = app.flynn(&[words, &["--json"]].concat()).ok();
    serde_json::from_str(&text).unwrap_or_else(|err| panic!("{err}: {text}"))
}

#[tokio::test]
async fn an_app_gets_a_database_loses_it_and_has_it_back_with_its_data() {
    let app = writer();
    assert!(app.get().await.unwrap()["rows"].is_null());
    assert!(sh("flynn providers").ok().lines().any(|line| line.starts_with("postgres ")));
    let told = app.flynn(&["resource-add", "postgers"]).refused();
    assert!(told.contains("did you mean postgres"), "{told}");

    app.flynn(&["resource-add", "postgres"]).ok();
    let first =
        app.get().await.expect("it serves with its database as soon as the command returns");
    assert_eq!((&first["rows"], first["user"].is_string()), (&Value::from(1), true), "{first}");
    assert!(app.flynn(&["env-get", "DATABASE_URL"]).ok().starts_with("postgres://"));
    let resources = listed(&app, &["resources"]);
    assert_eq!(resources.len(), 1, "{resources:?}");
    let id = resources[0]["id"].as_str().unwrap();

    app.flynn(&["resource-remove", "postgres"]).ok();
    assert!(app.get().await.unwrap()["rows"].is_null(), "it serves without");
    assert!(listed(&app, &["resources"]).is_empty());
    let all = app.flynn(&["resources", "--all"]).ok();
    assert!(all.lines().any(|line| line.contains(id) && line.contains("kept until")), "{all}");

    app.flynn(&["resource-restore", id]).ok();
    let restored = app.get().await.unwrap();
    assert_eq!(restored["rows"], 2, "what it wrote is there again: {restored}");
}

/// The boxes there are, as their provider says.
fn boxes(provider: &App) -> Result<Vec<String>, String> {
    let name = &provider.name;
    let line = format!(
        "curl -fsS -u :sesame $(curl -fs http://127.0.0.1:1111/services/{name}-web/instances | jq -re '.[0].addr')/boxes"
    );
    let said = sh(&line);
    if said.status != 0 {
        return Err(said.err);
    }
    serde_json::from_str(&said.out).map_err(|err| format!("{err}: {}", said.out))
}

#[tokio::test]
async fn a_provider_of_somebody_else_makes_and_destroys() {
    let provider = App::create("boxes");
    provider.copy_example("provider-demo");
    provider.commit("1");
    provider.flynn(&["env-set", "PROVIDER_KEY=sesame"]).ok();
    provider.push().ok();
    let name = &provider.name;
    let url = format!("discoverd+http://{name}-web/boxes");
    let added = sh(&format!("echo sesame | flynn provider-add {name} {url} --key -")).ok();
    assert!(added.contains(name), "{added}");
    let providers = sh("flynn providers").ok();
    assert!(providers.contains(&url) && !providers.contains("sesame"), "{providers}");

    let user = App::node("user");
    user.push().ok();
    user.flynn(&["resource-add", name]).ok();
    assert!(user.flynn(&["env-get", "BOX_NAME"]).ok().starts_with("box-"));
    assert_eq!(boxes(&provider).unwrap().len(), 1);
    let told = sh(&format!("flynn provider-remove {name}")).refused();
    assert!(told.contains("flynn resources --all"), "{told}");
    // The only app that uses it takes it away, after the grace.
    sh("flynn -a controller env-set RESOURCE_GRACE_SECONDS=1").ok();
    drop(user);
    until("the provider to destroy the box", Duration::from_secs(30), async || {
        match boxes(&provider) {
            Ok(left) if left.is_empty() => Ok(()),
            left => Err(left),
        }
    })
    .await;
    // The controller hears a moment later that it is gone.
    until("the provider to be forgotten", Duration::from_secs(30), async || {
        let said = sh(&format!("flynn provider-remove {name}"));
        if said.status == 0 { Ok(()) } else { Err(said.err) }
    })
    .await;
    sh("flynn -a controller env-unset RESOURCE_GRACE_SECONDS").ok();
}
