//! A host in this process, on the real engine and a real etcd, beside a small discoverd of the tests' own.

pub(crate) mod discoverd;

use std::{
    collections::BTreeMap,
    fs::Permissions,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use api::{
    host::{ActiveJob, Event, EventKind, Job, Status},
    id::JobId,
    key,
};
use daemon::Lifetime;
use flynn_host::{Config, DataDir, IdentityError, Init, Running};
use futures_util::{Stream, StreamExt};
use host_client::Host;
use keyspace::Keyspace;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use testkit::{Etcd, free_port, wait_until_for};
use tunnel::{Authority, Identity};

/// The image of all tests: a shell, a web server and a user.
pub(crate) const IMAGE: &str = "flynn-host-test/busybox:3";
/// The machine may be busy.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// What a host is in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// All of it.
    Alone,
    /// One of several, which has etcd.
    OfSeveral,
}

/// A host and what it stands on. Everything goes with it.
pub(crate) struct Fixture {
    pub(crate) discoverd: discoverd::Fake,
    pub(crate) dir: TempDir,
    pub(crate) config: Config,
    pub(crate) prefix: String,
    etcd: Etcd,
    lifetime: Lifetime,
    running: Option<Running>,
}

impl Fixture {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), change).await
    }

    /// With its data in a folder.
    pub(crate) async fn start_in(dir: TempDir, change: impl FnOnce(&mut Config)) -> Self {
        Self::start_as(dir, Part::Alone, change).await
    }

    /// As one of several hosts, with the only member of etcd.
    pub(crate) async fn start_several() -> Self {
        Self::start_several_with(|_| {}).await
    }

    pub(crate) async fn start_several_with(change: impl FnOnce(&mut Config)) -> Self {
        let host = Self::start_as(tempfile::tempdir().unwrap(), Part::OfSeveral, change).await;
        let (etcd, key) = (host.keyspace().await, format!("/flynn/hosts/{}", host.prefix));
        wait_until_for(LIMIT, "the host has said where it is", async || {
            etcd.get(&key)
                .await
                .map_err(|err| err.to_string())?
                .ok_or_else(|| "there is no such key".to_owned())
        })
        .await;
        host
    }

    async fn start_as(dir: TempDir, part: Part, change: impl FnOnce(&mut Config)) -> Self {
        import_image();
        let (prefix, init) = prepare(dir.path(), part);
        let (etcd, discoverd) = (Etcd::start_as(&prefix).await, discoverd::Fake::start().await);
        let etcd_port = etcd.url().rsplit(':').next().unwrap().parse().unwrap();
        let mut config = Config {
            dir: init.dir,
            docker_socket: "/var/run/docker.sock".into(),
            prefix: prefix.clone(),
            network: format!("{prefix}net"),
            bridge: init.bridge,
            mtu: 1450,
            chain: format!("{prefix}-input"),
            port: free_port(),
            etcd_port: if part == Part::Alone { etcd_port } else { free_port() },
            etcd_peer_port: init.etcd_peer_port,
            etcd_member_port: if part == Part::Alone { free_port() } else { etcd_port },
            tunnel_port: init.tunnel_port,
            redirect_port: free_port(),
            relay_port: free_port(),
            overlay: format!("{prefix}vx"),
            vxlan_port: free_port(),
            member_patience: Duration::from_secs(600),
            discoverd_port: discoverd.addr.port(),
            dns_port: 53,
            router_api_port: 5000,
            public_ports: vec![80, 443],
            external_ip: None,
            manifest: None,
            no_layer0: true,
            shelf: None,
            quarantine: Duration::from_secs(300),
            disk_reserve: 0,
            memory_overcommit: 4,
            garbage_every: Duration::from_secs(60),
            unused_images: 50,
            unused_image_age: Duration::from_secs(86_400),
            unused_volume_age: None,
            measured_every: Duration::from_millis(300),
            extra_ca: None,
            ended_jobs: 100,
            settle: Duration::ZERO,
        };
        change(&mut config);
        let lifetime = Lifetime::default();
        let running = flynn_host::start(config.clone(), &lifetime).await.unwrap();
        Self { discoverd, dir, config, prefix, etcd, lifetime, running: Some(running) }
    }

    pub(crate) fn key(&self, service: &str) -> String {
        let cluster = std::fs::read_to_string(self.dir.path().join("host/cluster.key")).unwrap();
        key::derive(cluster.trim(), service, key::VERSION)
    }

    /// The etcd it stands on.
    pub(crate) async fn keyspace(&self) -> Keyspace {
        Keyspace::connect(&[self.etcd.url()]).await.unwrap()
    }

    /// The etcd it stands on.
    pub(crate) fn etcd(&self) -> &Etcd {
        &self.etcd
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.running.as_ref().unwrap().local
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr())
    }

    pub(crate) fn client(&self) -> Host {
        Host::new(self.url(), Some(self.key("flynn-host")))
    }

    /// Ends the daemon as a signal does; jobs go on running.
    pub(crate) async fn stop_daemon(&mut self) {
        self.running = None;
        let lifetime = std::mem::take(&mut self.lifetime);
        lifetime.drain(Duration::from_secs(20)).await.unwrap();
    }

    pub(crate) async fn start_daemon(&mut self) {
        self.try_to_start().await.unwrap();
    }

    pub(crate) async fn try_to_start(&mut self) -> anyhow::Result<()> {
        let running = flynn_host::start(self.config.clone(), &self.lifetime).await?;
        self.running = Some(running);
        Ok(())
    }

    /// Orders a job and waits until it is so.
    pub(crate) async fn run(&self, job: &Job, so: impl Fn(&ActiveJob) -> bool) -> ActiveJob {
        self.client().put_job(job).await.unwrap();
        self.wait(job.id, so).await
    }

    pub(crate) async fn wait(&self, id: JobId, so: impl Fn(&ActiveJob) -> bool) -> ActiveJob {
        let client = self.client().clone();
        wait_until_for(LIMIT, "the job is as wanted", || {
            let (client, so) = (client.clone(), &so);
            async move {
                let job = client.job(id).await.map_err(|err| format!("{err:?}"))?;
                if so(&job) { Ok(job) } else { Err(format!("{job:?}")) }
            }
        })
        .await
    }

    pub(crate) async fn log(
        &self,
        id: JobId,
        lines: Option<u32>,
        follow: bool,
    ) -> Vec<(String, String)> {
        let log = self.client().log(id, lines, follow).await.unwrap();
        log.map(|line| line.unwrap()).map(|line| (line.stream, line.msg)).collect().await
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.lifetime.end();
        // A job may be under way to a container still.
        for _ in 0..20 {
            let ours = docker(&["ps", "-aq", "--filter", &format!("name=^{}-", self.prefix)]);
            let ours: Vec<&str> = ours.split_whitespace().collect();
            docker(&[&["rm", "-f", "-v"][..], &ours].concat());
            if !docker(&["network", "rm", &self.config.network]).is_empty() {
                break;
            }
        }
        let images = docker(&["images", "-q", &format!("{}-slug", self.prefix)]);
        for image in images.split_whitespace() {
            docker(&["rmi", "-f", image]);
        }
        for table in ["filter", "nat", "mangle"] {
            remove_chains(table, &self.config.chain);
        }
        let file = std::fs::read_to_string(self.dir.path().join("host/host.json")).unwrap();
        let file: Value = serde_json::from_str(&file).unwrap();
        run("ip", &["link", "del", &self.config.overlay]);
        run("ip", &["route", "del", "blackhole", file["range"].as_str().unwrap()]);
    }
}

