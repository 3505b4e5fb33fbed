//! A real PostgreSQL.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::{Signal, geteuid};
use tempfile::TempDir;

use crate::{
    folder::{data_folder, data_root},
    process::{Server, command_as},
    wait_until_for,
};

/// Where Debian puts the server's programs.
const BIN: &str = "/usr/lib/postgresql/15/bin";
/// A server refuses to run as root; Debian has this user for it.
const SYSTEM_USER: &str = "postgres";

/// A PostgreSQL with one empty database. Ends with its value.
#[derive(Debug)]
pub struct Postgres {
    server: Server,
    port: u16,
    password: String,
    dir: TempDir,
}

impl Postgres {
    /// Makes one and waits until it answers.
    pub async fn start() -> Self {
        let template = template();
        let dir = data_folder();
        let password = std::fs::read_to_string(template.join("password")).unwrap();
        // With its owner and modes, on which the server insists.
        run(Command::new("cp").arg("-a").arg(template.join("data")).arg(dir.path()));
        give_away(dir.path());
        let port = crate::free_port();
        let server = spawn(dir.path(), port);
        let mut postgres = Self { server, port, password, dir };
        postgres.until_it_answers().await;
        postgres
    }

    /// `127.0.0.1`.
    pub fn host(&self) -> &str {
        "127.0.0.1"
    }

    /// Its port; the same after a restart.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The superuser.
    pub fn user(&self) -> &str {
        "flynn"
    }

    /// The superuser's password.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// A database that is always there.
    pub fn database(&self) -> &str {
        "postgres"
    }

    /// Makes an empty database and answers with its name.
    pub async fn fresh_database(&self) -> String {
        let name = format!("t{}", uuid::Uuid::new_v4().simple());
        let mut createdb = Command::new(bin("createdb"));
        createdb.args(["--host", self.host(), "--port", &self.port.to_string()]);
        createdb.args(["--username", self.user(), &name]).env("PGPASSWORD", &self.password);
        run(&mut createdb);
        name
    }

    /// Kills the server and all its backends, as a power failure would.
    pub fn kill(&mut self) {
        self.server.end_with(Signal::QUIT);
    }

    /// Starts it again after [`Postgres::kill`] (or kills it first), on the same folder and port.
    pub async fn restart(&mut self) {
        self.kill();
        self.server = spawn(self.dir.path(), self.port);
        self.until_it_answers().await;
    }

    async fn until_it_answers(&mut self) {
        let log = self.dir.path().join("log");
        let port = self.port.to_string();
        let server = &mut self.server;
        wait_until_for(Duration::from_secs(30), "PostgreSQL answers", || {
            let ended = server.has_ended();
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            let mut ready = Command::new(bin("pg_isready"));
            ready.args(["--quiet", "--host", "127.0.0.1", "--port", &port]);
            async move {
                assert!(!ended, "PostgreSQL ended:\n{log}");
                if ready.status().unwrap().success() { Ok(()) } else { Err(log) }
            }
        })
        .await;
    }
}

/// A data folder that no server has run on, and its superuser's password: to copy it takes a twentieth of the time in which
/// initdb makes it. Tests of all processes share it.
fn template() -> PathBuf {
    let name = format!("flynn-test-postgres-{}", geteuid().as_raw());
    let folder = data_root().join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let lock = File::create(folder.join("lock")).unwrap();
    lock.lock().unwrap();
    let template = folder.join(BIN.replace('/', "-"));
    if !template.exists() {
        let dir = tempfile::tempdir_in(&folder).unwrap();
        let pwfile = dir.path().join("password");
        std::fs::write(&pwfile, uuid::Uuid::new_v4().simple().to_string()).unwrap();
        give_away(dir.path());
        let mut initdb = command_as(Some(SYSTEM_USER), &bin("initdb"));
        initdb.args(["--no-sync", "--username=flynn", "--encoding=UTF8", "--locale=C.UTF-8"]);
        initdb.args(["--auth=scram-sha-256", "--pwfile"]).arg(&pwfile);
        run(initdb.arg("--pgdata").arg(dir.path().join("data")).current_dir(dir.path()));
        // One that is not whole is never seen.
        std::fs::rename(dir.keep(), &template).unwrap();
    }
    template
}

/// Makes the user that the server runs as the owner of a folder.
fn give_away(dir: &Path) {
    if geteuid().is_root() {
        run(Command::new("chown").args(["-R", SYSTEM_USER]).arg(dir));
    }
}

fn bin(program: &str) -> PathBuf {
    Path::new(BIN).join(program)
}

fn spawn(dir: &Path, port: u16) -> Server {
    let mut command = command_as(Some(SYSTEM_USER), &bin("postgres"));
    command.arg("-D").arg(dir.join("data")).arg("-k").arg(dir).args(["-p", &port.to_string()]);
    for setting in [
        "listen_addresses=127.0.0.1",
        // A killed process loses nothing without fsync, only a dead machine does.
        "fsync=off",
        "max_connections=50",
        "shared_buffers=16MB",
        // In the data folder, so that nothing is left of one that was killed.
        "dynamic_shared_memory_type=mmap",
    ] {
        command.args(["-c", setting]);
    }
    // SIGQUIT: at once, with all backends.
    Server::start(&command, &dir.join("log"), Signal::QUIT)
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed ({}): {said}", output.status);
}
