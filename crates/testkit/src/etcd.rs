//! A real etcd.

use std::{path::Path, time::Duration};

use rustix::process::Signal;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    folder::data_folder,
    process::{Server, command_as},
    wait_until_for,
};

/// An etcd of one member with an empty store. Ends with its value.
#[derive(Debug)]
pub struct Etcd {
    server: Server,
    name: String,
    client_port: u16,
    peer_port: u16,
    dir: TempDir,
}

impl Etcd {
    /// Starts one and waits until it answers.
    pub async fn start() -> Self {
        Self::start_as("default").await
    }

    /// Starts one whose member has that name.
    pub async fn start_as(name: &str) -> Self {
        let dir = data_folder();
        let (client_port, peer_port) = (crate::free_port(), crate::free_port());
        let server = spawn(dir.path(), name, client_port, peer_port);
        let mut etcd = Self { server, name: name.into(), client_port, peer_port, dir };
        etcd.until_it_answers().await;
        etcd
    }

    /// `http://127.0.0.1:<port>`; the same after a restart.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client_port)
    }

    /// Kills it as a power failure would; what it acknowledged is on disk.
    pub fn kill(&mut self) {
        self.server.end_with(Signal::KILL);
    }

    /// Starts it again after [`Etcd::kill`] (or kills it first), on the same folder and ports.
    pub async fn restart(&mut self) {
        self.kill();
        self.server = spawn(self.dir.path(), &self.name, self.client_port, self.peer_port);
        self.until_it_answers().await;
    }

    /// Stops the process without ending it: connections stay open and nothing answers.
    pub fn freeze(&self) {
        self.server.signal(Signal::STOP);
    }

    /// Lets a frozen process go on.
    pub fn thaw(&self) {
        self.server.signal(Signal::CONT);
    }

    async fn until_it_answers(&mut self) {
        let log = self.dir.path().join("log");
        let port = self.client_port;
        let server = &mut self.server;
        wait_until_for(Duration::from_secs(30), "etcd answers", || {
            let ended = server.has_ended();
            let log = log.clone();
            async move {
                assert!(!ended, "etcd ended:\n{}", std::fs::read_to_string(log).unwrap());
                healthy(port).await
            }
        })
        .await;
    }
}

fn spawn(dir: &Path, name: &str, client_port: u16, peer_port: u16) -> Server {
    let client = format!("http://127.0.0.1:{client_port}");
    let peer = format!("http://127.0.0.1:{peer_port}");
    let mut command = command_as(None, Path::new("etcd"));
    command.arg("--data-dir").arg(dir.join("data"));
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.args(["--name", name, "--initial-cluster", &format!("{name}={peer}")]);
    // It elects itself at once: there is nobody else.
    command.args(["--heartbeat-interval", "20", "--election-timeout", "200"]);
    command.args(["--logger", "zap", "--log-level", "warn"]);
    Server::start(&command, &dir.join("log"), Signal::KILL)
}

async fn healthy(port: u16) -> Result<(), String> {
    let asked = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(b"GET /health HTTP/1.0\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = asked.await.map_err(|err| err.to_string())?;
    if answer.contains("\"true\"") { Ok(()) } else { Err(answer) }
}
