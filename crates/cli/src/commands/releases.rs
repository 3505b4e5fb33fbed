//! `releases`, `release-show`, `release-delete`, `rollback`, `deployments`.

use anyhow::{Context, bail, ensure};
use api::{
    controller::{App, Deployment, DeploymentStatus, META_GIT_COMMIT, Release, Resource},
    id::ReleaseId,
};
use clap::Args;
use jiff::Timestamp;

use super::deploy::{self, Turn};
use crate::{
    args::Listing,
    domain::{
        releases::previous,
        resources::{brings_unknown_database, brought_back},
        table,
        time::ago,
    },
    output,
    session::{AppSession, Session},
};

#[derive(Debug, Args)]
pub(crate) struct RollbackArgs {
    /// Also to a release whose resource was removed since
    #[arg(short, long)]
    yes: bool,
    /// The release to go back to; the last that served something else if left out
    release: Option<ReleaseId>,
    #[command(flatten)]
    listing: Listing,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The release; the one that serves if left out
    release: Option<ReleaseId>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ReleaseDeleteArgs {
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// The release
    release: ReleaseId,
}

pub(crate) async fn show(session: &Session, args: &ShowArgs) -> anyhow::Result<()> {
    let target = session.app()?;
    let (_, release) = target.release_or_current(args.release).await?;
    if args.json {
        return output::json(&release);
    }
    let mut rows = vec![
        vec!["ID:".into(), release.id.to_string()],
        vec!["Created:".into(), release.created_at.to_string()],
    ];
    for id in &release.artifacts {
        let artifact = target.controller.artifact(*id).await?;
        rows.push(vec!["Artifact:".into(), artifact.uri]);
    }
    for (kind, process) in &release.processes {
        let command = process.entrypoint.iter().flatten().chain(&process.args);
        let command = shell_words::join(command.map(String::as_str));
        rows.push(vec![format!("Process {kind}:"), command]);
    }
    rows.extend(release.meta.iter().map(|(k, v)| vec![format!("Meta {k}:"), v.clone()]));
    rows.extend(release.env.iter().map(|(k, v)| vec![format!("Env {k}:"), v.clone()]));
    Ok(output::text(&table::render(&[], &rows))?)
}

pub(crate) async fn delete(session: &Session, args: &ReleaseDeleteArgs) -> anyhow::Result<()> {
    let target = session.app()?;
    let (app, release) = target.release_or_current(Some(args.release)).await?;
    if !args.yes {
        anyhow::ensure!(
            std::io::IsTerminal::is_terminal(&std::io::stdin()),
            "release {} would be gone for good; say -y to delete it without a question",
            release.id
        );
        let answer = output::ask(&format!(
            "This deletes release {} of {} for good. Type yes to go on: ",
            release.id, app.name
        ))?;
        anyhow::ensure!(answer == "yes", "nothing was deleted");
    }
    target.controller.delete_release(&target.name, release.id).await?;
    output::say(&format!("Deleted release {}.", release.id));
    Ok(())
}

pub(crate) async fn list(session: &Session, args: Listing) -> anyhow::Result<()> {
    let target = session.app()?;
    let app = target.app().await?;
    let releases = target.controller.releases(&target.name).await?;
    if args.json {
        return output::json(&releases);
    }
    if releases.is_empty() {
        output::say(&crate::session::no_release(&app.name));
        return Ok(());
    }
    let now = Timestamp::now();
    let row = |release: &Release| {
        let commit = release.meta.get(META_GIT_COMMIT).or(release.meta.get("commit"));
        let commit: String = commit.map(|c| c.chars().take(8).collect()).unwrap_or_default();
        let state = if app.release == Some(release.id) { "current" } else { "" };
        vec![release.id.to_string(), ago(release.created_at, now), commit, state.into()]
    };
    let rows: Vec<_> = releases.iter().map(row).collect();
    Ok(output::text(&table::render(&["ID", "CREATED", "COMMIT", "STATE"], &rows))?)
}

pub(crate) async fn rollback(session: &Session, args: &RollbackArgs) -> anyhow::Result<()> {
    let target = session.app()?;
    match args.release {
        Some(id) => {
            deploy::change(&target, args.listing, async |app, current| {
                let current = current.with_context(|| crate::session::no_release(&app.name))?;
                let wanted = target.release_or_current(Some(id)).await?.1;
                let goes = goes_back(&target, args, app, &current, &wanted).await?;
                Ok(goes.then_some(wanted.id))
            })
            .await
        }
        None => undo(&target, args).await,
    }
}

/// Goes back from what serves. That is about this release alone: made again from another, it would undo somebody else's
/// change.
async fn undo(target: &AppSession, args: &RollbackArgs) -> anyhow::Result<()> {
    let (app, current) = deploy::serving(target).await?;
    let current = current.with_context(|| crate::session::no_release(&app.name))?;
    let releases = target.controller.releases(&target.name).await?;
    let deployments = target.controller.deployments(&target.name).await?;
    let wanted = previous(&current, &releases, &deployments).with_context(|| {
        format!(
            "no release of {} before {} served; `flynn releases` lists all, `flynn rollback <id>` deploys one",
            app.name, current.id
        )
    })?;
    if !goes_back(target, args, &app, &current, wanted).await? {
        return if args.listing.json { output::json(&current) } else { Ok(()) };
    }
    if deploy::replace(target, args.listing, &app, wanted.id).await? == Turn::Taken {
        return Ok(());
    }
    let now = target.app().await?.release.filter(|now| *now != current.id);
    let now = now.map_or_else(|| "another release".to_owned(), |now| format!("release {now}"));
    bail!(
        "{now} was deployed meanwhile, so nothing was rolled back; `flynn releases` shows what there is, \
         `flynn rollback {}` goes back all the same",
        wanted.id
    )
}

/// Says where it goes. Not to where the app is, and not silently to a resource that is no longer there.
async fn goes_back(
    target: &AppSession,
    args: &RollbackArgs,
    app: &App,
    current: &Release,
    wanted: &Release,
) -> anyhow::Result<bool> {
    if wanted.id == current.id {
        output::say(&format!("Release {} serves already.", current.id));
        return Ok(false);
    }
    let resources = resources_of(target, app).await?;
    let (removed, kept): (Vec<_>, Vec<_>) =
        resources.into_iter().partition(|resource| resource.deleted_at.is_some());
    let back = brought_back(&wanted.env, &current.env, &removed);
    if !back.is_empty() {
        let ids: Vec<String> =
            back.iter().map(|r| format!("`flynn resource-restore {}`", r.id)).collect();
        let uses = format!("release {} uses what was removed since", wanted.id);
        let ids = ids.join(", ");
        ensure!(args.yes, "{uses}. Bring it back first: {ids}; or say -y to go back without it");
        output::say(&format!("The {uses}; {ids} brings it back."));
    }
    let known = [kept, removed].concat();
    if brings_unknown_database(&wanted.env, &current.env, &known) {
        output::say(&format!(
            "Release {} has the DATABASE_URL of a database that the app no longer has; `flynn resources` lists \
             what it has.",
            wanted.id
        ));
    }
    output::say(&format!("Rolling back from release {} to {}.", current.id, wanted.id));
    Ok(true)
}

/// The app's resources, also those that were removed and can be restored, with what they give.
async fn resources_of(target: &AppSession, app: &App) -> anyhow::Result<Vec<Resource>> {
    let mut resources = target.controller.resources(&target.name).await?;
    let all = target.controller.all_resources(true).await?;
    for removed in all.iter().filter(|r| r.deleted_at.is_some() && r.apps.contains(&app.id)) {
        match target.controller.resource(&removed.provider.to_string(), removed.id).await {
            Ok(resource) => resources.push(resource),
            // Destroyed this moment.
            Err(err) if err.is_not_found() => {}
            Err(err) => return Err(err.into()),
        }
    }
    Ok(resources)
}

pub(crate) async fn deployments(session: &Session, args: Listing) -> anyhow::Result<()> {
    let target = session.app()?;
    let deployments = target.controller.deployments(&target.name).await;
    let deployments = deployments.map_err(|err| target.explained(err))?;
    if args.json {
        return output::json(&deployments);
    }
    let now = Timestamp::now();
    let rows: Vec<_> = deployments.iter().map(|deployment| row(deployment, now)).collect();
    let table = table::render(&["ID", "STATUS", "CREATED", "FINISHED", "RELEASE"], &rows);
    let why =
        |d: &Deployment| d.error.as_ref().and_then(|why| why.lines().next().map(table::plain));
    let notes = std::iter::once(None).chain(deployments.iter().map(why));
    let lines = table.lines().zip(notes).map(|(line, why)| match why {
        Some(why) => format!("{line}\n  {why}\n"),
        None => format!("{line}\n"),
    });
    Ok(output::text(&lines.collect::<String>())?)
}

fn row(deployment: &Deployment, now: Timestamp) -> Vec<String> {
    let status = match deployment.status {
        DeploymentStatus::Pending => "pending",
        DeploymentStatus::Running => "running",
        DeploymentStatus::Complete => "complete",
        DeploymentStatus::Failed => "failed",
    };
    vec![
        deployment.id.to_string(),
        status.into(),
        ago(deployment.created_at, now),
        deployment.finished_at.map(|at| ago(at, now)).unwrap_or_default(),
        deployment.new_release.to_string(),
    ]
}
