//! strowger's routes and API.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::certificate::CertificateStatus;

/// Sends what arrives for a domain or a port to a service.
///
/// Input may also have the 2014 form, with `domain`, `service`, `port`, `tls_cert` and `tls_key` inside `config`; see
/// [`NewRoute`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// `http` or `tcp`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `http/<hex>` or `tcp/<hex>`, 32 hex digits: MD5 of the domain (with its path) or of the decimal port.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Who owns it, `controller/apps/<app id>`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub parent_ref: String,
    /// The service in discoverd.
    pub service: String,
    /// Host name of an http route; lower case; may be `*.example.com` or `*`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Port of a tcp route; 0 on input: choose one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub port: u16,
    /// Path prefix of an http route, `/` if absent.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// PEM chain of an https route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_cert: Option<String>,
    /// PEM key; on input only, never answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_key: Option<String>,
    /// Keep a client on one backend.
    #[serde(default)]
    pub sticky: bool,
    /// Send to the service's leader only.
    #[serde(default)]
    pub leader: bool,
    /// Whether plain HTTP is answered by a redirect to HTTPS; if absent, where a certificate for the domain is served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect: Option<bool>,
    /// `Strict-Transport-Security` over HTTPS: the number of seconds for which browsers use HTTPS only. No
    /// header is sent if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hsts: Option<u32>,
    /// Stored first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Timestamp>,
    /// Stored last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<Timestamp>,
    /// How an http route stands with its certificate; told by routers, never stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_status: Option<CertificateStatus>,
}

fn is_zero(port: &u16) -> bool {
    *port == 0
}

/// A route as the controller answers it: flat, and once more in 2014's form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// The flat fields.
    #[serde(flatten)]
    pub route: Route,
    /// 2014's nesting.
    pub config: ShownConfig,
}

/// What 2014's clients read of a route.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields of Route")]
pub struct ShownConfig {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub domain: String,
    pub service: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub port: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_cert: Option<String>,
    #[serde(default)]
    pub sticky: bool,
}

impl From<Route> for Shown {
    fn from(route: Route) -> Self {
        let config = ShownConfig {
            domain: route.domain.clone(),
            service: route.service.clone(),
            port: route.port,
            tls_cert: route.tls_cert.clone(),
            sticky: route.sticky,
        };
        Self { route, config }
    }
}

/// What a router tells on `GET /events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterEvent {
    /// What happened.
    pub event: RouterEventKind,
    /// The route that is served, or is no more; without its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<Route>,
    /// The backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<RouterBackend>,
}

/// What can happen at a router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RouterEventKind {
    /// It serves a route, or serves it otherwise.
    Set,
    /// It serves a route no more.
    Remove,
    /// It sends requests of a routed service to a backend.
    BackendUp,
    /// It sends no new ones.
    BackendDown,
    /// None is under way to a backend that is down.
    BackendDrained,
}

/// A backend of a routed service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RouterBackend {
    /// The service.
    pub service: String,
    /// `ip:port`.
    pub addr: String,
}

/// A route as a client gives it: flat, or with 2014's `config`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct NewRoute {
    /// The flat fields.
    #[serde(flatten)]
    pub route: PartialRoute,
    /// 2014's nesting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<PartialRoute>,
}

/// The fields a client may give.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields of Route")]
pub struct PartialRoute {
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_ref: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_cert: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hsts: Option<u32>,
}

