//! Routes as people see and type them.

use api::{
    certificate::{CertificateIssuer, CertificateState, CertificateStatus},
    route::Route,
};
use url::Url;

/// `http:<domain>`, `https:<domain>` if it has a certificate, `tcp:<port>`.
pub(crate) fn label(route: &Route) -> String {
    match route.kind.as_str() {
        "tcp" => format!("tcp:{}", route.port),
        _ if has_certificate(route) => format!("https:{}{}", route.domain, path(route)),
        _ => format!("http:{}{}", route.domain, path(route)),
    }
}

/// Whether it has one of its own, or one is served for its domain.
fn has_certificate(route: &Route) -> bool {
    let is_served = |status: &CertificateStatus| status.state == CertificateState::Served;
    route.tls_cert.as_ref().is_some_and(|cert| !cert.is_empty())
        || route.certificate_status.as_ref().is_some_and(is_served)
}

fn path(route: &Route) -> &str {
    if route.path == "/" { "" } else { &route.path }
}

/// What there is to say of a route's HTTPS; nothing of most.
pub(crate) fn https(route: &Route) -> String {
    let status = route.certificate_status.as_ref().map(certificate);
    let redirect = match (has_certificate(route), route.redirect) {
        (_, Some(false)) => Some("HTTP stays".to_owned()),
        (true, _) => Some("HTTP redirects".to_owned()),
        (false, _) => None,
    };
    let hsts = route.hsts.map(|seconds| format!("HSTS {seconds} s"));
    status.into_iter().chain(redirect).chain(hsts).collect::<Vec<_>>().join(", ")
}

/// How a domain stands with its certificate.
fn certificate(status: &CertificateStatus) -> String {
    let issuer = match status.issuer {
        CertificateIssuer::Own => "own",
        CertificateIssuer::Automatic => "automatic",
    };
    let until = status.not_after.map(|end| format!(" until {}", end.strftime("%Y-%m-%d")));
    let why = status.problem.map(|problem| match &status.detail {
        Some(detail) => format!(": {problem} ({detail})"),
        None => format!(": {problem}"),
    });
    let next = status.next_try.map(|next| format!(", next try {}", next.strftime("%F %T UTC")));
    let (until, why, next) =
        (until.unwrap_or_default(), why.unwrap_or_default(), next.unwrap_or_default());
    match status.state {
        CertificateState::Served if why.is_empty() => format!("{issuer}{until}"),
        CertificateState::Served => format!("{issuer}{until}, not renewed{why}{next}"),
        CertificateState::Ordered => "ordered".to_owned(),
        CertificateState::Failing | CertificateState::Impossible => format!("none{why}{next}"),
    }
}

/// The address a browser takes for a route. Who reaches the controller over a port other than the usual one reaches the
/// apps, which are behind the same router, over the same.
pub(crate) fn web_url(route: &Route, controller: &Url) -> Option<String> {
    if route.kind != "http" || route.domain.contains('*') {
        return None;
    }
    let scheme = if label(route).starts_with("https:") { "https" } else { "http" };
    let port = controller.port().filter(|_| controller.scheme() == scheme);
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    Some(format!("{scheme}://{}{port}{}", route.domain, path(route)))
}

/// Domain and path of `www.example.com` or `www.example.com/blog/`.
pub(crate) fn domain_and_path(typed: &str) -> Result<(String, String), String> {
    let without_scheme = typed.strip_prefix("http://").or_else(|| typed.strip_prefix("https://"));
    let (domain, path) = without_scheme
        .unwrap_or(typed)
        .split_once('/')
        .unwrap_or((without_scheme.unwrap_or(typed), ""));
    let letter =
        |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.' || c == '*' || c == '_';
    if domain.is_empty() || !domain.chars().all(letter) || domain.starts_with(['.', '-']) {
        return Err(format!(
            "{typed:?} is not a domain: expected a host name like www.example.com, without port"
        ));
    }
    let path = if path.is_empty() { String::new() } else { format!("/{path}") };
    Ok((domain.to_ascii_lowercase(), path))
}