/// Removes every chain of a table whose name begins so, and what leads there.
fn remove_chains(table: &str, name: &str) {
    let in_table = ["-w", "10", "-t", table];
    let rules = run("iptables", &[&in_table[..], &["-S"]].concat());
    let ours = |word: &&str| word.starts_with(name);
    for rule in rules.lines().filter(|rule| rule.starts_with("-A ")) {
        let words: Vec<&str> = rule.split(' ').skip(1).collect();
        if words.iter().any(ours) {
            run("iptables", &[&in_table[..], &["-D"], &words].concat());
        }
    }
    for chain in rules.lines().filter_map(|rule| rule.strip_prefix("-N ")).filter(ours) {
        run("iptables", &[&in_table[..], &["-X", chain]].concat());
    }
}

/// Takes one of the ranges for as long as this process lives: its routes are made only later.
fn reserved(range: u16) -> bool {
    let locks = std::env::temp_dir().join("flynn-test-ranges");
    std::fs::create_dir_all(&locks).unwrap();
    let lock = std::fs::File::create(locks.join(range.to_string())).unwrap();
    let taken = lock.try_lock().is_ok();
    std::mem::forget(lock);
    taken
}

/// A host file with a range nobody has.
fn prepare(dir: &Path, part: Part) -> (String, Init) {
    for _ in 0..50 {
        let tag: u16 = rand::random();
        let prefix = format!("fht{tag:04x}");
        // 198.18.0.0/15 is for tests of networks.
        if !reserved(tag & 127) {
            continue;
        }
        let range = format!("198.{}.{}.0/22", 18 + (tag >> 6 & 1), (tag & 63) * 4);
        let init = Init {
            dir: DataDir { data_dir: dir.into() },
            id: Some(prefix.clone()),
            network_range: range.parse().unwrap(),
            bridge: format!("{prefix}br"),
            alone: part == Part::Alone,
            addr: Some(Ipv4Addr::LOCALHOST),
            tunnel_port: free_port(),
            etcd_peer_port: free_port(),
        };
        match flynn_host::init(&init) {
            Err(IdentityError::Overlap { .. }) => {}
            done => {
                done.unwrap();
                return (prefix, init);
            }
        }
    }
    panic!("every range of 198.18.0.0/15 is in use");
}

pub(crate) fn docker(args: &[&str]) -> String {
    run("docker", args)
}

