//! How an authority is talked to: HTTPS with bounds, and what it says of when to come again.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode, header::RETRY_AFTER};
use http_body_util::BodyExt;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use jiff::{Timestamp, fmt::rfc2822};

use super::settings::{AcmeSettings, SettingsError};

/// Longest time to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time to an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest answer.
const ANSWER_MAX: usize = 1 << 20;

/// The client that all calls of a router share.
pub(crate) fn client(settings: &AcmeSettings) -> Result<reqwest::Client, SettingsError> {
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("flynn-strowger/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(ANSWER_TIMEOUT)
        .https_only(true);
    let trusted = settings.ca()?;
    if !trusted.is_empty() {
        builder = builder.tls_certs_only(trusted);
    }
    builder.build().map_err(SettingsError::Client)
}

/// What one order makes its calls with.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    http: reqwest::Client,
    asked: Arc<Mutex<Option<Duration>>>,
}

impl Caller {
    pub(crate) fn new(http: reqwest::Client) -> Self {
        Self { http, asked: Arc::default() }
    }

    /// How long the authority asked to wait when it last refused for the time being.
    pub(crate) fn asked(&self) -> Option<Duration> {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn call(&self, request: Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, Error> {
        let (parts, body) = request.into_parts();
        let Ok(body) = body.collect().await;
        let body = body.to_bytes();
        let request = Request::from_parts(parts, body);
        let request = reqwest::Request::try_from(request).map_err(other)?;
        let mut response = self.http.execute(request).await.map_err(other)?;
        let mut text = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(other)? {
            if text.len() + piece.len() > ANSWER_MAX {
                return Err(Error::Str("an answer of the authority is too long"));
            }
            text.extend_from_slice(&piece);
        }
        let (parts, _) = http::Response::<reqwest::Body>::from(response).into_parts();
        if matches!(parts.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            let asked = parts.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
            let asked = asked.and_then(|text| pause(text, Timestamp::now()));
            *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = asked;
        }
        Ok(BytesResponse { parts, body: Box::new(Bytes::from(text)) })
    }
}

impl HttpClient for Caller {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let caller = self.clone();
        Box::pin(async move { caller.call(request).await })
    }
}

fn other(err: reqwest::Error) -> Error {
    Error::Other(Box::new(err))
}

/// `Retry-After`: seconds, or a date.
fn pause(text: &str, now: Timestamp) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let then = rfc2822::DateTimeParser::new().parse_timestamp(text.trim()).ok()?;
    Some(Duration::try_from(then.duration_since(now)).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_to_come_again_is_a_number_of_seconds_or_a_date() {
        let now = "2026-12-01T00:00:00Z".parse().unwrap();
        assert_eq!(pause("120", now), Some(Duration::from_secs(120)));
        let date = "Tue, 01 Dec 2026 01:00:00 GMT";
        assert_eq!(pause(date, now), Some(Duration::from_secs(3600)));
        assert_eq!(pause("Mon, 30 Nov 2026 01:00:00 GMT", now), Some(Duration::ZERO));
        assert_eq!(pause("soon", now), None);
    }
}
