//! `add-route`.

use api::route::Route;
use serde_json::{Value, json};

use super::Context;
use crate::{domain::manifest::AddRoute, error::StepError};

/// Creates the route unless the app has it.
pub(super) async fn add(add: AddRoute, context: Context<'_>) -> Result<Value, StepError> {
    let results = context.state.results();
    let app = super::app::app_id(&results, &add.app_step)?;
    let mut route = add.route.flatten(None)?;
    if let Some(step) = &add.cert_step {
        let lacks = "has made no certificate";
        let missing = || StepError::Reference { step: step.clone(), lacks };
        let cert = results.get(step).ok_or_else(missing)?;
        let field = |name| cert.get(name).and_then(Value::as_str).map(str::to_owned);
        route.tls_cert = Some(field("cert").ok_or_else(missing)?);
        route.tls_key = Some(field("private_key").ok_or_else(missing)?);
    }
    let controller = context.controller().await?;
    let doing = format!("listing the routes of app {app}");
    let routes = controller.routes(&app).await.map_err(StepError::request(doing))?;
    if let Some(known) = routes.iter().find(|known| same(known, &route)) {
        return Ok(json!({ "app": app, "route": known.id }));
    }
    let doing = format!("creating a route for {}", name(&route));
    let made = controller.create_route(&app, &route.into()).await;
    let made = made.map_err(StepError::request(doing))?;
    Ok(json!({ "app": app, "route": made.id }))
}

fn same(a: &Route, b: &Route) -> bool {
    a.kind == b.kind && a.domain == b.domain && a.port == b.port && a.service == b.service
}

fn name(route: &Route) -> String {
    if route.kind == "tcp" { format!("port {}", route.port) } else { route.domain.clone() }
}
