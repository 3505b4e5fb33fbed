//! Runs the server and goes with it.

use std::{
    io,
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Resource, Rlimit, Signal, setrlimit};
use tokio::{
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};
use tracing::{error, info, warn};

use crate::{
    config::ServerConfig,
    data::{self, Data, DataError},
    domain::SUPERUSER,
    kept,
};

/// Pause between attempts to connect to a server that starts.
const CONNECT_PAUSE: Duration = Duration::from_millis(300);

/// Why the server could not be run.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// The volume.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Signals.
    #[error("signals cannot be caught")]
    Signals(#[source] io::Error),
    /// The program.
    #[error("{program} could not be run")]
    Program {
        /// It.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Runs the server to its end, and answers with the status to exit with: 0 only if it was asked to end and did so well.
pub async fn run(config: &ServerConfig) -> Result<u8, SupervisorError> {
    let mut signals = listen().map_err(SupervisorError::Signals)?;
    let data = tokio::select! {
        data = data::prepare(config) => data?,
        Some(asked) = signals.recv() => {
            info!("asked to end ({asked:?}) before the server was started");
            return Ok(0);
        }
    };
    let program = data.programs.bin.join("postgres");
    let failed = |source| SupervisorError::Program { program: program.clone(), source };
    limit_memory(config.process_memory).map_err(failed)?;
    let mut server = spawn(&data).map_err(failed)?;
    let mut password = std::pin::pin!(set_password(config));
    let (mut ready, mut ending) = (false, false);
    loop {
        tokio::select! {
            ended = server.wait() => return Ok(exit_status(ended.map_err(failed)?, ending)),
            () = password.as_mut(), if !ready => {
                ready = true;
                info!(port = config.port, "PostgreSQL takes connections on port {}", config.port);
                keep_programs(config, &data, &server);
            }
            Some(asked) = signals.recv() => {
                ending |= asked != Asked::Reload;
                signal_server(&server, asked);
            }
        }
    }
}

/// One process of the server that wants too much gets an error, instead of the kernel's end of all of them. The memory they
/// share is not in it. Children inherit it.
fn limit_memory(bytes: u64) -> io::Result<()> {
    let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
    Ok(setrlimit(Resource::Data, limit)?)
}

fn spawn(data: &Data) -> io::Result<Child> {
    data.bequeath_lock()?;
    let mut server = Command::new(data.programs.bin.join("postgres"));
    server.arg("-D").arg(&data.directory).env_remove("PGPASSWORD").stdin(Stdio::null());
    if let Some(libraries) = &data.programs.libraries {
        server.env("LD_LIBRARY_PATH", libraries);
    }
    server.spawn()
}

/// Keeps the programs beside the data, for the image of a system that has others. The server is not waited for, nor this.
fn keep_programs(config: &ServerConfig, data: &Data, server: &Child) {
    let (Some(pid), None) = (server.id(), &data.programs.libraries) else { return };
    let (data_dir, bin) = (config.data_dir.clone(), data.programs.bin.clone());
    drop(tokio::task::spawn_blocking(move || kept::keep(&data_dir, &bin, pid)));
}

fn exit_status(ended: ExitStatus, asked: bool) -> u8 {
    let code = match (ended.code(), ended.signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 1,
    };
    if asked && code == 0 {
        info!("PostgreSQL has shut down");
        return 0;
    }
    error!(status = code, "PostgreSQL ended unasked: {ended}");
    u8::try_from(code.max(1)).unwrap_or(u8::MAX)
}

/// What a signal asks of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// Fast shutdown.
    Stop,
    /// Immediate shutdown.
    Abort,
    /// Read the configuration.
    Reload,
}

fn signal_server(server: &Child, asked: Asked) {
    let pid = server.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let Some(pid) = pid else { return };
    let signal = match asked {
        Asked::Stop => Signal::INT,
        Asked::Abort => Signal::QUIT,
        Asked::Reload => Signal::HUP,
    };
    info!("{asked:?}: telling PostgreSQL");
    let _ = rustix::process::kill_process(pid, signal);
}

fn listen() -> io::Result<mpsc::Receiver<Asked>> {
    let (sender, receiver) = mpsc::channel(16);
    for (kind, asked) in [
        (SignalKind::terminate(), Asked::Stop),
        (SignalKind::interrupt(), Asked::Stop),
        (SignalKind::quit(), Asked::Abort),
        (SignalKind::hangup(), Asked::Reload),
    ] {
        let mut caught = signal(kind)?;
        let sender = sender.clone();
        #[expect(clippy::disallowed_methods, reason = "ends with the process, as its signals do")]
        tokio::spawn(async move {
            while caught.recv().await.is_some() && sender.send(asked).await.is_ok() {}
        });
    }
    Ok(receiver)
}

/// Waits until the server takes connections and gives the superuser the password it is to have.
async fn set_password(config: &ServerConfig) {
    let mut warned = false;
    loop {
        match try_set_password(config).await {
            Ok(()) => return,
            // While it starts and recovers it refuses, which is no news.
            Err(err) if err.as_db_error().is_some() && !warned && !is_starting(&err) => {
                warn!(error = %err, "the superuser's password could not be set; trying again");
                warned = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(CONNECT_PAUSE).await;
    }
}

fn is_starting(err: &tokio_postgres::Error) -> bool {
    err.code() == Some(&tokio_postgres::error::SqlState::CANNOT_CONNECT_NOW)
}

async fn try_set_password(config: &ServerConfig) -> Result<(), tokio_postgres::Error> {
    let mut local = tokio_postgres::Config::new();
    local.host_path(&config.socket_dir).port(config.port).user(SUPERUSER).dbname("postgres");
    let (client, connection) = local.connect(tokio_postgres::NoTls).await?;
    let password = config.password.replace('\'', "''");
    let sql = format!(
        "SET log_min_error_statement = panic; SET log_statement = none; SET standard_conforming_strings = on; \
         ALTER ROLE {SUPERUSER} PASSWORD '{password}'"
    );
    tokio::select! {
        ended = connection => ended,
        set = client.batch_execute(&sql) => set,
    }
}
