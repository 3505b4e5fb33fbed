//! Whether a push could work at all: asked once, before the first client is let in.
//!
//! A gitreceived with a wrong key would look well to its host, for its port is all that can be seen of it. So it does not
//! listen before the controller and shelf have answered its keys: a deployment with settings that are wrong goes back.

use std::time::Duration;

use controller_client::Controller;
use shelf_client::Shelf;
use tokio::time::sleep;
use tracing::warn;

/// Pause before what did not answer is asked again.
const PAUSE: Duration = Duration::from_millis(500);
/// What is asked for; that there is no such app says as much.
const APP: &str = "gitreceived";
/// The same of shelf.
const BLOB: &str = "/repos/none";

/// Who does not answer as it should.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    #[error("the controller does not answer as it should")]
    Controller(#[source] controller_client::Error),
    #[error("shelf does not answer as it should")]
    Shelf(#[source] shelf_client::Error),
}

/// Waits until the controller and shelf answer the keys they are sent.
pub(crate) async fn until_answered(controller: &Controller, shelf: &Shelf) {
    let mut told = false;
    while let Err(err) = ask(controller, shelf).await {
        if !told {
            warn!(error = &err as &dyn std::error::Error, "nobody can push yet: {err}");
            told = true;
        }
        sleep(PAUSE).await;
    }
}

async fn ask(controller: &Controller, shelf: &Shelf) -> Result<(), Unanswered> {
    match controller.app(APP).await {
        Err(err) if !err.is_not_found() => return Err(Unanswered::Controller(err)),
        _ => {}
    }
    shelf.head(BLOB).await.map(drop).map_err(Unanswered::Shelf)
}
