//! Following what an app does, until it is deleted.

use std::time::Duration;

use api::id::AppId;
use controller_client::Controller;

use crate::{output, session::is_gone};

/// How often it is asked whether the app is still there: a stream of what it does only falls silent.
const LOOK: Duration = Duration::from_secs(3);

/// Follows until that ends, or the app does.
pub(crate) async fn while_there(
    controller: &Controller,
    app: AppId,
    following: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    // What has come is shown before anybody asks.
    let ended = tokio::select! {
        biased;
        ended = following => ended,
        () = deleted(controller, app) => {
            output::say(DELETED);
            Ok(())
        }
    };
    match ended {
        Err(err) if !output::is_closed(&err) && is_gone(controller, app).await => {
            output::say(DELETED);
            Ok(())
        }
        ended => ended,
    }
}

const DELETED: &str = "the app was deleted";

async fn deleted(controller: &Controller, app: AppId) {
    while !is_gone(controller, app).await {
        tokio::time::sleep(LOOK).await;
    }
}
