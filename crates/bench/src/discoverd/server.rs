//! discoverd as a process.

use std::{process::Stdio, time::Duration};

use anyhow::Context;
use discoverd_client::Discoverd;
use tempfile::TempDir;
use testkit::{Etcd, wait_until_for};
use tokio::process::{Child, Command};

use crate::usage;

const KEY: &str = "the key";

/// Far longer than a start takes, also on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(30);

pub(crate) struct Server {
    process: Child,
    port: u16,
    _state: TempDir,
}

impl Server {
    /// Starts the discoverd that was built with this program.
    pub(crate) async fn start(etcd: &Etcd) -> anyhow::Result<Self> {
        let state = tempfile::tempdir().context("making a folder for discoverd")?;
        let port = testkit::free_port();
        let process = ours("discoverd")?
            .env("ETCD", etcd.url())
            .env("DISCOVERD_KEY", KEY)
            .env("LISTEN", format!("127.0.0.1:{port}"))
            .env("STATE_DIR", state.path())
            .env("RUST_LOG", "error")
            .spawn()
            .context("starting discoverd, which is built with: cargo build -p discoverd")?;
        let server = Self { process, port, _state: state };
        let client = server.client();
        wait_until_for(START_LIMIT, "discoverd takes writes", || {
            client.unregister("nothing", "00000000000000000000000000000000")
        })
        .await;
        Ok(server)
    }

    pub(crate) fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn client(&self) -> Discoverd {
        Discoverd::new(&format!("http://{}", self.addr()), Some(KEY.into()))
    }

    /// CPU time it has used.
    pub(super) fn cpu(&self) -> anyhow::Result<Duration> {
        cpu(&self.process)
    }
}

pub(super) fn cpu(process: &Child) -> anyhow::Result<Duration> {
    usage::process_cpu(process.id().context("a process has ended")?)
}

/// A program beside this one, as a child that never outlives it.
pub(crate) fn ours(name: &str) -> anyhow::Result<Command> {
    let me = std::env::current_exe().context("finding this program's folder")?;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(me.with_file_name(name));
    command.stdin(Stdio::null()).kill_on_drop(true);
    Ok(command)
}
