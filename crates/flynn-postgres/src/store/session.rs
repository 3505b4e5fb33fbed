//! Connections to the server, each bounded in time here and there.

use std::{future::Future, pin::pin, time::Duration};

use tokio::time::{Instant, timeout};
use tokio_postgres::{Client, NoTls};

use super::{Databases, StoreError};

/// One attempt to connect, or to have a statement ended.
pub(super) const ATTEMPT: Duration = Duration::from_secs(2);
/// Pause between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(200);
/// The startup options of every session. The server ends a statement after the time for which we wait, and also when the
/// connection is lost: the `CREATE DATABASE` of a killed daemon cannot finish after a later request for the same database.
pub(super) const BEGIN: &str = "-c statement_timeout=12s -c client_connection_check_interval=1s";

impl Databases {
    /// Connects, retrying for the time `within`, and does `work` with the connection. The work is canceled after `limit`, and
    /// is then waited for during [`ATTEMPT`].
    pub(super) async fn with<T>(
        &self,
        session: &tokio_postgres::Config,
        (within, limit): (Duration, Duration),
        doing: &'static str,
        work: impl AsyncFnOnce(&Client) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let (client, connection) = self.connect(session, within).await?;
        let cancel = client.cancel_token();
        let mut work = pin!(async {
            tokio::select! {
                biased;
                done = work(&client) => done,
                ended = driven(connection) => Err(StoreError::refused(doing)(ended)),
            }
        });
        if let Ok(done) = timeout(limit, &mut work).await {
            return done;
        }
        // Whoever undoes it must not do so before it is done: the server shall have ended it, too.
        let ended = timeout(ATTEMPT, async {
            let _ = cancel.cancel_query(NoTls).await;
            work.await
        });
        match ended.await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(_)) | Err(_) => Err(StoreError::TimedOut { doing }),
        }
    }

    /// Connects, retrying for the time `within`. Once the daemon stops there is no further attempt.
    pub(super) async fn connect(
        &self,
        session: &tokio_postgres::Config,
        within: Duration,
    ) -> Result<(Client, impl Future<Output = Result<(), tokio_postgres::Error>> + use<>), StoreError>
    {
        let deadline = Instant::now() + within;
        let stop = self.lifetime.stop();
        loop {
            let source = match timeout(ATTEMPT, session.connect(NoTls)).await {
                Ok(Ok(connected)) => return Ok(connected),
                Ok(Err(source)) => Some(source),
                Err(_) => None,
            };
            let pause = stop.run_until_cancelled(tokio::time::sleep(PAUSE));
            if Instant::now() >= deadline || pause.await.is_none() {
                let at = format!("{}:{}", self.host, self.port);
                return Err(StoreError::Unreachable { at, source });
            }
        }
    }
}

/// Drives a connection. One that ends without an error leaves its error to the statement that is under way.
pub(super) async fn driven(
    connection: impl Future<Output = Result<(), tokio_postgres::Error>>,
) -> tokio_postgres::Error {
    match connection.await {
        Err(err) => err,
        Ok(()) => std::future::pending().await,
    }
}
