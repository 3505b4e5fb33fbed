//! A real ACME authority, with a DNS server that says what a test wants.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

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

/// An authority that gives certificates of which nobody trusts the root. Ends with its value.
#[derive(Debug)]
pub struct Pebble {
    server: Server,
    names: Server,
    port: u16,
    dns_port: u16,
    names_port: u16,
    dir: TempDir,
}

/// What a [`Pebble`] is like.
#[derive(Debug, Clone)]
pub struct PebbleOptions {
    /// Where it asks about names over HTTP.
    pub http_port: u16,
    /// Where it asks about names over TLS.
    pub tls_port: u16,
    /// How long its certificates last.
    pub validity: Duration,
    /// The certificate it is reached with, for `127.0.0.1`, and its key; both PEM.
    pub certificate: (String, String),
}

impl Pebble {
    /// Starts one and waits until it answers. Every name leads to `127.0.0.1`.
    pub async fn start(options: &PebbleOptions) -> Self {
        let dir = data_folder();
        let (port, dns_port, names_port) =
            (crate::free_port(), crate::free_port(), crate::free_port());
        write_config(dir.path(), port, options);
        let names = spawn_names(dir.path(), dns_port, names_port);
        let server = spawn(dir.path(), dns_port);
        let mut pebble = Self { server, names, port, dns_port, names_port, dir };
        pebble.until_it_answers().await;
        pebble
    }

    /// URL of its directory.
    pub fn directory(&self) -> String {
        format!("https://127.0.0.1:{}/dir", self.port)
    }

    /// File with whom to trust about its directory.
    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("cert.pem")
    }

    /// `ip:port` of its DNS server.
    pub fn dns(&self) -> String {
        format!("127.0.0.1:{}", self.dns_port)
    }

    /// Lets a name lead to that IPv4 address.
    pub async fn point(&self, name: &str, address: &str) {
        let body = format!(r#"{{"host":"{name}.","addresses":["{address}"]}}"#);
        tell(self.names_port, "/add-a", &body).await.unwrap();
    }

    /// Ends the authority; its DNS server stays. What it knew is gone.
    pub fn kill(&mut self) {
        self.server.end_with(Signal::KILL);
    }

    /// Starts it again after [`Pebble::kill`], at the same place.
    pub async fn restart(&mut self) {
        self.kill();
        self.server = spawn(self.dir.path(), self.dns_port);
        self.until_it_answers().await;
    }

    /// What it said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    async fn until_it_answers(&mut self) {
        let (port, names_port) = (self.port, self.names_port);
        let log = self.dir.path().join("log");
        let (server, names) = (&mut self.server, &mut self.names);
        wait_until_for(Duration::from_secs(30), "pebble and its DNS server answer", || {
            let ended = server.has_ended() || names.has_ended();
            let log = log.clone();
            async move {
                assert!(!ended, "pebble ended:\n{}", std::fs::read_to_string(log).unwrap());
                TcpStream::connect(("127.0.0.1", port)).await.map_err(|err| err.to_string())?;
                tell(names_port, "/add-a", r#"{"host":"ready.","addresses":["127.0.0.1"]}"#).await
            }
        })
        .await;
    }
}

/// Tells the DNS server something.
async fn tell(port: u16, path: &str, body: &str) -> Result<(), String> {
    let asked = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let length = body.len();
        let head = format!("POST {path} HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{body}");
        stream.write_all(head.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = asked.await.map_err(|err| err.to_string())?;
    if answer.contains(" 200 ") { Ok(()) } else { Err(answer) }
}

fn write_config(dir: &Path, port: u16, options: &PebbleOptions) {
    let (certificate, key) = &options.certificate;
    std::fs::write(dir.join("cert.pem"), certificate).unwrap();
    std::fs::write(dir.join("key.pem"), key).unwrap();
    let PebbleOptions { http_port, tls_port, validity, .. } = options;
    let (folder, seconds) = (dir.display(), validity.as_secs());
    let config = format!(
        r#"{{ "pebble": {{
            "listenAddress": "127.0.0.1:{port}",
            "certificate": "{folder}/cert.pem",
            "privateKey": "{folder}/key.pem",
            "httpPort": {http_port},
            "tlsPort": {tls_port},
            "certificateValidityPeriod": {seconds}
        }} }}"#
    );
    std::fs::write(dir.join("config.json"), config).unwrap();
}

fn spawn(dir: &Path, dns_port: u16) -> Server {
    let mut command = command_as(None, Path::new("env"));
    // It waits for up to 15 s before it looks, else; and believes what it found out once for a while.
    command.args(["PEBBLE_VA_NOSLEEP=1", "PEBBLE_AUTHZREUSE=0", "pebble"]);
    command.arg("-config").arg(dir.join("config.json"));
    command.args(["-dnsserver", &format!("127.0.0.1:{dns_port}")]);
    Server::start(&command, &dir.join("log"), Signal::KILL)
}

fn spawn_names(dir: &Path, dns_port: u16, port: u16) -> Server {
    let mut command = command_as(None, Path::new("pebble-challtestsrv"));
    command.args(["-dns01", &format!("127.0.0.1:{dns_port}")]);
    command.args(["-management", &format!("127.0.0.1:{port}"), "-defaultIPv6", ""]);
    command.args(["-http01", "", "-https01", "", "-tlsalpn01", ""]);
    Server::start(&command, &dir.join("names-log"), Signal::KILL)
}
