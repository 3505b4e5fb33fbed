//! A small app and its repository.

use std::{
    fs,
    path::Path,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, SystemTime},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    cluster, hosts,
    shell::{Said, run},
};

/// Answers who it is; echoes the size of what is posted.
const SERVER: &str = r#"
const http = require("http"), fs = require("fs"), os = require("os");
const version = fs.readFileSync("version.txt", "utf8").trim();
http.createServer((req, res) => {
  let size = 0;
  req.on("data", chunk => size += chunk.length);
  req.on("end", () => {
    res.setHeader("content-type", "application/json");
    res.end(JSON.stringify({version, size, app: process.env.FLYNN_APP_NAME, job: process.env.FLYNN_JOB_ID, host: os.hostname(), a: process.env.A || null}));
  });
}).listen(process.env.PORT, "0.0.0.0", () => console.log("version " + version + " listens"));
process.on("SIGTERM", () => { console.log("SIGTERM"); process.exit(0); });
"#;

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// An app of this test alone; deleted when dropped.
#[derive(Debug)]
pub struct App {
    /// Its name.
    pub name: String,
    folder: TempDir,
    /// Of several hosts, the one whose commands and router are used.
    host: Option<u8>,
    /// Made once: making one reads every certificate there is.
    client: reqwest::Client,
}

impl App {
    /// Creates an app whose repository is still empty.
    ///
    /// # Panics
    /// When it cannot be created.
    pub fn create(prefix: &str) -> Self {
        Self::create_on(None, prefix)
    }

    fn create_on(host: Option<u8>, prefix: &str) -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{prefix}-{:x}{number}", since.as_millis() as u32);
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let app = Self { name, folder, host, client: client(host) };
        run(app.path(), &["git", "init", "-q", "-b", "master"]).ok();
        run(app.path(), &["git", "config", "user.name", "Tester"]).ok();
        run(app.path(), &["git", "config", "user.email", "tester@example.com"]).ok();
        app.flynn(&["create", "-y", &app.name]).ok();
        app
    }

    /// Creates an app with a small Node.js server, committed but not pushed.
    pub fn node(prefix: &str) -> Self {
        Self::node_of(Self::create(prefix))
    }

    /// The same on one of several hosts.
    pub fn node_on(host: u8, prefix: &str) -> Self {
        Self::node_of(Self::create_on(Some(host), prefix))
    }

    fn node_of(app: Self) -> Self {
        app.write(
            "package.json",
            r#"{"name": "tiny", "version": "1.0.0", "scripts": {"start": "node server.js"}}"#,
        );
        app.write("server.js", SERVER);
        app.write("Procfile", "web: node server.js\nworker: sleep 100000\n");
        app.commit("1");
        app
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().expect("a file is in a folder"))
            .expect("folders can be made");
        fs::write(path, text).expect("files can be written");
    }

    /// Copies one of the examples.
    pub fn copy_example(&self, name: &str) {
        let from = format!("{}/../../examples/{name}/.", env!("CARGO_MANIFEST_DIR"));
        run(self.path(), &["cp", "-r", &from, "."]).ok();
    }

    /// Commits everything as a version.
    pub fn commit(&self, version: &str) {
        self.write("version.txt", version);
        run(self.path(), &["git", "add", "-A"]).ok();
        run(self.path(), &["git", "commit", "-q", "-m", version]).ok();
    }

    /// `git push flynn master`.
    pub fn push(&self) -> Said {
        self.run(&["git", "push", "flynn", "master"])
    }

    /// `flynn …` in its folder.
    pub fn flynn(&self, words: &[&str]) -> Said {
        self.run(&[&["flynn"], words].concat())
    }

    /// A command in its folder, on its host.
    fn run(&self, words: &[&str]) -> Said {
        let Some(host) = self.host else { return run(self.path(), words) };
        let path = self.path().display().to_string();
        hosts::cluster(&[&["exec", &host.to_string(), "env", "-C", &path], words].concat())
    }

    /// From now on another host's commands and router are used.
    pub fn go_to(&mut self, host: u8) {
        self.host = Some(host);
        self.client = client(self.host);
    }

    /// A command in its folder, to be given a terminal or pipes.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.path());
        command
    }

    /// What the app answers, as JSON, or why not.
    ///
    /// # Errors
    /// What was seen instead.
    pub async fn get(&self) -> Result<Value, String> {
        let answer = self.client.get(cluster::url(&self.name)).send().await;
        let answer = answer.map_err(|err| format!("{err:?}"))?;
        let status = answer.status();
        let text = answer.text().await.map_err(|err| format!("{err:?}"))?;
        if !status.is_success() {
            return Err(format!("{status} {text}"));
        }
        serde_json::from_str(&text).map_err(|err| format!("{err}: {text}"))
    }

    /// Waits until the app answers.
    pub async fn serves(&self) -> Value {
        crate::until("the app to answer", Duration::from_secs(60), async || self.get().await).await
    }

    /// `flynn ps --json`.
    ///
    /// # Panics
    /// When it fails.
    pub fn ps(&self) -> Vec<Value> {
        let text = self.flynn(&["ps", "--json"]).ok();
        serde_json::from_str(&text).unwrap_or_else(|err| panic!("{err}: {text}"))
    }
}

/// A client of the router of a host, or of this machine.
fn client(host: Option<u8>) -> reqwest::Client {
    match host {
        Some(host) => cluster::http_at(hosts::router(host), false),
        None => cluster::http(false),
    }
}

impl Drop for App {
    fn drop(&mut self) {
        // A failed test leaves its app for the one who looks.
        if !std::thread::panicking() {
            self.flynn(&["-a", &self.name, "delete", "-y"]).ok();
        }
    }
}
