//! What the access log says about a request.

use std::net::SocketAddr;

use jiff::Timestamp;
use serde::Serialize;

/// A request that has ended.
#[derive(Debug, Serialize)]
pub(crate) struct Entry<'a> {
    /// When its head was there.
    pub(crate) at: Timestamp,
    /// From then to the end of the answer, or of the connection it was upgraded to, in milliseconds.
    pub(crate) ms: u64,
    /// The same to the moment it had a connection to a backend; 0 for a kept one, none where it got none.
    pub(crate) connect_ms: Option<u64>,
    /// The same to the head of the answer.
    pub(crate) service_ms: Option<u64>,
    pub(crate) request_id: &'a str,
    pub(crate) method: &'a str,
    pub(crate) host: &'a str,
    /// Without the query, in which there may be secrets.
    pub(crate) path: &'a str,
    /// `http` or `https`.
    pub(crate) proto: &'a str,
    /// `1.0`, `1.1` or `2`.
    pub(crate) version: &'static str,
    /// The client's address.
    pub(crate) client: &'a str,
    /// The route's id.
    pub(crate) route: Option<&'a str>,
    pub(crate) service: Option<&'a str>,
    /// The last that was tried.
    pub(crate) backend: Option<SocketAddr>,
    /// How often it was sent again.
    pub(crate) resent: u32,
    /// Of the request's body.
    pub(crate) bytes_in: u64,
    /// Of the answer's body.
    pub(crate) bytes_out: u64,
    /// 499 if the client went before there was one.
    pub(crate) status: u16,
    /// Empty where all is well.
    pub(crate) code: &'static str,
    /// What went wrong, in words.
    pub(crate) error: Option<&'a str>,
}
