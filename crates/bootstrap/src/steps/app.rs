//! Apps: started on hosts, told to the controller, deployed through it, scaled.

use std::collections::BTreeMap;

use api::{
    controller::{
        App, Artifact, JobState, NewApp, NewArtifact, NewFormation, NewProvider, NewRelease,
        NewResource, Provisioned, Release,
    },
    error::ErrorCode,
    expand,
    id::{AppId, ArtifactId, JobId, ReleaseId},
};
use controller_client::Controller;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Context;
use crate::{
    cluster::Seen,
    domain::manifest::{self, AddApp, ResourceSpec, RunApp, ScaleApp},
    error::StepError,
};

/// Result of `run-app` and `deploy-app`: all that later steps need of the app.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Running {
    app: App,
    release: Release,
    artifact: Artifact,
    processes: BTreeMap<String, u32>,
    resources: Vec<Made>,
}

/// A resource and who made it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Made {
    name: String,
    url: String,
    made: Provisioned,
}

/// The app a step made.
pub(super) fn app_id(results: &BTreeMap<String, Value>, step: &str) -> Result<String, StepError> {
    Ok(running(results, step)?.app.id.to_string())
}

fn running(results: &BTreeMap<String, Value>, step: &str) -> Result<Running, StepError> {
    let lacks = "has made no app";
    let missing = || StepError::Reference { step: step.into(), lacks };
    let result = results.get(step).ok_or_else(missing)?;
    serde_json::from_value(result.clone()).map_err(|_| missing())
}

/// `run-app`: starts the processes through sampi, with ids drawn before.
pub(super) async fn run(spec: RunApp, mut context: Context<'_>) -> Result<Value, StepError> {
    let running = prepare(&spec, &mut context).await?;
    for (kind, count) in &running.processes {
        for number in 0..*count {
            let name = format!("job-{kind}-{number}");
            let job = context.state.draw(context.id, &name, JobId::random)?;
            let artifacts = [running.artifact.clone()];
            let job = expand::process_job(job, &running.app, &running.release, &artifacts, kind)
                .map_err(StepError::Release)?;
            context.cluster.run(&job).await?;
        }
    }
    serde_json::to_value(running).map_err(StepError::Fields)
}

/// Everything about an app that is known before it runs; its resources are made.
async fn prepare(spec: &RunApp, context: &mut Context<'_>) -> Result<Running, StepError> {
    let (state, id) = (&mut *context.state, context.id);
    let now = state.draw(id, "now", Timestamp::now)?;
    let app = App {
        id: state.draw(id, "app", AppId::random)?,
        name: spec.app.name.clone(),
        meta: spec.app.meta.clone(),
        strategy: spec.app.strategy,
        release: None,
        deploy_timeout: 120,
        created_at: now,
        updated_at: now,
    };
    let artifact = Artifact {
        id: state.draw(id, "artifact", ArtifactId::random)?,
        kind: spec.artifact.kind,
        uri: spec.artifact.uri.clone(),
        meta: BTreeMap::new(),
        created_at: now,
    };
    let release_id = state.draw(id, "release", ReleaseId::random)?;
    let mut env = spec.release.env.clone();
    let mut resources = Vec::new();
    for resource in &spec.resources {
        let made = provision(resource, context).await?;
        env.extend(made.made.env.clone());
        resources.push(made);
    }
    let release = Release {
        id: release_id,
        app_id: Some(app.id),
        artifacts: vec![artifact.id],
        env,
        meta: BTreeMap::new(),
        processes: spec.release.processes.clone(),
        created_at: now,
    };
    Ok(Running { app, release, artifact, processes: spec.processes.clone(), resources })
}

/// Asks a provider for a resource, once.
async fn provision(resource: &ResourceSpec, context: &mut Context<'_>) -> Result<Made, StepError> {
    let name = format!("resource-{}", resource.name);
    if let Some(made) = context.state.step(context.id).drawn.get(&name) {
        return serde_json::from_value(made.clone()).map_err(StepError::Fields);
    }
    let bad = || StepError::Url(resource.url.clone());
    let rest = resource.url.strip_prefix("discoverd+http://").ok_or_else(bad)?;
    let (service, path) = rest.split_once('/').ok_or_else(bad)?;
    let cluster = context.cluster;
    let base = cluster.until(service, || cluster.service(service)).await?;
    let client = api_client::Client::new(base, Some(cluster.service_key(service)));
    let doing = format!("asking {} for a resource", resource.name);
    let made: Provisioned =
        client.post(&format!("/{path}"), &json!({})).await.map_err(StepError::request(doing))?;
    let made = Made { name: resource.name.clone(), url: resource.url.clone(), made };
    Ok(context.state.draw(context.id, &name, || made)?)
}

/// `add-app`: the controller learns of what a `run-app` step started, under the same ids.
pub(super) async fn add(add: AddApp, context: Context<'_>) -> Result<Value, StepError> {
    let running = running(&context.state.results(), &add.from_step)?;
    let controller = context.controller().await?;
    record(&controller, &running).await?;
    set_release(&controller, &running).await?;
    serde_json::to_value(running).map_err(StepError::Fields)
}

/// `deploy-app`: created through the controller; done when every process is up.
pub(super) async fn deploy(spec: RunApp, mut context: Context<'_>) -> Result<Value, StepError> {
    let running = prepare(&spec, &mut context).await?;
    let controller = context.controller().await?;
    record(&controller, &running).await?;
    let what = format!("app {} to be up", running.app.name);
    context.cluster.until(&what, || all_up(&controller, &running)).await?;
    set_release(&controller, &running).await?;
    serde_json::to_value(running).map_err(StepError::Fields)
}

