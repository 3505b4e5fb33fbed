//! gitreceived with everything around it: a controller faked on the wire, the real shelf, real git, real OpenSSH, and a
//! receiver that is a shell script.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use api::{
    controller::{
        App, Key, META_DEPLOY_BRANCH, META_SYSTEM_APP, RefsChange, Repository, RepositoryLease,
    },
    id::AppId,
};
use axum::{
    Json, Router,
    extract::{Path as UrlPath, State},
    routing::{get, put},
};
use daemon::{ApiError, Lifetime};
use gitreceived::{ClusterConfig, Config};
use jiff::Timestamp;
use russh::keys::{Algorithm, PrivateKey};
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, TcpStream},
    process::Command,
    sync::watch,
};

/// Says what it was given, keeps the tree, and does what a deployment does: sets the head and the packs.
const RECEIVER: &str = r#"#!/bin/sh
world=$1 app=$2 commit=$3
echo $$ >$world/pid.new
mv $world/pid.new $world/pid
tar -x -C $world/tree
env >$world/env
echo "-----> Building $app"
if [ -e $world/fail ]; then echo "the build failed" >&2; exit 1; fi
if [ -e $world/wait ]; then sleep 600 & wait; fi
while [ -e $world/hold ]; do sleep 0.05; done
echo "$commit" >>$world/deployed
printf '%s' "$commit" >$world/head
printf '%s' "$FLYNN_PACKS" >$world/packs
echo "=====> Application deployed"
"#;

pub(crate) struct World {
    pub(crate) dir: TempDir,
    pub(crate) shelf: shelf_client::Shelf,
    pub(crate) lifetime: Lifetime,
    pub(crate) port: u16,
    controller_url: String,
    shelf_url: String,
    controller: Fake,
    servers: Lifetime,
    host_key: PrivateKey,
    /// Decides about keys instead of the controller, if it is not empty.
    pub(crate) authchecker: Vec<String>,
    /// How long a client may be silent.
    pub(crate) idle_timeout: Duration,
    pub(crate) running: Option<gitreceived::Running>,
    /// What gitreceived says to shelf.
    pub(crate) shelf_key: String,
}

/// The controller's answers; head and packs are files that the receiver writes.
#[derive(Clone)]
pub(crate) struct Fake {
    dir: PathBuf,
    pub(crate) app: AppId,
    pub(crate) keys: Arc<Mutex<Vec<Key>>>,
    pub(crate) lease: Arc<Mutex<Option<String>>>,
    pub(crate) away: Arc<Mutex<bool>>,
    pub(crate) refs: Arc<Mutex<BTreeMap<String, String>>>,
    pub(crate) deploy_branch: Arc<Mutex<Option<String>>>,
    /// How often it was asked for keys.
    pub(crate) asked: Arc<Mutex<u32>>,
    /// How often it was asked for an app.
    pub(crate) asked_for_apps: watch::Sender<u32>,
}

