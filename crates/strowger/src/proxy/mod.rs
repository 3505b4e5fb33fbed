//! Passing on what clients send.

mod activity;
mod answer;
mod counted;
mod forward;
mod last;
mod lent;
mod listen;
mod record;
mod refuse;
mod request;
mod secure;
mod sticky;
mod tcp;
mod upgrade;

use std::net::IpAddr;

use http::HeaderValue;
pub(crate) use listen::{Listener, accept_http};
pub(crate) use tcp::TcpRoutes;

/// What is the same for all requests of a client's connection.
#[derive(Debug)]
struct Client {
    /// Its address.
    ip: HeaderValue,
    /// `http` or `https`.
    proto: HeaderValue,
    /// The port it came to.
    port: HeaderValue,
    is_secure: bool,
}

impl Client {
    fn new(ip: IpAddr, tls: bool, port: HeaderValue) -> Self {
        let ip = HeaderValue::from_str(&ip.to_canonical().to_string());
        Self {
            ip: ip.expect("an address is a header value"),
            proto: HeaderValue::from_static(if tls { "https" } else { "http" }),
            port,
            is_secure: tls,
        }
    }
}
