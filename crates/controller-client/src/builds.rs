//! Turns to build.

use api::controller::{NewTurn, Turn};
use api_client::Error;

use crate::{Controller, escape};

impl Controller {
    /// Asks for a turn to build, or keeps it. `id` is the build's own; the turn is lost when nothing asks for
    /// [`api::controller::TURN_TTL_SECONDS`].
    pub async fn build_turn(&self, id: &str, app: &str) -> Result<Turn, Error> {
        let turn = NewTurn { app: app.into() };
        self.client.put(&format!("/builds/{}", escape(id)), &turn).await
    }

    /// Gives a turn back.
    pub async fn end_build_turn(&self, id: &str) -> Result<(), Error> {
        self.client.delete(&format!("/builds/{}", escape(id))).await
    }
}
