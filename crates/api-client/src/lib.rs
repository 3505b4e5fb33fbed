#![doc = include_str!("../README.md")]

pub mod body;
mod endpoint;
mod error;
mod sse;

use std::{sync::Arc, time::Duration};

pub use endpoint::Endpoint;
pub use error::Error;
use futures_util::{Stream, StreamExt};
use reqwest::{
    Method, RequestBuilder, Response, StatusCode,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use serde::{Serialize, de::DeserializeOwned};
pub use sse::Decoder;
use tokio::time::Instant;

/// An upgraded connection: bytes both ways.
pub type Upgraded = reqwest::Upgraded;

/// Longest time to make a connection: services are near.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest time to an answer, unless the caller says otherwise.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest answer that is read as a whole, unless the caller says otherwise: more than any page of a list, less than would
/// cost a daemon its memory.
const ANSWER_LEN_MAX: usize = 256 << 20;
/// A stream on which not even a keep-alive comment came for so long is dead. Servers send one every 5 s.
const SILENCE: Duration = Duration::from_secs(16);
/// Rounds over all addresses before a request that may be repeated is given up.
const ROUNDS: u32 = 6;
/// Pause after the first round; doubles with each.
const PAUSE: Duration = Duration::from_millis(100);

/// A client of one service.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    endpoint: Endpoint,
    key: Option<String>,
    headers: Arc<HeaderMap>,
    timeout: Duration,
    rounds: u32,
    answer_len_max: usize,
}

impl Client {
    /// A client that sends `key` with every request.
    pub fn new(endpoint: impl Into<Endpoint>, key: Option<String>) -> Self {
        let http = reqwest::Client::builder()
            // What was asked of one is not done by another.
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(Duration::from_secs(20))
            // It would end a connection whose other end takes nothing for a while, as a job that does not read its stdin.
            .tcp_user_timeout(None)
            .tcp_nodelay(true)
            .http1_only()
            .no_proxy()
            .build()
            .expect("the options of the HTTP client are valid");
        Self::with_http(http, endpoint, key)
    }

    /// A client over a connector of the caller's own making (certificate pins, names of its own).
    pub fn with_http(
        http: reqwest::Client,
        endpoint: impl Into<Endpoint>,
        key: Option<String>,
    ) -> Self {
        let headers = Arc::default();
        Self {
            http,
            endpoint: endpoint.into(),
            key,
            headers,
            timeout: ANSWER_TIMEOUT,
            rounds: ROUNDS,
            answer_len_max: ANSWER_LEN_MAX,
        }
    }