pub(crate) fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).stderr(Stdio::null()).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Makes the test image, once on a machine, out of `/bin/busybox`, which must be the static one.
fn import_image() {
    // Each test is a process of its own.
    let lock =
        std::fs::File::create(std::env::temp_dir().join("flynn-host-test-image.lock")).unwrap();
    lock.lock().unwrap();
    if !docker(&["images", "-q", IMAGE]).is_empty() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    for folder in ["bin", "etc", "tmp", "app", "www", "proc", "sys", "dev", "run"] {
        std::fs::create_dir(root.join(folder)).unwrap();
    }
    std::fs::set_permissions(root.join("tmp"), Permissions::from_mode(0o1777)).unwrap();
    chown(root.join("app"), Some(1000), Some(1000)).unwrap();
    std::fs::write(
        root.join("etc/passwd"),
        "root:x:0:0::/:/bin/sh\nflynn:x:1000:1000::/app:/bin/sh\n",
    )
    .unwrap();
    std::fs::write(root.join("www/index.html"), "it works\n").unwrap();
    std::fs::copy("/bin/busybox", root.join("bin/busybox"))
        .expect("these tests need /bin/busybox: apt-get install busybox-static");
    let applets = run("/bin/busybox", &["--list"]);
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    let tar = dir.path().with_extension("tar");
    run("tar", &["-C", path(root), "-cf", path(&tar), "."]);
    docker(&[
        "import",
        "-c",
        "USER flynn",
        "-c",
        "ENV PATH=/bin",
        "-c",
        "CMD [\"/bin/sh\"]",
        path(&tar),
        IMAGE,
    ]);
    std::fs::remove_file(tar).unwrap();
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The test image with other users in it, and the one of them whose it is. It goes with the fixture.
pub(crate) fn image_with(host: &Fixture, users: &str, user: &str) -> String {
    let name = format!("{}-slug:{user}", host.prefix);
    let dir = tempfile::tempdir().unwrap();
    let passwd = dir.path().join("passwd");
    std::fs::write(&passwd, users).unwrap();
    let made = docker(&["create", "--name", &format!("{}-made", host.prefix), IMAGE]);
    docker(&["cp", path(&passwd), &format!("{}:/etc/passwd", made.trim())]);
    docker(&["commit", "-c", &format!("USER {user}"), made.trim(), &name]);
    docker(&["rm", made.trim()]);
    name
}

/// The user that runs the jobs of an app.
pub(crate) fn user_of(app: &str) -> u32 {
    let digest = Sha256::digest(app);
    1_048_576 + u32::from_be_bytes(digest[..4].try_into().unwrap()) % 1_048_576
}

/// What a host of that id would show the others of the cluster that this one is of.
pub(crate) fn identity(host: &Fixture, id: &str) -> Identity {
    let read =
        |name: &str| std::fs::read_to_string(host.dir.path().join("host").join(name)).unwrap();
    let authority = Authority::read(&read("ca.pem"), &read("ca.key")).unwrap();
    Identity::new(&authority.issue(id, [127, 0, 0, 1].into()).unwrap()).unwrap()
}

/// A job that runs a line of shell.
pub(crate) fn shell(line: &str) -> Job {
    shell_with(line, json!({}))
}

/// The same with more configuration.
pub(crate) fn shell_with(line: &str, config: Value) -> Job {
    let mut job = json!({
        "id": JobId::random(), "image": IMAGE,
        "metadata": {
            "flynn-controller.app": "a1", "flynn-controller.app_name": "demo",
            "flynn-controller.release": "r1", "flynn-controller.type": "web",
        },
        "config": { "args": ["/bin/sh", "-c", line], "stop_timeout_seconds": 5 },
        "limits": { "memory": 64 << 20 },
    });
    let into = job["config"].as_object_mut().unwrap();
    into.extend(config.as_object().unwrap().clone());
    serde_json::from_value(job).unwrap()
}

/// A job that serves HTTP on 8080 as `demo-web`.
pub(crate) fn web(check: Value) -> Job {
    let port =
        json!({ "port": 8080, "proto": "http", "service": { "name": "demo-web", "check": check } });
    shell_with("exec httpd -f -p $PORT -h /www", json!({ "ports": [port] }))
}

pub(crate) fn is(status: Status) -> impl Fn(&ActiveJob) -> bool {
    move |job| job.status == status
}

pub(crate) fn ended(job: &ActiveJob) -> bool {
    !job.status.is_active()
}

/// Kinds of a job's events until one.
pub(crate) async fn kinds(
    events: impl Stream<Item = Result<Event, api_client::Error>>,
    id: JobId,
    until: EventKind,
) -> Vec<EventKind> {
    futures_util::pin_mut!(events);
    let mut kinds = Vec::new();
    while let Some(event) = events.next().await {
        let event = event.unwrap();
        if event.job.is_some_and(|job| job.job.id == id) {
            kinds.push(event.event);
            if event.event == until {
                return kinds;
            }
        }
    }
    panic!("the stream ended after {kinds:?}");
}

pub(crate) fn meta(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}
