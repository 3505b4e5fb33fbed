//! Method and path → handler.

use axum::{
    Router, middleware,
    routing::{get, post, put},
};

use crate::{
    handlers::{
        apps, artifacts, deployments, events, formations, jobs, keys, log, providers, releases,
        repositories, routes as app_routes, run,
    },
    scope::{self, Scopes},
    server::Controller,
};

pub(crate) fn routes(controller: Controller, accepted: Scopes) -> Router {
    let apps = Router::new()
        .route("/apps", get(apps::list).post(apps::create))
        .route("/apps/{app}", get(apps::show).post(apps::update).delete(apps::delete))
        .route("/apps/{app}/release", get(releases::current).put(releases::set_current))
        .route("/apps/{app}/releases", get(releases::of_app))
        .route("/apps/{app}/formations", get(formations::of_app))
        .route(
            "/apps/{app}/formations/{release}",
            get(formations::show).put(formations::put).delete(formations::delete),
        )
        .route("/apps/{app}/jobs", get(jobs::of_app).post(run::run))
        .route("/apps/{app}/jobs/{job}", get(jobs::show).put(jobs::put).delete(jobs::stop))
        .route("/apps/{app}/log", get(log::log))
        .route("/apps/{app}/deploy", post(deployments::deploy))
        .route("/apps/{app}/deployments", get(deployments::of_app))
        .route("/apps/{app}/routes", get(app_routes::of_app).post(app_routes::create))
        .route("/apps/{app}/routes/{type}/{id}", get(app_routes::show).delete(app_routes::delete))
        .route("/apps/{app}/resources", get(providers::resources_of_app))
        .route("/apps/{app}/repository", get(repositories::show))
        .route(
            "/apps/{app}/repository/lease",
            put(repositories::lease).delete(repositories::give_back),
        )
        .route("/apps/{app}/repository/refs", put(repositories::change_refs))
        .route("/apps/{app}/push", post(repositories::push));
    let others = Router::new()
        .route("/releases", get(releases::list).post(releases::create))
        .route("/releases/{release}", get(releases::show))
        .route("/artifacts", get(artifacts::list).post(artifacts::create))
        .route("/artifacts/{artifact}", get(artifacts::show))
        .route("/formations", get(formations::all))
        .route("/active-jobs", get(jobs::active))
        .route("/deployments/{deployment}", get(deployments::show))
        .route("/keys", get(keys::list).post(keys::create))
        .route("/keys/{fingerprint}", get(keys::show).delete(keys::delete))
        .route("/providers", get(providers::list).post(providers::create))
        .route("/providers/{provider}", get(providers::show))
        .route(
            "/providers/{provider}/resources",
            get(providers::resources).post(providers::provision),
        )
        .route(
            "/providers/{provider}/resources/{resource}",
            get(providers::resource).put(providers::put_resource),
        )
        .route("/events", get(events::list))
        .route("/events/{event}", get(events::show));
    apps.merge(others)
        .route_layer(middleware::from_fn_with_state(accepted, scope::require))
        .with_state(controller)
}
