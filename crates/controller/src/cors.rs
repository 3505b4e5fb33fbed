//! Browsers of any origin may ask: it is the key that admits, not the origin.

use axum::{
    extract::Request,
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderName, HeaderValue, Method, header};

const HEADERS: [(HeaderName, &str); 4] = [
    (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
    (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, POST, PUT, DELETE"),
    (
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        "Authorization, Accept, Content-Type, If-Match, If-None-Match, Last-Event-Id, X-Request-Id",
    ),
    (header::ACCESS_CONTROL_MAX_AGE, "3600"),
];

/// Middleware: answers what a browser asks before a request, and says with each answer that it may be read.
pub(crate) async fn allow_all(request: Request, next: Next) -> Response {
    let asks_before = request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if asks_before { ().into_response() } else { next.run(request).await };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    let exposed = HeaderValue::from_static("X-Request-Id");
    response.headers_mut().insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    response
}