/// The flat form and `config` say different things of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is one thing and config.{0} another: leave one of them out")]
pub struct TwoRoutesError(pub &'static str);

impl NewRoute {
    /// One flat route out of both forms; nothing else is validated here. Who changes a route has read both forms of it and
    /// may have edited either: what differs from the route that is `stored` is what was meant.
    ///
    /// # Errors
    /// The field of which both forms say something, each something else.
    pub fn flatten(self, stored: Option<&Route>) -> Result<Route, TwoRoutesError> {
        let Self { route: flat, config } = self;
        let config = config.unwrap_or_default();
        macro_rules! one {
            ($field:ident, $name:literal) => {
                match (flat.$field, config.$field) {
                    (Some(flat), Some(nested)) if flat != nested => match stored {
                        Some(stored) if stored.$field == flat => nested,
                        Some(stored) if stored.$field == nested => flat,
                        _ => return Err(TwoRoutesError($name)),
                    },
                    (flat, nested) => nested.or(flat).unwrap_or_default(),
                }
            };
        }
        Ok(Route {
            kind: one!(kind, "type"),
            parent_ref: one!(parent_ref, "parent_ref"),
            service: one!(service, "service"),
            domain: one!(domain, "domain"),
            port: one!(port, "port"),
            path: one!(path, "path"),
            tls_cert: agreed(flat.tls_cert, config.tls_cert, "tls_cert")?,
            tls_key: agreed(flat.tls_key, config.tls_key, "tls_key")?,
            sticky: one!(sticky, "sticky"),
            leader: one!(leader, "leader"),
            redirect: agreed(flat.redirect, config.redirect, "redirect")?,
            hsts: agreed(flat.hsts, config.hsts, "hsts")?,
            ..Route::default()
        })
    }
}

/// What either form says of a field that may be left out.
fn agreed<T: PartialEq>(
    flat: Option<T>,
    nested: Option<T>,
    field: &'static str,
) -> Result<Option<T>, TwoRoutesError> {
    match (flat, nested) {
        (Some(flat), Some(nested)) if flat != nested => Err(TwoRoutesError(field)),
        (flat, nested) => Ok(nested.or(flat)),
    }
}

impl From<Route> for NewRoute {
    fn from(r: Route) -> Self {
        let some = |text: String| (!text.is_empty()).then_some(text);
        Self {
            route: PartialRoute {
                kind: some(r.kind),
                parent_ref: some(r.parent_ref),
                service: some(r.service),
                domain: some(r.domain),
                port: (r.port != 0).then_some(r.port),
                path: some(r.path),
                tls_cert: r.tls_cert,
                tls_key: r.tls_key,
                sticky: Some(r.sticky),
                leader: Some(r.leader),
                redirect: r.redirect,
                hsts: r.hsts,
            },
            config: None,
        }
    }
}

/// Answer to a stored or removed route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// The route.
    #[serde(flatten)]
    pub route: Route,
    /// etcd's revision of the change: `GET /sync?routes=<revision>` on a router answers when it serves it.
    #[serde(default)]
    pub revision: u64,
}

/// Query of `GET /sync`: answers 200 as soon as this router has seen both revisions, 503 after `timeout_ms`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sync {
    /// A revision of the routes.
    #[serde(default)]
    pub routes: u64,
    /// A revision of the services.
    #[serde(default)]
    pub services: u64,
    /// Longest wait; 10,000 if absent.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
}

fn default_timeout_ms() -> u64 {
    10_000
}

/// Query of `GET /drain`: answers when this router has no request under way to `addr`, having seen `services`.
///
/// After `timeout_ms` what is still open is closed, and counted in the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// The backend, `ip:port`.
    pub addr: String,
    /// The revision of its withdrawal.
    #[serde(default)]
    pub services: u64,
    /// Longest wait; 10,000 if absent.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
    /// Wait for requests only, and close nothing: what was upgraded stays open, so that the backend can say goodbye.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_open: bool,
}

/// Answer of `GET /drain`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// Requests and upgraded connections the router closed when the time was over.
    pub closed: u32,
    /// Those it left open.
    #[serde(default)]
    pub open: u32,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_two_forms_the_one_that_was_edited_is_meant() {
        let there = Route { kind: "http".into(), service: "old".into(), ..Route::default() };
        let service = |flat: &str, nested: &str, there: Option<&Route>| {
            let form = json!({ "service": flat, "config": { "service": nested } });
            let new: NewRoute = serde_json::from_value(form).unwrap();
            new.flatten(there).map(|route| route.service)
        };
        assert_eq!(service("new", "old", Some(&there)), Ok("new".into()));
        assert_eq!(service("old", "new", Some(&there)), Ok("new".into()));
        assert_eq!(service("new", "new", None), Ok("new".into()));
        assert_eq!(service("new", "other", Some(&there)), Err(TwoRoutesError("service")));
        assert_eq!(service("new", "old", None), Err(TwoRoutesError("service")));
    }
}
