//! What is a route, and what is not.

use std::{fmt, ops::RangeInclusive};

use api::route::Route;
use md5::{Digest, Md5};

use super::host::HOST_LIMIT;

/// Ports given to tcp routes that ask for none in particular.
pub(crate) const PORT_POOL: RangeInclusive<u16> = 3000..=3500;
/// Longest path prefix.
const PATH_LIMIT: usize = 1024;
/// Longest name of a service and of an owner.
const NAME_LIMIT: usize = 128;

/// What is wrong with a route: the field, and the rest of a sentence that begins with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Invalid {
    /// The field.
    pub(crate) field: &'static str,
    /// What is wrong.
    pub(crate) problem: String,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.field, self.problem)
    }
}

impl std::error::Error for Invalid {}

fn invalid<T>(field: &'static str, problem: impl Into<String>) -> Result<T, Invalid> {
    Err(Invalid { field, problem: problem.into() })
}

/// The route in its canonical form, with its id. Certificates are not looked at; a tcp route's port may be 0.
pub(crate) fn canonical(mut route: Route) -> Result<Route, Invalid> {
    check_service(&route.service)?;
    if route.parent_ref.len() > NAME_LIMIT
        || !route.parent_ref.bytes().all(|b| b.is_ascii_graphic())
    {
        return invalid("parent_ref", format!("must be at most {NAME_LIMIT} printable characters"));
    }
    match route.kind.as_str() {
        "http" => {
            route.domain = canonical_domain(&route.domain)?;
            route.path = canonical_path(&route.path)?;
            if route.port != 0 {
                return invalid(
                    "port",
                    "is for tcp routes only; an http route serves the router's own ports",
                );
            }
            if route.tls_cert.is_some() != route.tls_key.is_some() {
                return invalid("tls_cert", "and tls_key must be given together");
            }
        }
        "tcp" => {
            if route.sticky {
                return invalid("sticky", "is for http routes only: it needs cookies");
            }
            if !route.domain.is_empty() || !route.path.is_empty() {
                return invalid(
                    "domain",
                    "and path are for http routes only; a tcp route has a port",
                );
            }
            if route.tls_cert.is_some() || route.tls_key.is_some() {
                return invalid(
                    "tls_cert",
                    "is for http routes only; a tcp route passes on what it gets",
                );
            }
            if route.redirect.is_some() {
                return invalid("redirect", "is for http routes only");
            }
            if route.hsts.is_some() {
                return invalid("hsts", "is for http routes only");
            }
        }
        _ => return invalid("type", "must be http or tcp"),
    }
    route.id = id(&route);
    // It is told, not stored.
    route.certificate_status = None;
    Ok(route)
}

/// The id a canonical route has.
pub(crate) fn id(route: &Route) -> String {
    let key = match route.kind.as_str() {
        "tcp" => route.port.to_string(),
        _ => format!("{}{}", route.domain, route.path),
    };
    format!("{}/{}", route.kind, hex::encode(Md5::digest(key)))
}

fn check_service(service: &str) -> Result<(), Invalid> {
    let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if service.is_empty() || service.len() > NAME_LIMIT || !service.bytes().all(fine) {
        return invalid(
            "service",
            format!("must be 1 to {NAME_LIMIT} lower-case letters, digits and dashes"),
        );
    }
    Ok(())
}

fn canonical_domain(domain: &str) -> Result<String, Invalid> {
    let domain = domain.strip_suffix('.').unwrap_or(domain).to_ascii_lowercase();
    if domain.is_empty() {
        return invalid("domain", "is missing: give a host name, such as www.example.com");
    }
    if domain.contains(':') || domain.contains('/') {
        return invalid("domain", "must be a host name alone, without scheme, port and path");
    }
    if domain.len() > HOST_LIMIT {
        return invalid("domain", format!("is longer than {HOST_LIMIT} characters"));
    }
    let name = match domain.as_str() {
        "*" => return Ok(domain),
        _ => domain.strip_prefix("*.").unwrap_or(&domain),
    };
    for label in name.split('.') {
        if label.is_empty() || label.len() > 63 {
            return invalid("domain", "has an empty part, or one of more than 63 characters");
        }
        let fine = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if !label.bytes().all(fine) || label.starts_with('-') || label.ends_with('-') {
            return invalid(
                "domain",
                "may consist of letters, digits, dashes and dots; `*` stands alone or at the start as `*.`",
            );
        }
    }
    Ok(domain)
}

