//! Images that are pushed to the cluster.

use api::image::{IMAGE_TYPE, ImageId};
use api_client::Error;
use bytes::Bytes;
use futures_util::Stream;
use reqwest::{Body, Method, header};

use crate::Controller;

/// Longest time an image may take to be sent.
const UPLOAD_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(3600);

impl Controller {
    /// Whether the cluster has an image already.
    pub async fn has_image(&self, id: &ImageId) -> Result<bool, Error> {
        match self.client.get::<serde_json::Value>(&path(id)).await {
            Ok(_) => Ok(true),
            Err(err) if err.is_not_found() => Ok(false),
            Err(err) => Err(err),
        }
    }

    /// Sends a packed image, as `docker save` writes it. It can be sent only once, so nothing is tried again.
    pub async fn put_image<S>(&self, id: &ImageId, packed: S) -> Result<(), Error>
    where
        S: Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    {
        let body = std::sync::Mutex::new(Some(Body::wrap_stream(packed)));
        let once = self.client.without_retries();
        let build = |request: reqwest::RequestBuilder| {
            let body = body.lock().ok().and_then(|mut body| body.take()).unwrap_or_default();
            request.timeout(UPLOAD_TIMEOUT).header(header::CONTENT_TYPE, IMAGE_TYPE).body(body)
        };
        once.send(Method::PUT, &path(id), build).await.map(drop)
    }
}

fn path(id: &ImageId) -> String {
    format!("/images/{}", id.hex())
}
