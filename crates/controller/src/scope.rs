//! What each key opens. The people's opens everything; gitreceived's, which lives beside processes that parse what strangers
//! push, what a push needs of apps that are not parts of Flynn.

use api::{
    controller::{App, META_SYSTEM_APP},
    error::ErrorCode,
};
use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use daemon::{ApiError, auth::Keys};
use http::Method;

use crate::{error::Result, server::Controller, store};

/// The keys that are accepted.
#[derive(Debug, Clone)]
pub(crate) struct Scopes {
    pub(crate) controller: Controller,
    /// Open everything.
    pub(crate) people: Keys,
    /// Open what a push needs.
    pub(crate) pushes: Keys,
}

/// What of the cluster a request of a push touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach<'a> {
    /// Nothing that is secret.
    Common,
    /// One app.
    App(&'a str),
    /// One release, which belongs to an app.
    Release(&'a str),
    /// More than a push needs.
    Beyond,
}

/// What a push may ask for.
pub(crate) fn reach<'a>(method: &Method, path: &'a str) -> Reach<'a> {
    // Nothing a push asks for has to be escaped, and what is escaped could be read otherwise elsewhere.
    if path.contains('%') {
        return Reach::Beyond;
    }
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match (method.as_str(), &segments[..]) {
        ("GET", ["keys" | "events"] | ["apps" | "deployments", _]) | ("POST", ["artifacts"]) => {
            Reach::Common
        }
        ("PUT" | "DELETE", ["builds", _]) => Reach::Common,
        ("GET", ["apps", app, "release" | "repository" | "deployments" | "routes"])
        | ("GET", ["apps", app, "formations", _])
        | ("PUT" | "DELETE", ["apps", app, "repository", "lease"])
        | ("PUT", ["apps", app, "repository", "refs"])
        | ("POST", ["apps", app, "push" | "jobs"]) => Reach::App(app),
        ("GET", ["releases", release]) => Reach::Release(release),
        _ => Reach::Beyond,
    }
}

/// Middleware: 401 without a key that opens what is asked for.
pub(crate) async fn require(
    State(scopes): State<Scopes>,
    request: Request,
    next: Next,
) -> Response {
    if scopes.people.accept(request.headers()) {
        return next.run(request).await;
    }
    if !scopes.pushes.accept(request.headers()) {
        let missing = "this needs a key, and the one given is missing or wrong";
        return ApiError::new(ErrorCode::Unauthorized, missing).into_response();
    }
    match is_within(&scopes.controller, request.method(), request.uri().path()).await {
        Ok(true) => next.run(request).await,
        Ok(false) => {
            let beyond = "the key of gitreceived opens only what a push to an app needs";
            ApiError::new(ErrorCode::Unauthorized, beyond).into_response()
        }
        Err(err) => err.into_response(),
    }
}

async fn is_within(controller: &Controller, method: &Method, path: &str) -> Result<bool> {
    let client = controller.db.client();
    let app = match reach(method, path) {
        Reach::Common => return Ok(true),
        Reach::Beyond => return Ok(false),
        Reach::App(app) => store::apps::find(&client.await?, app).await?,
        Reach::Release(id) => {
            let Ok(id) = id.parse() else { return Ok(false) };
            let client = client.await?;
            let release = store::releases::find(&client, id).await?;
            let Some(app) = release.app_id else { return Ok(false) };
            store::apps::find(&client, &app.to_string()).await?
        }
    };
    Ok(!is_system(&app))
}

/// Whether an app is a part of Flynn.
pub(crate) fn is_system(app: &App) -> bool {
    app.meta.get(META_SYSTEM_APP).is_some_and(|system| system == "true")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_push_reaches_its_app_and_nothing_that_deploys_or_opens_others() {
        let of = |method: &str, path| reach(&method.parse().unwrap(), path);
        for (method, path) in [("GET", "/keys"), ("GET", "/apps/a"), ("POST", "/artifacts")] {
            assert_eq!(of(method, path), Reach::Common, "{method} {path}");
        }
        for (method, path) in [
            ("GET", "/apps/a/release"),
            ("PUT", "/apps/a/repository/lease"),
            ("PUT", "/apps/a/repository/refs"),
            ("POST", "/apps/a/push"),
            ("POST", "/apps/a/jobs"),
        ] {
            assert_eq!(of(method, path), Reach::App("a"), "{method} {path}");
        }
        assert_eq!(of("GET", "/releases/r"), Reach::Release("r"));
        for (method, path) in [
            ("GET", "/apps"),
            ("GET", "/releases"),
            ("POST", "/keys"),
            ("DELETE", "/apps/a"),
            ("POST", "/apps/a"),
            ("POST", "/releases"),
            ("PUT", "/apps/a/release"),
            ("POST", "/apps/a/deploy"),
            ("PUT", "/apps/a/formations/r"),
            ("GET", "/apps/a/log"),
            ("POST", "/apps/a/git-deploys"),
            ("GET", "/apps/controlle%72/release"),
            ("GET", "/resources"),
            ("GET", "/formations"),
            ("GET", "/"),
        ] {
            assert_eq!(of(method, path), Reach::Beyond, "{method} {path}");
        }
    }

    proptest! {
        #[test]
        fn reading_never_panics_and_nothing_escaped_is_opened(path in "/[a-z/%0-9]{0,30}") {
            if path.contains('%') {
                prop_assert_eq!(reach(&Method::GET, &path), Reach::Beyond);
            }
            reach(&Method::POST, &path);
        }
    }
}
