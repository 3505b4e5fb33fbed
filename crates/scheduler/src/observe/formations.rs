//! What should run: the controller's stream of formations.

use std::error::Error;

use api::{controller::ExpandedFormation, id::AppId};
use controller_client::Controller;
use futures_util::StreamExt;
use jiff::{SignedDuration, Timestamp};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{Observed, PAUSES};

/// An app that was deleted within this time may still have jobs, which a scheduler that was not there must stop.
const DELETED_WITHIN: SignedDuration = SignedDuration::from_hours(24);

/// Follows the controller's formations for as long as the daemon runs.
pub async fn keep_formations(
    controller: Controller,
    observed: std::sync::Arc<Observed>,
    stop: CancellationToken,
) {
    let mut pause = PAUSES.0;
    loop {
        let mut opened = false;
        let ended = tokio::select! {
            () = stop.cancelled() => return,
            ended = follow(&controller, &observed, &mut opened) => ended,
        };
        observed.formations_lost();
        if opened {
            pause = PAUSES.0;
        }
        match ended {
            Ok(()) => debug!("the controller closed the stream of formations"),
            Err(err) if opened => {
                warn!(error = &*err, "the stream of formations was lost; the last ones stand");
            }
            Err(err) => debug!(error = &*err, "the formations cannot be listed yet"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(pause) => {}
        }
        pause = (pause * 2).min(PAUSES.1);
    }
}

async fn follow(
    controller: &Controller,
    observed: &Observed,
    opened: &mut bool,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    if !observed.has_listing() {
        observed.deleted(deleted(controller).await?);
    }
    let mut stream = std::pin::pin!(controller.stream_formations(None).await?);
    let mut backlog = Some(Vec::new());
    while let Some(item) = stream.next().await {
        match (item?, &mut backlog) {
            (Some(formation), Some(backlog)) => backlog.push(formation),
            (Some(formation), None) => observed.changed(formation),
            (None, _) => {
                let Some(listed) = backlog.take() else { continue };
                let count = listed.len();
                observed.listed(listed)?;
                *opened = true;
                info!(formations = count, "the controller listed {count} formations");
            }
        }
    }
    Ok(())
}

/// The apps of which formations were deleted lately. The listing of all formations leaves deleted ones out.
async fn deleted(controller: &Controller) -> Result<Vec<AppId>, controller_client::Error> {
    let since = Timestamp::now() - DELETED_WITHIN;
    let mut changed = std::pin::pin!(controller.stream_formations(Some(since)).await?);
    let mut apps = Vec::new();
    while let Some(Some(ExpandedFormation { app, processes, .. })) =
        changed.next().await.transpose()?
    {
        if processes.is_empty() {
            apps.push(app.id);
        }
    }
    Ok(apps)
}