    /// The same client with another limit on the time to an answer, after which no attempt is begun any more either.
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { timeout, ..self.clone() }
    }

    /// The same client that sends one header more with every request.
    ///
    /// # Panics
    /// When the value holds what no header may.
    pub fn with_header(&self, name: &'static str, value: &str) -> Self {
        let mut client = self.clone();
        let value = HeaderValue::from_str(value).expect("a header's value is plain text");
        Arc::make_mut(&mut client.headers).insert(HeaderName::from_static(name), value);
        client
    }

    /// The same client that tries each address once and repeats nothing.
    pub fn without_retries(&self) -> Self {
        Self { rounds: 1, ..self.clone() }
    }

    /// The same client that reads no answer of more bytes: for servers that are somebody else's.
    pub fn with_answer_limit(&self, bytes: usize) -> Self {
        Self { answer_len_max: bytes, ..self.clone() }
    }

    /// Where it goes.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// `GET`, answer parsed.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.json(Method::GET, path, None::<&()>).await
    }

    /// `POST`, answer parsed.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Error> {
        self.json(Method::POST, path, Some(body)).await
    }

    /// `PUT`, answer parsed.
    pub async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Error> {
        self.json(Method::PUT, path, Some(body)).await
    }

    /// `DELETE`, answer parsed.
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.json(Method::DELETE, path, None::<&()>).await
    }

    /// Any method, answer parsed; an empty answer reads as JSON `null`.
    pub async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, Error> {
        let response = self
            .send(method, path, |request| {
                let request = request.timeout(self.timeout);
                match body {
                    Some(body) => request.json(body),
                    None => request,
                }
            })
            .await?;
        let url = response.url().to_string();
        let bytes = body::read(response, self.answer_len_max).await?;
        let bytes: &[u8] = if bytes.is_empty() { b"null" } else { &bytes };
        serde_json::from_slice(bytes).map_err(|source| Error::Decode { url, source })
    }

    /// Sends a request that `build` completes (body, headers, timeout) and answers with any success (2xx), unread.
    ///
    /// `build` is called once an attempt.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        build: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, Error> {
        self.send_for(|status| status.is_success(), method, path, build).await
    }

    /// The same with what counts as a success.
    async fn send_for(
        &self,
        is_wanted: fn(StatusCode) -> bool,
        method: Method,
        path: &str,
        build: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, Error> {
        let repeatable =
            matches!(method, Method::GET | Method::HEAD | Method::PUT | Method::DELETE);
        let end = Instant::now() + self.timeout;
        let mut pause = PAUSE;
        let mut round = 1;
        loop {
            let err = match self.round(is_wanted, (&method, path), repeatable, end, &build).await {
                Ok(response) => return Ok(response),
                Err(err) => err,
            };
            let again = err.is_unsent() || (repeatable && err.is_retryable());
            if !again || round >= self.rounds || Instant::now() + pause >= end {
                return Err(err);
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
            round += 1;
        }
    }

    /// Tries each address in turn until one takes the request, or it is time to end.
    async fn round(
        &self,
        is_wanted: fn(StatusCode) -> bool,
        (method, path): (&Method, &str),
        repeatable: bool,
        end: Instant,
        build: &impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, Error> {
        let bases = self.endpoint.bases();
        let mut last = Error::NoInstance { service: self.endpoint.to_string() };
        for base in bases.iter() {
            let url = format!("{base}{path}");
            let mut request =
                self.http.request(method.clone(), &url).headers(HeaderMap::clone(&self.headers));
            if let Some(key) = &self.key {
                request = request.basic_auth("", Some(key));
            }
            last = match build(request).send().await {
                Ok(response) => match Error::of_response(response, is_wanted).await {
                    Ok(response) => return Ok(response),
                    Err(err) => err,
                },
                Err(source) => Error::transport(&url, source),
            };
            let again = last.is_unsent() || (repeatable && last.is_retryable());
            if !again || Instant::now() >= end {
                break;
            }
        }
        Err(last)
    }

    /// One subscription to an event stream, which ends with the connection or an error. Who needs a stream that goes on
    /// subscribes again and compares, for what happened meanwhile is not in it.
    pub async fn events<T: DeserializeOwned + Send + 'static>(
        &self,
        path: &str,
    ) -> Result<impl Stream<Item = Result<T, Error>> + Send + use<T>, Error> {
        let response = self
            .send(Method::GET, path, |request| request.header(header::ACCEPT, "text/event-stream"))
            .await?;
        let url = response.url().to_string();
        Ok(sse::events(url, response.bytes_stream().boxed(), SILENCE))
    }

    /// Asks for `Upgrade: <protocol>` and answers with the connection, once the server has said 101.
    pub async fn upgrade(
        &self,
        method: Method,
        path: &str,
        protocol: &str,
        body: &impl Serialize,
    ) -> Result<Upgraded, Error> {
        // Anybody else who says 101 has not done what was asked.
        let is_wanted =
            |status: StatusCode| status == StatusCode::SWITCHING_PROTOCOLS || status.is_success();
        let response = self
            .send_for(is_wanted, method, path, |request| {
                request
                    .header(header::CONNECTION, "Upgrade")
                    .header(header::UPGRADE, protocol)
                    .json(body)
            })
            .await?;
        let url = response.url().to_string();
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(Error::NotUpgraded { url, status: response.status().as_u16() });
        }
        response.upgrade().await.map_err(|source| Error::transport(&url, source))
    }
}
