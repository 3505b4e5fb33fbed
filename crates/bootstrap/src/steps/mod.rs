//! What each action does. Every step may have been begun before: it asks first, and draws ids only once.

mod app;
mod generate;
mod route;
mod wait;

use serde_json::Value;

use crate::{cluster::Cluster, domain::manifest::Action, error::StepError, state::State};

/// What a step works with.
pub struct Context<'a> {
    /// The cluster.
    pub cluster: &'a Cluster,
    /// The memory.
    pub state: &'a mut State,
    /// Id of the step.
    pub id: &'a str,
    /// The controller's key, once drawn.
    pub controller_key: Option<String>,
}

impl Context<'_> {
    async fn controller(&self) -> Result<controller_client::Controller, StepError> {
        let lacks = "is missing: no gen-random step before this one has \"controller_key\": true";
        let key = self
            .controller_key
            .as_deref()
            .ok_or(StepError::Reference { step: "controller-key".into(), lacks })?;
        self.cluster.controller(key).await
    }
}

/// Carries a step out and gives its result.
pub async fn run(action: Action, context: Context<'_>) -> Result<Value, StepError> {
    match action {
        Action::RunApp(app) => app::run(*app, context).await,
        Action::AddApp(add) => app::add(add, context).await,
        Action::DeployApp(app) => app::deploy(*app, context).await,
        Action::ScaleApp(scale) => app::scale(scale, context).await,
        Action::RunJob { job } => app::run_job(job, context).await,
        Action::AddRoute(route) => route::add(*route, context).await,
        Action::GenRandom(random) => generate::random(random, context),
        Action::GenSshKey {} => generate::ssh_key(context),
        Action::GenTlsCert { hosts } => generate::tls_cert(&hosts, context),
        Action::Wait { url, status } => wait::until(&url, status, &context).await,
        Action::Log { output } => Ok(Value::String(output)),
    }
}
