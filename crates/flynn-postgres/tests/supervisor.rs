//! flynn-postgres as a process, with the real PostgreSQL.

#![expect(clippy::unwrap_used, reason = "a test may fail that way")]

use std::{
    os::unix::{fs::chown, process::CommandExt},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use testkit::wait_until_for;
use tokio_postgres::{NoTls, error::SqlState};

/// The server's name beside its data.
const PROGRAM: &str = "flynn-postgres";

/// A volume and the server on it.
struct Volume {
    dir: tempfile::TempDir,
    port: u16,
    owner: Option<u32>,
}

impl Volume {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Where the server's user may read it, wherever this was checked out.
        std::fs::copy(env!("CARGO_BIN_EXE_flynn-postgres"), dir.path().join(PROGRAM)).unwrap();
        let owner = geteuid().is_root().then(postgres_uid);
        if let Some(uid) = owner {
            chown(dir.path(), Some(uid), None).unwrap();
        }
        Self { dir, port: testkit::free_port(), owner }
    }

    fn start(&self, password: &str) -> Server {
        self.start_with(password, None)
    }

    /// With PostgreSQL's programs in that directory.
    fn start_with(&self, password: &str, programs: Option<&Path>) -> Server {
        let mut command = Command::new(self.dir.path().join(PROGRAM));
        command.env("DATA_DIR", self.dir.path()).env("SOCKET_DIR", self.dir.path());
        command.env("PORT", self.port.to_string()).env("PGPASSWORD", password);
        command.envs(programs.map(|programs| ("PG_BIN", programs)));
        command.stdin(Stdio::null()).current_dir("/").process_group(0);
        if let Some(uid) = self.owner {
            command.uid(uid).gid(uid_group(uid));
        }
        Server { child: command.spawn().unwrap(), data: self.dir.path().join("postgres") }
    }

    async fn connect(&self, password: &str) -> tokio_postgres::Client {
        let mut config = tokio_postgres::Config::new();
        config
            .host("127.0.0.1")
            .port(self.port)
            .user("flynn")
            .password(password)
            .dbname("postgres");
        let (client, connection) =
            wait_until_for(Duration::from_secs(60), "the server lets us in", async || {
                config.connect(NoTls).await.map_err(|err| err.to_string())
            })
            .await;
        #[expect(clippy::disallowed_methods, reason = "ends with its client")]
        tokio::spawn(connection);
        client
    }
}

fn passwd(field: usize, is: &str) -> Option<Vec<String>> {
    let text = std::fs::read_to_string("/etc/passwd").unwrap();
    let lines = text.lines().map(|line| line.split(':').map(str::to_owned).collect::<Vec<_>>());
    lines.into_iter().find(|fields| fields[field] == is)
}

fn postgres_uid() -> u32 {
    passwd(0, "postgres").unwrap()[2].parse().unwrap()
}

fn uid_group(uid: u32) -> u32 {
    passwd(2, &uid.to_string()).unwrap()[3].parse().unwrap()
}

struct Server {
    child: Child,
    data: std::path::PathBuf,
}

impl Server {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The server's first process.
    fn postmaster(&self) -> Pid {
        let text = std::fs::read_to_string(self.data.join("postmaster.pid")).unwrap();
        Pid::from_raw(text.lines().next().unwrap().parse().unwrap()).unwrap()
    }

    fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::QUIT);
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn data_survives_the_death_of_any_process_and_a_reused_pid() {
    let volume = Volume::new();
    let mut server = volume.start("it's secret");
    let client = volume.connect("it's secret").await;
    client.batch_execute("CREATE TABLE t (n int); INSERT INTO t VALUES (1)").await.unwrap();

    // The server is killed: the supervisor ends too, and says that it was no success.
    kill_process(server.postmaster(), Signal::KILL).unwrap();
    assert_eq!(server.wait().code(), Some(137));

    // A number in postmaster.pid that another process has today does not keep the next one from starting. Here it is ours.
    let pidfile = server.data.join("postmaster.pid");
    let text = std::fs::read_to_string(&pidfile).unwrap();
    let rest = text.split_once('\n').unwrap().1;
    std::fs::write(&pidfile, format!("{}\n{rest}", std::process::id())).unwrap();
    let mut server = volume.start("it's secret");
    let client = volume.connect("it's secret").await;
    client.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();

    // The supervisor is killed: whoever comes next waits for what is left of its server.
    let postmaster = server.postmaster();
    server.signal(Signal::KILL);
    server.wait();
    kill_process(postmaster, Signal::KILL).unwrap();
    let mut server = volume.start("another");
    let client = volume.connect("another").await;
    let rows = client.query_one("SELECT count(*) FROM t", &[]).await.unwrap();
    assert_eq!(rows.get::<_, i64>(0), 2);

    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
    assert!(!pidfile.exists());
}

