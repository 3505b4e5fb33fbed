//! The proxies, each before the same two backends.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, ensure};
use rustix::process::Signal;
use tempfile::TempDir;
use testkit::{Etcd, free_port, wait_until_for};

use super::{client::get, echo::Echo, process::Process, strowger::Strowger};
use crate::{discoverd, usage::Family};

/// The name of the app.
pub(super) const APP: &str = "bench.test";
/// The name of the app that echoes what it gets after a switch of protocols.
pub(super) const ECHO: &str = "echo.test";
/// Bytes of the large body.
const LARGE: usize = 100 << 10;
/// Far longer than a start takes, also on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A proxy of the run.
pub(super) struct Proxy {
    pub(super) name: &'static str,
    pub(super) http: u16,
    pub(super) https: u16,
    process: Process,
}

/// All there is in a run.
pub(super) struct World {
    /// strowger first, then its rivals.
    pub(super) proxies: Vec<Proxy>,
    pub(super) strowger: Strowger,
    /// Another router with other routes.
    pub(super) crowded: (Proxy, Strowger),
    _backend: Process,
    _echo: Echo,
    _discoverd: discoverd::Server,
    _etcds: (Etcd, Etcd),
    /// Goes when all that use it have ended.
    pub(super) folder: TempDir,
}

impl Proxy {
    /// Its address for a client of this scheme.
    pub(super) fn url(&self, scheme: &str, path: &str) -> String {
        let port = if scheme == "https" { self.https } else { self.http };
        format!("{scheme}://127.0.0.1:{port}{path}")
    }

    /// What it uses.
    pub(super) fn usage(&self) -> Family {
        self.process.usage()
    }

    /// Lets it read its configuration again, as its users do to change it.
    pub(super) fn reload(&self) -> anyhow::Result<()> {
        match self.name {
            "haproxy" => self.process.signal(Signal::USR2),
            "nginx" => self.process.signal(Signal::HUP),
            _ => Ok(()),
        }
    }

    async fn serves(&self) {
        let serves = || async {
            let answer = get(self.http, APP).await?;
            ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            anyhow::Ok(())
        };
        wait_until_for(START_LIMIT, self.name, serves).await;
    }
}

impl World {
    pub(super) async fn start(with_caddy: bool) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("making a folder")?;
        let (app, other) = (free_port(), free_port());
        certify(folder.path())?;
        fs::write(folder.path().join("large"), vec![b'x'; LARGE])?;
        fs::write(folder.path().join("hosts.map"), format!("{APP} app\n{ECHO} echo\n"))?;
        fs::write(folder.path().join("report.lua"), include_str!("report.lua"))?;
        let echo = Echo::start().await?;
        let fill = |text: &str, http: u16, https: u16| {
            let ports = [("http", http), ("https", https), ("app", app), ("other", other)];
            let mut text = text.replace("@folder@", &folder.path().to_string_lossy());
            for (name, port) in ports.iter().chain([&("echo", echo.port())]) {
                text = text.replace(&format!("@{name}@"), &port.to_string());
            }
            text
        };
        let write = |name: &str, text: &str| -> anyhow::Result<(String, u16, u16)> {
            let (path, http, https) = (folder.path().join(name), free_port(), free_port());
            fs::write(&path, fill(text, http, https))?;
            Ok((path.to_string_lossy().into_owned(), http, https))
        };
        let (config, ..) = write("backend.conf", include_str!("backend.conf"))?;
        let backend = Process::start("nginx", &["-c", &config, "-g", "daemon off;"], &[])?;

        let etcds = (Etcd::start().await, Etcd::start().await);
        let discoverd = discoverd::Server::start(&etcds.0).await?;
        let (first, strowger) = Strowger::start(&etcds.0, &discoverd, other).await?;
        strowger.serve(app, echo.port()).await?;
        let (second, crowded) = Strowger::start(&etcds.1, &discoverd, other).await?;
        crowded.serve(app, echo.port()).await?;
        let mut proxies = vec![first];
        proxies.extend(start_rivals(folder.path(), with_caddy, write)?);
        for proxy in proxies.iter().chain([&second]) {
            proxy.serves().await;
        }
        Ok(Self {
            proxies,
            strowger,
            crowded: (second, crowded),
            folder,
            _backend: backend,
            _echo: echo,
            _discoverd: discoverd,
            _etcds: etcds,
        })
    }
}

/// Starts those it is measured beside; `write` fills a configuration in, and answers where it is and the ports in it.
fn start_rivals(
    folder: &Path,
    with_caddy: bool,
    write: impl Fn(&str, &str) -> anyhow::Result<(String, u16, u16)>,
) -> anyhow::Result<Vec<Proxy>> {
    let mut proxies = Vec::new();
    let mut rival = |name, (_, http, https): &(String, u16, u16), process| {
        proxies.push(Proxy { name, http: *http, https: *https, process });
    };
    let haproxy = write("haproxy.cfg", include_str!("haproxy.cfg"))?;
    rival(
        "haproxy",
        &haproxy,
        Process::start("haproxy", &["-W", "-db", "-q", "-f", &haproxy.0], &[])?,
    );
    let nginx = write("nginx.conf", include_str!("nginx.conf"))?;
    rival("nginx", &nginx, Process::start("nginx", &["-c", &nginx.0, "-g", "daemon off;"], &[])?);
    if with_caddy {
        let caddy = write("Caddyfile", include_str!("Caddyfile"))?;
        let home = folder.to_string_lossy();
        let env = [("HOME", &*home), ("XDG_DATA_HOME", &home), ("XDG_CONFIG_HOME", &home)];
        let args = ["run", "--adapter", "caddyfile", "--config", &caddy.0];
        rival("caddy", &caddy, Process::start("caddy", &args, &env)?);
    }
    Ok(proxies)
}

impl Strowger {
    /// Starts the router that was built with this program.
    async fn start(
        etcd: &Etcd,
        discoverd: &discoverd::Server,
        other: u16,
    ) -> anyhow::Result<(Proxy, Self)> {
        let (http, https, api) = (free_port(), free_port(), free_port());
        let ports = [http, https, api].map(|port| port.to_string());
        let (etcd, addr) = (etcd.url(), format!("http://{}", discoverd.addr()));
        let env = [
            ("ETCD", etcd.as_str()),
            ("DISCOVERD", &addr),
            ("STROWGER_KEY", super::strowger::KEY),
            ("HTTP_PORT", &ports[0]),
            ("HTTPS_PORT", &ports[1]),
            ("PORT", &ports[2]),
            ("API_LISTEN", "127.0.0.1"),
            ("RUST_LOG", "error"),
        ];
        let process = Process::ours("strowger", &env)?;
        let proxy = Proxy { name: "strowger", http, https, process };
        Ok((proxy, Self::new(api, discoverd.client(), other)))
    }
}

/// Makes a key and a certificate of the kind that strowger makes for itself.
fn certify(folder: &Path) -> anyhow::Result<()> {
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-nodes", "-days", "2", "-subj", "/CN=bench.test", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .output()
        .context("starting openssl")?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let both = [fs::read(cert)?, fs::read(key)?].concat();
    fs::write(folder.join("cert-and-key.pem"), both).context("writing a certificate")
}
