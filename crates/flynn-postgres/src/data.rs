//! The volume: whose it is, what is on it, what a killed server left there.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rustix::io::FdFlags;
use tokio::{io::AsyncWriteExt, process::Command, time::Instant};
use tracing::{info, warn};

use crate::{
    config::ServerConfig,
    domain::{SUPERUSER, settings},
    kept::{self, Programs},
};

/// How long a predecessor on the same volume may take to end.
const LOCK_WAIT: Duration = Duration::from_secs(20);
/// Pause between two attempts to lock.
const LOCK_PAUSE: Duration = Duration::from_millis(100);
/// Where Debian and Ubuntu put the programs, a directory a version.
const VERSIONS: &str = "/usr/lib/postgresql";

/// Why the data cannot be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum DataError {
    #[error("PostgreSQL refuses to run as root: run this as any other user")]
    Root,
    #[error("{path} cannot be {done}; it must belong to the user this runs as")]
    File { path: PathBuf, done: &'static str, source: io::Error },
    #[error("another server still uses {0}; end it first")]
    Used(PathBuf),
    #[error("no PostgreSQL is installed in {VERSIONS}; set PG_BIN to its programs")]
    NotInstalled,
    #[error(
        "{path} is of PostgreSQL {has}, this is PostgreSQL {programs}, and no programs of {has} are kept beside it; run it once \
         with an image that has them"
    )]
    OtherVersion { path: PathBuf, has: String, programs: String },
    #[error("{program} could not be started")]
    Program { program: PathBuf, source: io::Error },
    #[error(
        "a database cluster could not be made in {path}: initdb ended with {status}; its messages are above"
    )]
    Initdb { path: PathBuf, status: std::process::ExitStatus },
}

/// A volume that is ours, with a cluster on it that can be started.
#[derive(Debug)]
pub struct Data {
    /// The server's programs.
    pub programs: Programs,
    /// Its data directory.
    pub directory: PathBuf,
    /// Held for as long as any process of the server lives.
    lock: File,
}

/// Takes the volume, makes a cluster if there is none, and writes its configuration.
pub async fn prepare(config: &ServerConfig) -> Result<Data, DataError> {
    if rustix::process::geteuid().is_root() {
        return Err(DataError::Root);
    }
    let directory = config.data_dir.join("postgres");
    let lock = lock(&config.data_dir).await?;
    let programs = match &config.programs {
        Some(programs) => programs.clone(),
        None => newest(Path::new(VERSIONS)).ok_or(DataError::NotInstalled)?,
    };
    let programs = if directory.join("PG_VERSION").exists() {
        fitting(config, &directory, programs)?
    } else {
        initdb(config, &programs, &directory).await?;
        Programs { bin: programs, libraries: None }
    };
    let socket_dir = config.socket_dir.display().to_string();
    write(&directory.join("postgresql.conf"), &settings::conf(config.port, &socket_dir))?;
    write(&directory.join("pg_hba.conf"), &settings::hba())?;
    // We hold the lock, so whoever left these is dead, although a process may have its number again.
    let socket = config.socket_dir.join(format!(".s.PGSQL.{}", config.port));
    for left in [directory.join("postmaster.pid"), socket.with_added_extension("lock"), socket] {
        match fs::remove_file(&left) {
            Ok(()) => {
                info!(path = %left.display(), "removed {} of a server that was killed", left.display())
            }
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(DataError::File { path: left, done: "removed", source }),
        }
    }
    Ok(Data { programs, directory, lock })
}

impl Data {
    /// Lets children inherit the lock, so that it lasts as long as the last of them.
    pub fn bequeath_lock(&self) -> io::Result<()> {
        Ok(rustix::io::fcntl_setfd(&self.lock, FdFlags::empty())?)
    }
}

async fn lock(data_dir: &Path) -> Result<File, DataError> {
    let path = data_dir.join("lock");
    let mut open = OpenOptions::new();
    let file = open
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(|source| DataError::File { path, done: "opened", source })?;
    let deadline = Instant::now() + LOCK_WAIT;
    while file.try_lock().is_err() {
        if Instant::now() > deadline {
            return Err(DataError::Used(data_dir.into()));
        }
        tokio::time::sleep(LOCK_PAUSE).await;
    }
    Ok(file)
}

/// The programs of the highest version there is.
fn newest(versions: &Path) -> Option<PathBuf> {
    let version = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let entries = fs::read_dir(versions).ok()?.flatten().map(|entry| entry.path());
    let installed = entries.filter(|path| path.join("bin/postgres").exists());
    Some(installed.max_by_key(|path| version(path))?.join("bin"))
}

/// The programs that fit the data: these, or else those that are kept beside it.
fn fitting(
    config: &ServerConfig,
    directory: &Path,
    programs: PathBuf,
) -> Result<Programs, DataError> {
    let path = directory.join("PG_VERSION");
    let has = fs::read_to_string(&path).map_err(|source| DataError::File {
        path,
        done: "read",
        source,
    })?;
    let has = has.trim();
    match kept::version_of(&programs) {
        Some(version) if version != has => {
            let kept =
                kept::find(&config.data_dir, has).ok_or_else(|| DataError::OtherVersion {
                    path: directory.into(),
                    has: has.into(),
                    programs: version.clone(),
                })?;
            warn!(
                "the data is of PostgreSQL {has} and this image has {version}: it is served by the \
                 programs that are kept beside it"
            );
            Ok(kept)
        }
        _ => Ok(Programs { bin: programs, libraries: None }),
    }
}

/// Makes a cluster beside its place and moves it there when it is whole and on disk.
async fn initdb(config: &ServerConfig, programs: &Path, directory: &Path) -> Result<(), DataError> {
    let new = directory.with_added_extension("new");
    let file = |done, source| DataError::File { path: new.clone(), done, source };
    match fs::remove_dir_all(&new) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(file("removed", err)),
        _ => {}
    }
    fs::DirBuilder::new().mode(0o700).create(&new).map_err(|err| file("made", err))?;
    info!(path = %directory.display(), "making a database cluster in {}", directory.display());
    let program = programs.join("initdb");
    let mut initdb = Command::new(&program);
    initdb.args(["--encoding=UTF8", "--locale=C.UTF-8", "--data-checksums", "--no-instructions"]);
    initdb.args(["--auth-local=trust", "--auth-host=scram-sha-256", "--pwfile=/dev/stdin"]);
    initdb.arg(format!("--username={SUPERUSER}")).arg("--pgdata").arg(&new);
    // The password goes through a pipe: it must be neither in a file nor in a process list.
    initdb.stdin(Stdio::piped()).env_remove("PGPASSWORD").kill_on_drop(true);
    let status = async {
        let mut child = initdb.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(format!("{}\n", config.password).as_bytes()).await?;
        }
        child.wait().await
    };
    let status = status.await.map_err(|source| DataError::Program { program, source })?;
    if !status.success() {
        return Err(DataError::Initdb { path: new, status });
    }
    fs::rename(&new, directory).map_err(|err| file("moved to its place", err))?;
    File::open(&config.data_dir).and_then(|dir| dir.sync_all()).map_err(|err| file("synced", err))
}

fn write(path: &Path, text: &str) -> Result<(), DataError> {
    let new = path.with_added_extension("new");
    let written = || {
        let mut open = OpenOptions::new();
        let mut file = open.create(true).truncate(true).write(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    written().map_err(|source| DataError::File { path: path.into(), done: "written", source })
}
