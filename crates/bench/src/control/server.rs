//! The controller as a process.

use std::time::Duration;

use anyhow::Context;
use controller_client::Controller;
use testkit::{Postgres, wait_until_for};
use tokio::process::Child;

use crate::{discoverd::ours, usage};

pub(super) const KEY: &str = "the key";

/// Far longer than a start takes, also on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);

pub(super) struct Server {
    process: Child,
    port: u16,
    _postgres: Postgres,
}

impl Server {
    /// Starts the controller that was built with this program.
    pub(super) async fn start() -> anyhow::Result<Self> {
        let postgres = Postgres::start().await;
        let database = postgres.fresh_database().await;
        let port = testkit::free_port();
        let process = ours("controller")?
            .env("PORT", port.to_string())
            .env("AUTH_KEY", KEY)
            .env("PGHOST", postgres.host())
            .env("PGPORT", postgres.port().to_string())
            .env("PGUSER", postgres.user())
            .env("PGPASSWORD", postgres.password())
            .env("PGDATABASE", database)
            // Nobody is asked for anything but the database.
            .env("DISCOVERD", "http://127.0.0.1:1")
            .env("RUST_LOG", "error")
            .spawn()
            .context("starting the controller, which is built with: cargo build -p controller")?;
        let server = Self { process, port, _postgres: postgres };
        let client = server.client();
        wait_until_for(START_LIMIT, "the controller answers", || client.apps()).await;
        Ok(server)
    }

    pub(super) fn client(&self) -> Controller {
        Controller::new(format!("http://127.0.0.1:{}", self.port), Some(KEY.into()))
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Bytes of memory it has.
    pub(super) fn memory(&self) -> anyhow::Result<u64> {
        usage::pss(self.process.id().context("the controller has ended")?)
    }
}
