//! Method and path → handler.

use axum::{
    Router, middleware,
    routing::{delete, get, post, put},
};

use crate::{
    cors,
    handlers::{
        apps, artifacts, builds, deployments, events, formations, git_deploys, images, jobs, keys,
        log, providers, releases, repositories, resources, routes as app_routes, run, sinks, usage,
        volumes,
    },
    scope::{self, Scopes},
    server::Controller,
};

pub(crate) fn routes(controller: Controller, accepted: Scopes) -> Router {
    of_an_app()
        .merge(others())
        .route_layer(middleware::from_fn_with_state(accepted, scope::require))
        .route("/ca-cert", get(app_routes::certificate))
        .method_not_allowed_fallback(daemon::serve::no_such_method)
        .layer(middleware::from_fn(cors::allow_all))
        .with_state(controller)
}

/// Apps, and what belongs to one.
fn of_an_app() -> Router<Controller> {
    Router::new()
        .route("/apps", get(apps::list).post(apps::create))
        .route("/apps/{app}", get(apps::show).post(apps::update).delete(apps::delete))
        .route("/apps/{app}/meta", post(apps::set_meta))
        .route("/apps/{app}/releases/{release}", delete(releases::delete))
        .route("/apps/{app}/release", get(releases::current).put(releases::set_current))
        .route("/apps/{app}/releases", get(releases::of_app))
        .route("/apps/{app}/formations", get(formations::of_app))
        .route(
            "/apps/{app}/formations/{release}",
            get(formations::show).put(formations::put).delete(formations::delete),
        )
        .route("/apps/{app}/scale/{release}", put(formations::scale))
        .route("/apps/{app}/jobs", get(jobs::of_app).post(run::run))
        .route("/apps/{app}/jobs/{job}", get(jobs::show).put(jobs::put).delete(jobs::stop))
        .route("/apps/{app}/git-deploys", post(git_deploys::deploy))
        .route("/apps/{app}/log", get(log::log))
        .route("/apps/{app}/deploy", post(deployments::deploy))
        .route("/apps/{app}/deployments", get(deployments::of_app))
        .route("/apps/{app}/routes", get(app_routes::of_app).post(app_routes::create))
        .route(
            "/apps/{app}/routes/{type}/{id}",
            get(app_routes::show).put(app_routes::replace).delete(app_routes::delete),
        )
        .route("/apps/{app}/gc", post(apps::collect))
        .route("/apps/{app}/volumes", get(volumes::of_app))
        .route("/apps/{app}/volumes/{volume}", get(volumes::show).delete(volumes::delete))
        .route("/apps/{app}/resources", get(resources::of_app))
        .route("/apps/{app}/repository", get(repositories::show))
        .route(
            "/apps/{app}/repository/lease",
            put(repositories::lease).delete(repositories::give_back),
        )
        .route("/apps/{app}/repository/refs", put(repositories::change_refs))
        .route("/apps/{app}/push", post(repositories::push))
}

/// What belongs to no app.
fn others() -> Router<Controller> {
    Router::new()
        .route("/releases", get(releases::list).post(releases::create))
        .route("/releases/{release}", get(releases::show))
        .route("/artifacts", get(artifacts::list).post(artifacts::create))
        .route("/artifacts/{artifact}", get(artifacts::show))
        .route("/images/{id}", get(images::show).put(images::put))
        .route("/routes", get(app_routes::list))
        .route("/sinks", get(sinks::list).post(sinks::create))
        .route("/sinks/{sink}", get(sinks::show).delete(sinks::delete))
        .route("/usage", get(usage::list))
        .route("/volumes", get(volumes::list))
        .route("/volumes/{volume}", delete(volumes::delete_left))
        .route("/formations", get(formations::all))
        .route("/active-jobs", get(jobs::active))
        .route("/deployments/{deployment}", get(deployments::show).delete(deployments::cancel))
        .route("/keys", get(keys::list).post(keys::create))
        .route("/keys/{fingerprint}", get(keys::show).delete(keys::delete))
        .route("/providers", get(providers::list).post(providers::create))
        .route("/providers/{provider}", get(providers::show).delete(providers::delete))
        .route(
            "/providers/{provider}/resources",
            get(resources::of_provider).post(resources::provision),
        )
        .route(
            "/providers/{provider}/resources/{resource}",
            get(resources::show).put(resources::put).delete(resources::remove),
        )
        .route("/builds/{build}", put(builds::turn).delete(builds::end))
        .route("/providers/{provider}/resources/{resource}/restore", post(resources::restore))
        .route(
            "/providers/{provider}/resources/{resource}/apps/{app}",
            put(resources::add_app).delete(resources::remove_app),
        )
        .route("/resources", get(resources::list))
        .route("/events", get(events::list))
        .route("/events/{event}", get(events::show))
}
