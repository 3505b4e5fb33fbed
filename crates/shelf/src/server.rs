//! Where the parts are joined.

use std::{
    fs::{self, File},
    io,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::Duration,
};

use daemon::Lifetime;
use tokio::{
    net::TcpListener,
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use crate::{
    Config,
    access::Guard,
    grants::{Grants, unix_now},
    routes::routes,
    store::{LOCK, Store},
};

/// How often spent URLs that have expired are forgotten.
const SWEEP: Duration = Duration::from_secs(60);

/// How long a predecessor on the same directory may take to end.
const LOCK_TIMEOUT: Duration = Duration::from_secs(20);
/// Pause between two attempts to lock it.
const LOCK_PAUSE: Duration = Duration::from_millis(100);

/// A shelf that serves.
#[derive(Debug)]
pub struct Running {
    /// Where.
    pub addr: SocketAddr,
}

/// Why shelf could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be had.
    #[error("listening on {addr} failed: is something else using it?")]
    Bind {
        /// Which.
        addr: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another shelf uses it.
    #[error("another shelf uses the data directory {dir}: end it first, or give this one another")]
    Used {
        /// Which.
        dir: String,
    },
    /// The data directory cannot be used.
    #[error(
        "the data directory {dir} cannot be used: it must exist or be creatable, and be writable"
    )]
    DataDir {
        /// Which.
        dir: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Takes the data directory for this process alone: two would wipe each other's uploads, and let a URL work twice.
async fn lock(data_dir: &Path) -> Result<File, StartError> {
    let unusable = |source| StartError::DataDir { dir: data_dir.display().to_string(), source };
    fs::create_dir_all(data_dir).map_err(unusable)?;
    let file = File::create(data_dir.join(LOCK)).map_err(unusable)?;
    let deadline = Instant::now() + LOCK_TIMEOUT;
    while file.try_lock().is_err() {
        if Instant::now() >= deadline {
            return Err(StartError::Used { dir: data_dir.display().to_string() });
        }
        sleep(LOCK_PAUSE).await;
    }
    Ok(file)
}

/// Starts shelf; it ends with `lifetime`.
pub async fn start(config: Config, lifetime: &Lifetime) -> Result<Running, StartError> {
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(|source| StartError::Bind { addr: config.listen, source })?;
    let addr =
        listener.local_addr().map_err(|source| StartError::Bind { addr: config.listen, source })?;
    let unusable =
        |source| StartError::DataDir { dir: config.data_dir.display().to_string(), source };
    let lock = lock(&config.data_dir).await?;
    let store = Store::open(&config.data_dir, config.disk_reserve, config.folder_len_max, lock)
        .map_err(unusable)?;
    let grants = Arc::new(Grants::open(config.data_dir.join("used")).map_err(unusable)?);
    let sweeping = grants.clone();
    lifetime.spawn("sweep", move |stop| async move {
        let mut tick = interval(SWEEP);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            sweeping.forget_expired(unix_now());
        }
    });
    let read_again = store.clone();
    lifetime.spawn("scrub", |stop| read_again.keep_scrubbed(stop));
    let checked = store.clone();
    let status = daemon::status::status(move || {
        let store = checked.clone();
        async move {
            store.check().await.map_err(|err| format!("the data directory cannot be used: {err}"))
        }
    });
    lifetime.serve_with_status(listener, routes(store, Guard::new(&config.key, grants)), status);
    Ok(Running { addr })
}