/// The id of the route that was meant: its id, or what the ROUTE column shows.
pub(crate) fn id_of<'a>(routes: &'a [Route], typed: &str) -> Option<&'a str> {
    let found = routes.iter().find(|r| r.id == typed || label(r) == typed || r.domain == typed);
    found.map(|route| route.id.as_str())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn http(domain: &str, cert: Option<&str>) -> Route {
        Route {
            kind: "http".into(),
            domain: domain.into(),
            tls_cert: cert.map(str::to_owned),
            ..Route::default()
        }
    }

    #[test]
    fn a_route_is_shown_as_in_2014() {
        assert_eq!(label(&http("a.b", None)), "http:a.b");
        assert_eq!(label(&http("a.b", Some("PEM"))), "https:a.b");
        let tcp = Route { kind: "tcp".into(), port: 2222, ..Route::default() };
        assert_eq!(label(&tcp), "tcp:2222");
    }

    #[test]
    fn what_is_said_of_https_is_what_differs_from_a_plain_route() {
        assert_eq!(https(&http("a.b", None)), "");
        assert_eq!(https(&http("a.b", Some("PEM"))), "HTTP redirects");
        let told = Route { redirect: Some(false), hsts: Some(60), ..http("a.b", Some("PEM")) };
        assert_eq!(https(&told), "HTTP stays, HSTS 60 s");
    }

    #[test]
    fn how_a_certificate_stands_is_told_with_the_reason() {
        let told = |json: &str| {
            let status = Some(serde_json::from_str(json).unwrap());
            https(&Route { certificate_status: status, ..http("a.b", None) })
        };
        let automatic =
            r#"{"issuer":"automatic","state":"served","not_after":"2027-03-01T00:00:00Z"}"#;
        assert_eq!(told(automatic), "automatic until 2027-03-01, HTTP redirects");
        assert_eq!(told(r#"{"issuer":"automatic","state":"ordered"}"#), "ordered");
        let failing = r#"{"issuer":"automatic","state":"failing","problem":"points-elsewhere",
            "detail":"at 1.2.3.4","next_try":"2026-12-01T04:05:06Z"}"#;
        let said = "none: DNS points elsewhere (at 1.2.3.4), next try 2026-12-01 04:05:06 UTC";
        assert_eq!(told(failing), said);
    }

    #[test]
    fn the_web_url_has_the_port_of_the_router() {
        let url = |route: &Route, controller: &str| web_url(route, &controller.parse().unwrap());
        let plain = http("a.localhost", None);
        assert_eq!(url(&plain, "http://c.localhost").unwrap(), "http://a.localhost");
        assert_eq!(url(&plain, "http://c.localhost:8080").unwrap(), "http://a.localhost:8080");
        assert_eq!(url(&plain, "https://c.localhost:8443").unwrap(), "http://a.localhost");
        let tls = http("a.localhost", Some("PEM"));
        assert_eq!(url(&tls, "https://c.localhost:8443").unwrap(), "https://a.localhost:8443");
        assert_eq!(url(&http("*.x", None), "http://c"), None);
    }

    #[test]
    fn a_domain_may_be_pasted_from_a_browser_and_nonsense_is_refused() {
        let ok = |typed, domain: &str, path: &str| {
            assert_eq!(domain_and_path(typed), Ok((domain.to_owned(), path.to_owned())));
        };
        ok("WWW.Example.com", "www.example.com", "");
        ok("http://a.b/", "a.b", "");
        ok("a.b/blog/", "a.b", "/blog/");
        ok("*.a.b", "*.a.b", "");
        for bad in ["", "a b", "a.b:80", ".a", "/x", "http://"] {
            assert!(domain_and_path(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "(https?://|[a-z.*]{1,5}|/|:|.){0,9}") {
            let _ = domain_and_path(&text);
        }
    }
}