async fn all_up(controller: &Controller, running: &Running) -> Result<(), Seen> {
    let jobs = controller.current_jobs(&running.app.id.to_string()).await.map_err(Seen::not_yet)?;
    let up = |kind: &String| {
        let same = |job: &&api::controller::Job| job.kind == *kind && job.state == JobState::Up;
        jobs.iter().filter(same).count()
    };
    if running.processes.iter().all(|(kind, count)| up(kind) >= *count as usize) {
        return Ok(());
    }
    let seen: Vec<String> = jobs
        .iter()
        .map(|job| {
            let said = job.host_error.clone().unwrap_or_default();
            format!("{} {:?} {said}", job.kind, job.state)
        })
        .collect();
    Err(Seen::NotYet(if seen.is_empty() { "no job yet".into() } else { seen.join(", ") }))
}

/// App, artifact, release, resources and formation, each unless it is there.
async fn record(controller: &Controller, running: &Running) -> Result<(), StepError> {
    let Running { app, release, artifact, processes, resources } = running;
    let id = app.id.to_string();
    let new = NewApp {
        id: Some(app.id),
        name: Some(app.name.clone()),
        meta: Some(app.meta.clone()),
        strategy: Some(app.strategy),
        deploy_timeout: Some(app.deploy_timeout),
    };
    if !exists(controller.app(&id).await, &id)? {
        let doing = format!("creating app {}", app.name);
        unless_there(controller.create_app(&new).await, doing)?;
    }
    let new = NewArtifact {
        id: Some(artifact.id),
        kind: artifact.kind,
        uri: artifact.uri.clone(),
        meta: artifact.meta.clone(),
    };
    let doing = format!("creating the artifact of {}", app.name);
    let stored = controller.create_artifact(&new).await.map_err(StepError::request(doing))?;
    if !exists(controller.release(release.id).await, &id)? {
        let new = NewRelease {
            id: Some(release.id),
            app_id: Some(app.id),
            artifacts: vec![stored.id],
            env: release.env.clone(),
            meta: release.meta.clone(),
            processes: release.processes.clone(),
        };
        let doing = format!("creating the release of {}", app.name);
        unless_there(controller.create_release(&new).await, doing)?;
    }
    for resource in resources {
        record_resource(controller, app, resource).await?;
    }
    if !exists(controller.formation(&id, release.id).await, &id)? {
        let doing = format!("storing the formation of {}", app.name);
        let wanted = NewFormation { processes: processes.clone() };
        let put = controller.put_formation(&id, release.id, &wanted).await;
        put.map_err(StepError::request(doing))?;
    }
    Ok(())
}

async fn record_resource(controller: &Controller, app: &App, made: &Made) -> Result<(), StepError> {
    let doing = format!("recording provider {}", made.name);
    let new = NewProvider { url: made.url.clone(), name: made.name.clone(), key: None };
    unless_there(controller.create_provider(&new).await, doing)?;
    let doing = format!("recording the resource of {}", app.name);
    let known = controller.provider_resources(&made.name).await;
    let known = known.map_err(StepError::request(doing.clone()))?;
    if known.iter().any(|resource| resource.external_id == made.made.id) {
        return Ok(());
    }
    let new = NewResource {
        apps: vec![app.id.to_string()],
        config: Value::Null,
        external_id: Some(made.made.id.clone()),
        env: made.made.env.clone(),
    };
    unless_there(controller.provision(&made.name, &new).await, doing)
}

async fn set_release(controller: &Controller, running: &Running) -> Result<(), StepError> {
    let path = format!("/apps/{}/release", running.app.id);
    let doing = format!("setting the release of {}", running.app.name);
    let body = json!({ "id": running.release.id });
    let set: Result<Value, _> = controller.client().put(&path, &body).await;
    set.map(drop).map_err(StepError::request(doing))
}

fn exists<T>(found: Result<T, api_client::Error>, id: &str) -> Result<bool, StepError> {
    match found {
        Ok(_) => Ok(true),
        Err(err) if err.is_not_found() => Ok(false),
        Err(source) => Err(StepError::Request { doing: format!("looking up app {id}"), source }),
    }
}

fn unless_there<T>(made: Result<T, api_client::Error>, doing: String) -> Result<(), StepError> {
    match made {
        Ok(_) => Ok(()),
        Err(err) if err.code() == Some(ErrorCode::ObjectExists) => Ok(()),
        Err(source) => Err(StepError::Request { doing, source }),
    }
}

/// `scale-app`.
pub(super) async fn scale(scale: ScaleApp, context: Context<'_>) -> Result<Value, StepError> {
    let running = running(&context.state.results(), &scale.app_step)?;
    let controller = context.controller().await?;
    let doing = format!("scaling app {}", running.app.name);
    let wanted = NewFormation { processes: scale.processes };
    let app = running.app.id.to_string();
    let put = controller.put_formation(&app, running.release.id, &wanted).await;
    put.map_err(StepError::request(doing))?;
    Ok(json!({}))
}

/// `run-job`.
pub(super) async fn run_job(job: Value, context: Context<'_>) -> Result<Value, StepError> {
    let id = context.state.draw(context.id, "job", JobId::random)?;
    let job = manifest::job(job, id).map_err(StepError::Fields)?;
    let host = context.cluster.run(&job).await?;
    Ok(json!({ "host_id": host, "job_id": job.id }))
}
