//! From HTTP to HTTPS: the redirect, what browsers are told to remember, and what authorities are told before there is a
//! certificate.

use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode,
    header::{CONTENT_TYPE, HOST, LOCATION, STRICT_TRANSPORT_SECURITY},
    request::Parts,
};

use super::{Client, answer::Answer, request::Context};
use crate::{
    acme::{CHALLENGES, NONCES},
    domain::host,
    live::Target,
};

/// The port that an address needs not name.
const HTTPS_PORT: u16 = 443;

/// The answer to an authority, or to a router that finds out where a name leads. What is not theirs is the apps'.
pub(super) async fn well_known(context: &Context, parts: &Parts) -> Option<Response<Answer>> {
    let path = parts.uri.path();
    if !path.starts_with("/.well-known/") || !matches!(parts.method, Method::GET | Method::HEAD) {
        return None;
    }
    let acme = &context.live.acme;
    let text = if let Some(token) = path.strip_prefix(CHALLENGES) {
        let host = host::canonical(parts.headers.get(HOST)?.as_bytes())?;
        acme.authorization(&host, token).await?
    } else {
        acme.answer(path.strip_prefix(NONCES)?).await?
    };
    let mut response = Response::new(Answer::Own(Some(text.into())));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    Some(response)
}

/// The answer to a request that came over plain HTTP and shall come over HTTPS.
pub(super) fn redirect(
    context: &Context,
    parts: &Parts,
    target: &Target,
) -> Option<Response<Answer>> {
    if context.client.is_secure || !target.redirects() {
        return None;
    }
    if parts.uri.path().starts_with(CHALLENGES) {
        return None;
    }
    let host = host::canonical(parts.headers.get(HOST)?.as_bytes())?;
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let location = location(&host, context.live.https_port(), path)?;
    let status = status(&parts.method);
    let mut response = Response::new(Answer::Own(Some(format!("{status}\n").into())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(LOCATION, location);
    Some(response)
}

/// The same host and path over HTTPS.
fn location(host: &str, port: u16, path: &str) -> Option<HeaderValue> {
    let port = if port == HTTPS_PORT { String::new() } else { format!(":{port}") };
    HeaderValue::try_from(format!("https://{host}{port}{path}")).ok()
}

/// Clients make a GET of what is not one, but for 308.
fn status(method: &Method) -> StatusCode {
    match *method {
        Method::GET | Method::HEAD => StatusCode::MOVED_PERMANENTLY,
        _ => StatusCode::PERMANENT_REDIRECT,
    }
}

/// Tells browsers to take HTTPS only, where the route says so. Over plain HTTP it would mean nothing (RFC 6797 §7.2).
pub(super) fn announce(client: &Client, target: &Target, headers: &mut HeaderMap) {
    if let Some(hsts) = &target.hsts
        && client.is_secure
    {
        headers.insert(STRICT_TRANSPORT_SECURITY, hsts.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_path_and_query_stay_and_the_port_is_named_only_if_it_must_be() {
        let location = |host, port, path| location(host, port, path).unwrap();
        assert_eq!(location("a.example", 443, "/x?y=%20"), "https://a.example/x?y=%20");
        assert_eq!(location("a.example", 8443, "/"), "https://a.example:8443/");
        assert_eq!(location("[::1]", 443, "//b.example"), "https://[::1]//b.example");
    }
}