#[tokio::test]
async fn nobody_else_gets_the_data_while_a_server_uses_it() {
    let volume = Volume::new();
    let server = volume.start("x");
    let client = volume.connect("x").await;
    let mut second = volume.start("x");
    second.signal(Signal::TERM);
    second.wait();
    assert_eq!(server.postmaster(), postmaster_of(&volume.dir));
    client.batch_execute("SELECT 1").await.unwrap();
}

fn postmaster_of(dir: &tempfile::TempDir) -> Pid {
    let data = dir.path().join("postgres");
    let text = std::fs::read_to_string(Path::new(&data).join("postmaster.pid")).unwrap();
    Pid::from_raw(text.lines().next().unwrap().parse().unwrap()).unwrap()
}

#[tokio::test]
async fn a_query_that_wants_too_much_memory_fails_alone() {
    let volume = Volume::new();
    let _server = volume.start("x");
    let client = volume.connect("x").await;
    let other = volume.connect("x").await;
    let much = "SELECT length(repeat('x', 700000000))";
    let err = client.query_one(much, &[]).await.unwrap_err();
    assert_eq!(err.code(), Some(&tokio_postgres::error::SqlState::OUT_OF_MEMORY), "{err}");
    for client in [client, other] {
        client.query_one("SELECT length(repeat('x', 1000000))", &[]).await.unwrap();
    }
}

#[tokio::test]
async fn an_image_with_another_postgresql_serves_the_data_with_the_programs_kept_beside_it() {
    let volume = Volume::new();
    let mut server = volume.start("x");
    let client = volume.connect("x").await;
    client.batch_execute("CREATE TABLE t (n int); INSERT INTO t VALUES (1)").await.unwrap();
    let version = std::fs::read_to_string(server.data.join("PG_VERSION")).unwrap();
    let kept = volume.dir.path().join("programs").join(version.trim());
    wait_until_for(Duration::from_secs(60), "the programs are kept", async || {
        if kept.exists() {
            Ok(())
        } else {
            Err(std::fs::read_dir(volume.dir.path()).unwrap().count())
        }
    })
    .await;
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));

    // What the next image has is of another version, and has nothing of this one.
    let mut server = volume.start_with("x", Some(Path::new("/usr/lib/postgresql/99/bin")));
    let client = volume.connect("x").await;
    client.batch_execute("DO 'BEGIN INSERT INTO t VALUES (2); END'").await.unwrap();
    let rows = client.query_one("SELECT count(*) FROM t", &[]).await.unwrap();
    assert_eq!(rows.get::<_, i64>(0), 2);
    let program = std::fs::read_link(format!("/proc/{}/exe", server.postmaster().as_raw_nonzero()));
    let program = program.unwrap();
    assert!(program.starts_with(&kept), "{}", program.display());
    server.signal(Signal::TERM);
    server.wait();

    std::fs::remove_dir_all(&kept).unwrap();
    let mut server = volume.start_with("x", Some(Path::new("/usr/lib/postgresql/99/bin")));
    assert_eq!(server.wait().code(), Some(1), "there is nothing it could be served with");
}

#[tokio::test]
async fn nobody_is_the_superuser_without_its_password_and_no_role_becomes_it() {
    let volume = Volume::new();
    let _server = volume.start("right");
    let superuser = volume.connect("right").await;
    superuser.batch_execute("CREATE ROLE app LOGIN PASSWORD 'x'").await.unwrap();
    superuser.batch_execute("CREATE DATABASE app OWNER app").await.unwrap();
    let get_in = async |user: &str, password: Option<&str>, database: &str| {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(volume.port).user(user).dbname(database);
        password.map(|password| config.password(password));
        config.connect(NoTls).await
    };
    for database in ["postgres", "template1", "app"] {
        for password in [None, Some(""), Some("wrong"), Some("flynn"), Some("x")] {
            let refused = get_in("flynn", password, database).await;
            assert!(refused.is_err(), "the superuser gets into {database} with {password:?}");
        }
    }
    let (client, connection) = get_in("app", Some("x"), "app").await.unwrap();
    #[expect(clippy::disallowed_methods, reason = "ends with its client")]
    tokio::spawn(connection);
    for statement in [
        "SET ROLE flynn",
        "SET SESSION AUTHORIZATION flynn",
        "GRANT flynn TO app",
        "ALTER ROLE app SUPERUSER",
        "ALTER ROLE flynn PASSWORD 'x'",
        "ALTER SYSTEM SET listen_addresses = ''",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "SELECT pg_read_file('postgresql.conf')",
        "SELECT rolpassword FROM pg_authid",
    ] {
        let done = client.batch_execute(statement).await;
        let err = done.err().unwrap_or_else(|| panic!("a role may do this: {statement}"));
        assert_eq!(err.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{statement}: {err}");
    }
}
