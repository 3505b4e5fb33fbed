//! The commands, as processes, against a real discoverd.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{path::Path, process::Stdio};

use daemon::{Lifetime, auth::Keys};
use discoverd_client::Discoverd;
use rustix::process::{Pid, Signal, kill_process};
use testkit::{Etcd, wait_until};
use tokio::process::{Child, Command};

const KEY: &str = "secret";

struct World {
    _etcd: Etcd,
    _lifetime: Lifetime,
    url: String,
    client: Discoverd,
}

async fn world() -> World {
    let etcd = Etcd::start().await;
    let lifetime = Lifetime::default();
    let config = discoverd::Config {
        relay: None,
        etcd: vec![etcd.url()],
        keys: Keys::parse(KEY),
        listen: vec![([127, 0, 0, 1], 0).into()],
        dns_listen: vec![],
        state_dir: None,
        host_id: String::new(),
        boot_id: String::new(),
        resolv_conf: "/nowhere".into(),
    };
    let running = discoverd::start(config, &lifetime).await.unwrap();
    let url = format!("http://{}", running.addrs[0]);
    let client = Discoverd::new(&url, Some(KEY.into()));
    wait_until("discoverd answers", || client.services()).await;
    World { _etcd: etcd, _lifetime: lifetime, url, client }
}

impl World {
    fn sdutil(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sdutil"));
        command.args(words).env("DISCOVERD", &self.url).env("DISCOVERD_KEY", KEY);
        command.env_remove("EXTERNAL_IP").stdout(Stdio::piped()).stderr(Stdio::piped());
        command.kill_on_drop(true);
        command
    }

    async fn until_addresses(&self, service: &str, expected: &[&str]) {
        wait_until("the right instances are registered", async || {
            let instances = self.client.instances(service).await.unwrap_or_default();
            let found: Vec<_> = instances.into_iter().map(|one| one.addr).collect();
            if found == expected { Ok(()) } else { Err(found) }
        })
        .await;
    }
}

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(child.id().unwrap().try_into().unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

async fn until_exists(path: &Path) {
    wait_until(
        "the command has begun",
        async || {
            if path.exists() { Ok(()) } else { Err(path.to_owned()) }
        },
    )
    .await;
}

#[tokio::test]
async fn check_tells_whether_discoverd_answers() {
    let world = world().await;
    assert!(world.sdutil(&["check"]).status().await.unwrap().success());
    let away = world.sdutil(&["check", "-s"]).env("DISCOVERD", "http://127.0.0.1:1").output();
    let away = away.await.unwrap();
    assert_eq!((away.status.code(), away.stderr.as_slice()), (Some(1), &b""[..]));
}

#[tokio::test]
async fn register_holds_until_interrupted_and_services_prints_the_oldest_first() {
    let world = world().await;
    let first = world.sdutil(&["register", "-h", "10.0.0.2", "web:80"]).spawn().unwrap();
    world.until_addresses("web", &["10.0.0.2:80"]).await;
    let mut second = world.sdutil(&["register", "-h", "10.0.0.1", "web:80"]).spawn().unwrap();
    world.until_addresses("web", &["10.0.0.2:80", "10.0.0.1:80"]).await;
    let all = world.sdutil(&["services", "web"]).output().await.unwrap();
    assert_eq!(String::from_utf8(all.stdout).unwrap(), "10.0.0.2:80\n10.0.0.1:80\n");
    let one = world.sdutil(&["services", "-1", "web"]).output().await.unwrap();
    assert_eq!(String::from_utf8(one.stdout).unwrap(), "10.0.0.2:80\n");
    signal(&second, Signal::TERM);
    assert!(second.wait().await.unwrap().success());
    world.until_addresses("web", &["10.0.0.2:80"]).await;
    drop(first);
    let nobody = world.sdutil(&["services", "nobody"]).output().await.unwrap();
    assert_eq!(nobody.status.code(), Some(1));
    assert!(String::from_utf8(nobody.stderr).unwrap().contains("no instance of nobody"));
}

#[tokio::test]
async fn exec_registers_while_the_command_runs_and_exits_as_it_does() {
    let world = world().await;
    let script = "trap 'exit 7' TERM; while :; do sleep 0.05; done";
    let words = ["exec", "-h", "10.0.0.1", "-s", "web:80", "-s", "api:81", "sh", "-c", script];
    let mut running = world.sdutil(&words).spawn().unwrap();
    world.until_addresses("web", &["10.0.0.1:80"]).await;
    world.until_addresses("api", &["10.0.0.1:81"]).await;
    signal(&running, Signal::TERM);
    assert_eq!(running.wait().await.unwrap().code(), Some(7));
    world.until_addresses("web", &[]).await;
    world.until_addresses("api", &[]).await;
    let short = world.sdutil(&["exec", "-h", "10.0.0.1", "-s", "web:80", "sh", "-c", "exit 3"]);
    let mut short = short;
    assert_eq!(short.status().await.unwrap().code(), Some(3));
}

#[tokio::test]
async fn expose_runs_the_command_while_every_service_has_a_leader() {
    let world = world().await;
    let dir = tempfile::tempdir().unwrap();
    let register = async |service: &str, n: u8| {
        let one = api::discoverd::Instance::new("tcp", &format!("10.0.0.{n}:80"), [].into());
        world.client.register_for_host(service, &one).await.unwrap();
        one.id
    };
    let (begun, again) = (dir.path().join("begun"), dir.path().join("again"));
    let script = format!(
        "if [ -e {begun} ]; then echo $db $WEB > {again}.new; mv {again}.new {again}; else touch {begun}; fi; exec sleep 60",
        begun = begun.display(),
        again = again.display()
    );
    let words = ["expose", "-d", "db", "-d", "WEB:web", "sh", "-c", &script];
    let mut running = world.sdutil(&words).spawn().unwrap();
    register("db", 1).await;
    let web = register("web", 2).await;
    until_exists(&begun).await;
    world.client.unregister("web", &web).await.unwrap();
    world.until_addresses("web", &[]).await;
    register("web", 3).await;
    until_exists(&again).await;
    assert_eq!(std::fs::read_to_string(&again).unwrap(), "10.0.0.1:80 10.0.0.3:80\n");
    signal(&running, Signal::TERM);
    assert_eq!(running.wait().await.unwrap().code(), Some(128 + 15));
}