impl World {
    pub(crate) async fn new() -> Self {
        let dir = TempDir::new().unwrap();
        fs::create_dir(dir.path().join("tree")).unwrap();
        let receiver = dir.path().join("receiver");
        fs::write(&receiver, RECEIVER).unwrap();
        fs::set_permissions(&receiver, fs::Permissions::from_mode(0o755)).unwrap();
        let servers = Lifetime::default();
        let config = shelf::Config {
            listen: ([127, 0, 0, 1], 0).into(),
            key: "shelf-key".into(),
            data_dir: dir.path().join("shelf"),
            disk_reserve: 0,
            folder_len_max: u64::MAX,
        };
        let shelf_url = format!("http://{}", shelf::start(config, &servers).await.unwrap().addr);
        let controller = Fake {
            dir: dir.path().into(),
            app: AppId::random(),
            keys: Arc::default(),
            lease: Arc::default(),
            away: Arc::default(),
            refs: Arc::default(),
            deploy_branch: Arc::default(),
            asked: Arc::default(),
            asked_for_apps: watch::Sender::default(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let controller_url = format!("http://{}", listener.local_addr().unwrap());
        servers.serve(listener, controller.clone().router());
        let mut world = Self {
            shelf: shelf_client::Shelf::new(shelf_url.as_str(), "shelf-key"),
            dir,
            lifetime: Lifetime::default(),
            port: 0,
            controller_url,
            shelf_url,
            controller,
            servers,
            host_key: PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).unwrap(),
            authchecker: Vec::new(),
            idle_timeout: Duration::from_secs(120),
            running: None,
            shelf_key: "shelf-key".into(),
        };
        world.start("cache").await;
        world.user("me").await;
        world.add_key("me");
        world
    }

    /// Starts gitreceived with a cache directory, and waits until it lets clients in.
    pub(crate) async fn start(&mut self, cache: &str) {
        self.begin(cache).await;
        testkit::wait_until("gitreceived lets clients in", || async {
            TcpStream::connect(("127.0.0.1", self.port)).await.map(drop)
        })
        .await;
    }

    /// Starts gitreceived with a cache directory.
    pub(crate) async fn begin(&mut self, cache: &str) {
        let cluster = ClusterConfig {
            controller_key: "controller-key".into(),
            shelf_key: self.shelf_key.clone(),
            discoverd: "http://127.0.0.1:9".into(),
            controller_url: Some(self.controller_url.clone()),
            shelf_url: Some(self.shelf_url.clone()),
        };
        let path = "/usr/local/bin:/usr/bin:/bin";
        let config = Config {
            listen: ([127, 0, 0, 1], 0).into(),
            authchecker: self.authchecker.clone(),
            receiver: vec![
                self.path("receiver").display().to_string(),
                self.path("").display().to_string(),
            ],
            receiver_env: cluster.env(path),
            hook: env!("CARGO_BIN_EXE_gitreceived").into(),
            cache_dir: self.path(cache),
            host_keys: vec![self.host_key.clone()],
            cluster: Some(cluster),
            path: path.into(),
            push_timeout: Duration::from_secs(120),
            push_idle_timeout: self.idle_timeout,
            stop_grace: Duration::from_secs(8),
            disk_len_max: 24 << 30,
        };
        self.lifetime = Lifetime::default();
        let running = gitreceived::start(config, &self.lifetime).await.unwrap();
        self.port = running.addr.port();
        self.running = Some(running);
    }

    /// Ends gitreceived and starts another, which has never seen a repository.
    pub(crate) async fn restart_elsewhere(&mut self) {
        self.lifetime.clone().drain(Duration::from_secs(10)).await.unwrap();
        self.start("cache-2").await;
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn fake(&self) -> &Fake {
        &self.controller
    }

    /// Makes a key of a user.
    pub(crate) async fn user(&self, name: &str) {
        let file = self.path(name);
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"]).arg(file);
        assert!(keygen.status().await.unwrap().success());
    }

    /// Tells the controller of a user's key.
    pub(crate) fn add_key(&self, name: &str) {
        self.add_key_for(name, &[]);
    }

    /// Of one that may push to these apps alone.
    pub(crate) fn add_key_for(&self, name: &str, apps: &[AppId]) {
        let line = fs::read_to_string(self.path(&format!("{name}.pub"))).unwrap();
        let (key, comment) = line.trim().rsplit_once(' ').unwrap();
        let wire = russh::keys::PublicKey::from_openssh(key).unwrap().to_bytes().unwrap();
        let fingerprint = gitreceived::domain::key::fingerprint(&wire);
        let created_at = Timestamp::UNIX_EPOCH;
        let (key, comment, apps) = (key.into(), comment.into(), apps.to_vec());
        let key = Key { fingerprint, key, comment, apps, created_at };
        self.controller.keys.lock().unwrap().push(key);
    }

    /// The ssh command of a user, for git.
    pub(crate) fn ssh(&self, user: &str) -> String {
        format!(
            "ssh -F none -p {} -i {} -o IdentitiesOnly=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=INFO",
            self.port,
            self.path(user).display()
        )
    }

    /// Runs git in a repository of this world as a user; whether it succeeded, and all it said.
    pub(crate) async fn git_as(&self, user: &str, repo: &str, args: &[&str]) -> (bool, String) {
        let output = self.git_command(user, repo, args).output().await.unwrap();
        let said = [&output.stdout[..], &output.stderr[..]].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }

    pub(crate) fn git_command(&self, user: &str, repo: &str, args: &[&str]) -> Command {
        let mut git = Command::new("git");
        git.arg("-C").arg(self.path(repo)).args(args).env_clear();
        git.env("PATH", "/usr/local/bin:/usr/bin:/bin").env("HOME", self.dir.path());
        git.env("GIT_SSH_COMMAND", self.ssh(user)).env("LC_ALL", "C");
        for role in ["AUTHOR", "COMMITTER"] {
            git.env(format!("GIT_{role}_NAME"), "me").env(format!("GIT_{role}_EMAIL"), "me@home");
        }
        git.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        git
    }

    pub(crate) async fn git(&self, repo: &str, args: &[&str]) -> String {
        let (ok, said) = self.git_as("me", repo, args).await;
        assert!(ok, "git {args:?}: {said}");
        said
    }

    /// A repository with one commit, and the remote `flynn`.
    pub(crate) async fn repository(&self, name: &str, app: &str) {
        fs::create_dir(self.path(name)).unwrap();
        self.git(name, &["init", "-q", "-b", "master"]).await;
        self.git(name, &["remote", "add", "flynn", &self.url(app)]).await;
        self.commit(name, "hello.txt", b"hello").await;
    }

    pub(crate) fn url(&self, app: &str) -> String {
        format!("ssh://git@127.0.0.1/{app}.git")
    }

    pub(crate) async fn commit(&self, repo: &str, file: &str, content: &[u8]) {
        fs::write(self.path(repo).join(file), content).unwrap();
        self.git(repo, &["add", "."]).await;
        self.git(repo, &["commit", "-q", "-m", file]).await;
    }

    pub(crate) async fn push(&self, repo: &str) -> (bool, String) {
        self.git_as("me", repo, &["push", "flynn", "master"]).await
    }

    /// The commit the receiver deployed last.
    pub(crate) fn head(&self) -> Option<String> {
        fs::read_to_string(self.path("head")).ok()
    }

    pub(crate) fn packs(&self) -> Vec<String> {
        self.controller.repository().packs
    }

    /// The receiver that runs, or ran last.
    pub(crate) fn receiver_pid(&self) -> Option<PathBuf> {
        let pid = fs::read_to_string(self.path("pid")).ok()?;
        Some(Path::new("/proc").join(pid.trim()))
    }

    pub(crate) async fn end(self) {
        self.lifetime.drain(Duration::from_secs(20)).await.unwrap();
        self.servers.drain(Duration::from_secs(20)).await.unwrap();
    }
}

impl Fake {
    fn router(self) -> Router {
        Router::new()
            .route("/keys", get(keys))
            .route("/apps/{app}", get(app))
            .route("/apps/{app}/repository", get(repository))
            .route("/apps/{app}/repository/refs", put(change_refs))
            .route("/apps/{app}/repository/lease", put(take_lease).delete(end_lease))
            .with_state(self)
    }

    fn repository(&self) -> Repository {
        let read = |name| fs::read_to_string(self.dir.join(name)).ok();
        let packs = read("packs").unwrap_or_default();
        let packs = packs.split(',').filter(|pack| !pack.is_empty()).map(str::to_owned).collect();
        Repository { head: read("head"), packs, refs: self.refs.lock().unwrap().clone() }
    }

    fn is_here(&self) -> Result<(), ApiError> {
        if *self.away.lock().unwrap() { Err(ApiError::unavailable("away")) } else { Ok(()) }
    }
}

async fn keys(State(fake): State<Fake>) -> Result<Json<Vec<Key>>, ApiError> {
    fake.is_here()?;
    *fake.asked.lock().unwrap() += 1;
    Ok(Json(fake.keys.lock().unwrap().clone()))
}

async fn app(
    State(fake): State<Fake>,
    UrlPath(name): UrlPath<String>,
) -> Result<Json<App>, ApiError> {
    fake.is_here()?;
    fake.asked_for_apps.send_modify(|asked| *asked += 1);
    if name == "nobody" {
        return Err(ApiError::not_found("no such app"));
    }
    let system = (name == "controller").then(|| (META_SYSTEM_APP.to_owned(), "true".to_owned()));
    let branch = fake.deploy_branch.lock().unwrap().clone();
    let meta = system.into_iter().chain(branch.map(|name| (META_DEPLOY_BRANCH.to_owned(), name)));
    Ok(Json(App {
        id: fake.app,
        name,
        meta: meta.collect(),
        strategy: Default::default(),
        release: None,
        deploy_timeout: 120,
        created_at: Timestamp::UNIX_EPOCH,
        updated_at: Timestamp::UNIX_EPOCH,
    }))
}

async fn repository(State(fake): State<Fake>) -> Json<Repository> {
    Json(fake.repository())
}

async fn change_refs(
    State(fake): State<Fake>,
    Json(change): Json<RefsChange>,
) -> Result<Json<Repository>, ApiError> {
    if let Some(packs) = change.packs {
        assert_eq!(packs.old, fake.repository().packs);
        fs::write(fake.dir.join("packs"), packs.new.join(",")).unwrap();
    }
    for (name, id) in change.refs {
        let mut refs = fake.refs.lock().unwrap();
        match id {
            Some(id) => drop(refs.insert(name, id)),
            None => drop(refs.remove(&name)),
        }
    }
    Ok(Json(fake.repository()))
}

async fn take_lease(
    State(fake): State<Fake>,
    Json(lease): Json<RepositoryLease>,
) -> Result<Json<RepositoryLease>, ApiError> {
    let mut holder = fake.lease.lock().unwrap();
    match &*holder {
        Some(other) if *other != lease.holder => {
            Err(ApiError::new(api::error::ErrorCode::Conflict, "taken"))
        }
        _ => {
            *holder = Some(lease.holder.clone());
            Ok(Json(lease))
        }
    }
}

async fn end_lease(State(fake): State<Fake>, Json(lease): Json<RepositoryLease>) {
    let mut holder = fake.lease.lock().unwrap();
    if holder.as_ref() == Some(&lease.holder) {
        *holder = None;
    }
}
