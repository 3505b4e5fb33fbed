//! Volumes, and who uses the disk.

use api::{usage::Usage, volume::Volume};
use api_client::Error;

use crate::{Controller, escape};

impl Controller {
    /// What is kept of each app, the largest first.
    pub async fn usage(&self) -> Result<Vec<Usage>, Error> {
        self.client.get("/usage").await
    }

    /// The volumes of all hosts.
    pub async fn volumes(&self) -> Result<Vec<Volume>, Error> {
        self.client.get("/volumes").await
    }

    /// The volumes of an app.
    pub async fn app_volumes(&self, app: &str) -> Result<Vec<Volume>, Error> {
        self.client.get(&format!("/apps/{}/volumes", escape(app))).await
    }

    /// Removes a volume that is not in use, of an app or of one that is no more; of several hosts that have it, on the one
    /// named.
    pub async fn remove_volume(
        &self,
        app: Option<&str>,
        volume: &str,
        host: Option<&str>,
    ) -> Result<Volume, Error> {
        let of = app.map(|app| format!("/apps/{}", escape(app))).unwrap_or_default();
        let host = host.map(|host| format!("?host={}", escape(host))).unwrap_or_default();
        let path = format!("{of}/volumes/{}{host}", escape(volume));
        self.client.delete(&path).await
    }
}
