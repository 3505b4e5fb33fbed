//! LISTEN.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures_util::StreamExt;
use tokio::time::{sleep, timeout};
use tokio_postgres::{AsyncMessage, NoTls};
use tracing::{debug, warn};

use crate::{Config, Error, pool::driven};

/// Pause before the next connection.
const PAUSE: Duration = Duration::from_millis(200);
/// A quiet connection is asked this often whether it is still one.
const PROBE: Duration = Duration::from_secs(5);

/// Calls `nudge` at every notification on a channel, and whenever one may have been missed. Never ends.
///
/// `channel` is a constant of the caller's, not input: it becomes part of a statement.
pub async fn keep_listening(config: &Config, channel: &'static str, nudge: impl Fn()) {
    let mut said = false;
    let listened = AtomicBool::new(false);
    let nudge = || {
        listened.store(true, Ordering::Relaxed);
        nudge();
    };
    loop {
        let ended = listen(config, channel, &nudge).await;
        // Each outage is told once.
        said = said && !listened.swap(false, Ordering::Relaxed);
        match ended {
            Ok(()) => debug!(channel, "the connection that listens was closed"),
            Err(err) if !said => {
                warn!(error = &err as &dyn std::error::Error, "cannot listen to {channel}");
            }
            Err(_) => {}
        }
        said = true;
        sleep(PAUSE).await;
    }
}

async fn listen(config: &Config, channel: &str, nudge: &impl Fn()) -> Result<(), Error> {
    let (client, mut connection) = config.unlimited().connect(NoTls).await?;
    let messages = futures_util::stream::poll_fn(|cx| connection.poll_message(cx));
    let drive = messages.map(|message| match message {
        Ok(AsyncMessage::Notification(_)) => {
            nudge();
            Ok(())
        }
        Ok(_) => Ok(()),
        Err(err) => Err(err),
    });
    let drive = async {
        tokio::pin!(drive);
        while let Some(message) = drive.next().await {
            message?;
        }
        Ok(())
    };
    driven(drive, async {
        client.batch_execute(&format!("LISTEN {channel}")).await?;
        loop {
            // From here nothing is missed; before, something may have been.
            nudge();
            sleep(PROBE).await;
            let alive = timeout(PROBE, client.batch_execute("SELECT 1"));
            alive.await.map_err(|err| Error::Unavailable(err.into()))??;
        }
    })
    .await
}
