//! Connections to the server, each bounded in time here and there.

use std::{error::Error as _, future::Future, pin::pin, time::Duration};

use tokio::time::{Instant, timeout};
use tokio_postgres::{Client, NoTls, error::SqlState};

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

    /// Connects, retrying for the time `within` unless the server says that it will not have us. Once the daemon stops there
    /// is no further attempt.
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
            let says_no =
                source.as_ref().and_then(|err| Some((err.as_db_error()?, is_passing(err))));
            let is_final = says_no.is_some_and(|(_, is_passing)| !is_passing);
            let pause = stop.run_until_cancelled(tokio::time::sleep(PAUSE));
            if is_final || Instant::now() >= deadline || pause.await.is_none() {
                let at = format!("{}:{}", self.host, self.port);
                let said = says_no.map(|(said, _)| said.message().to_owned());
                return Err(match (source, said) {
                    (Some(source), Some(said)) => StoreError::TurnedAway { at, said, source },
                    (source, _) => StoreError::Unreachable { at, source },
                });
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

/// Whether the server may do later what it does not do now.
pub(crate) fn is_passing(err: &tokio_postgres::Error) -> bool {
    let Some(code) = err.code() else {
        return err.is_closed() || err.source().is_some_and(|cause| cause.is::<std::io::Error>());
    };
    // Classes: connection; out of room, connections, memory; an operator's doing, as a start or stop; rolled back for
    // others' sake; a lock not had. 25006: the server is read-only.
    ["08", "53", "57", "40", "55"].iter().any(|class| code.code().starts_with(class))
        || *code == SqlState::READ_ONLY_SQL_TRANSACTION
}