fn canonical_path(path: &str) -> Result<String, Invalid> {
    let short = path.trim_end_matches('/');
    if short.is_empty() {
        return match path {
            "" | "/" => Ok(String::new()),
            _ => invalid("path", "must not consist of several slashes"),
        };
    }
    let fine = |b: u8| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'*');
    if !short.starts_with('/') || short.len() > PATH_LIMIT || !short.bytes().all(fine) {
        return invalid(
            "path",
            format!(
                "must begin with a slash and be at most {PATH_LIMIT} characters, without ?, # and *"
            ),
        );
    }
    Ok(short.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn http(domain: &str, path: &str) -> Route {
        Route {
            kind: "http".into(),
            service: "app-web".into(),
            domain: domain.into(),
            path: path.into(),
            ..Route::default()
        }
    }

    fn wrong_field(route: Route) -> &'static str {
        canonical(route).unwrap_err().field
    }

    #[test]
    fn domains_and_paths_take_one_form() {
        let route = canonical(http("WWW.Example.com.", "/")).unwrap();
        assert_eq!((route.domain.as_str(), route.path.as_str()), ("www.example.com", ""));
        assert_eq!(route.id, format!("http/{}", hex::encode(Md5::digest("www.example.com"))));
        assert_eq!(canonical(http("a", "/x/")).unwrap().path, "/x");
        for fine in ["*", "*.a.b", "a_b.c", "127.0.0.1", "localhost", "xn--nxasmq6b.example"] {
            assert_eq!(canonical(http(fine, "")).unwrap().domain, fine);
        }
    }

    #[test]
    fn what_cannot_be_served_is_refused_by_field() {
        let long = format!("{}.com", "a.".repeat(130));
        for bad in [
            "",
            ".",
            "a..b",
            "a.*.b",
            "*a.b",
            "**",
            "a b",
            "http://a",
            "a:80",
            "a/b",
            "-a.b",
            "\u{fc}.com",
            &long,
        ] {
            assert_eq!(wrong_field(http(bad, "")), "domain", "{bad}");
        }
        for bad in ["x", "/a?b", "/a b", "//", "/\n"] {
            assert_eq!(wrong_field(http("a", bad)), "path", "{bad}");
        }
        assert_eq!(wrong_field(Route { kind: "udp".into(), ..http("a", "") }), "type");
        assert_eq!(wrong_field(Route { service: "A".into(), ..http("a", "") }), "service");
        assert_eq!(wrong_field(Route { tls_cert: Some("x".into()), ..http("a", "") }), "tls_cert");
        assert_eq!(wrong_field(Route { kind: "tcp".into(), ..http("a", "") }), "domain");
        assert_eq!(
            wrong_field(Route { kind: "tcp".into(), sticky: true, ..http("", "") }),
            "sticky"
        );
        let tcp = Route { kind: "tcp".into(), port: 3000, domain: String::new(), ..http("", "") };
        assert_eq!(wrong_field(Route { redirect: Some(false), ..tcp.clone() }), "redirect");
        assert_eq!(wrong_field(Route { hsts: Some(1), ..tcp }), "hsts");
    }

    proptest! {
        #[test]
        fn checking_never_panics_and_is_idempotent(domain: String, path: String, service in "[a-z]{1,3}") {
            if let Ok(once) = canonical(Route { service, ..http(&domain, &path) }) {
                prop_assert_eq!(canonical(once.clone()).unwrap(), once);
            }
        }
    }
}
