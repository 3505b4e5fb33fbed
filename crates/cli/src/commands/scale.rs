//! `scale`.

use std::time::{Duration, Instant};

use anyhow::bail;
use api::{
    controller::{Deployment, DeploymentStatus, ScaleRequest, Tags},
    error::ErrorCode,
    id::ReleaseId,
};
use clap::Args;
use controller_client::EventQuery;
use futures_util::{FutureExt, StreamExt};
use serde::Serialize;

use super::Usage;
use crate::{
    domain::{
        scale::{Asked, Counts, Standing, Wait, check, of_all_types, shown},
        time::took,
    },
    output,
    session::{AppSession, Session},
};

/// Even if no event comes, the jobs are looked at this often.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Longest wait beyond the app's deploy timeout: the time a host has to notice what failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// Times a change is made again because somebody else's came first.
const ATTEMPTS: u32 = 10;

#[derive(Debug, Args)]
pub(crate) struct ScaleArgs {
    /// Return at once
    #[arg(short, long)]
    no_wait: bool,
    /// Of this release instead of the current one
    #[arg(short, long)]
    release: Option<ReleaseId>,
    /// Show all formations, of other releases, too (`-a` alone means this, too)
    #[arg(long)]
    all: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// How many shall run, like web=2, or web=2,disk=ssd on hosts with that tag only (`,disk=` takes it away); what is not
    /// named stays as it is
    #[arg(value_name = "TYPE=COUNT[,TAG=VALUE]")]
    counts: Vec<String>,
}

pub(crate) async fn scale(session: &Session, args: &ScaleArgs) -> anyhow::Result<()> {
    let asked = Asked::parse(&args.counts).map_err(|err| Usage(err.to_string()))?;
    let target = session.app()?;
    if args.all && asked.counts.is_empty() {
        return show_all(&target, args.json).await;
    }
    if asked.counts.is_empty() {
        return show(&target, args).await;
    }
    for _ in 0..ATTEMPTS {
        if let Some(scaled) = try_scale(&target, args, &asked).await? {
            return if args.json { output::json(&scaled) } else { Ok(()) };
        }
        output::say("Somebody else scaled meanwhile; looking again.");
    }
    bail!("others scaled {ATTEMPTS} times meanwhile; try again")
}

async fn show(target: &AppSession, args: &ScaleArgs) -> anyhow::Result<()> {
    let (_, release) = target.release_or_current(args.release).await?;
    let (now, tags) = present(target, release.id).await?;
    if args.json {
        let processes = of_all_types(&now, &release);
        return output::json(&Present { release: release.id, processes, tags });
    }
    Ok(output::data(&shown(&now, &tags, &release))?)
}

/// What shall run, as JSON.
#[derive(Debug, Serialize)]
struct Present {
    release: ReleaseId,
    processes: Counts,
    tags: Tags,
}

/// How many of each type shall run, and on which hosts; during a deployment, when it has ended.
async fn present(target: &AppSession, release: ReleaseId) -> anyhow::Result<(Counts, Tags)> {
    match target.controller.formation(&target.name, release).await {
        Ok(formation) => Ok((formation.processes, formation.tags)),
        Err(err) if err.is_not_found() => {
            // The tags are the app's, whatever release was scaled.
            let all = target.controller.formations(&target.name).await?;
            let newest = all.into_iter().next();
            Ok((Counts::new(), newest.map(|formation| formation.tags).unwrap_or_default()))
        }
        Err(err) => Err(err.into()),
    }
}

/// Scales, and waits. Answers the counts before and after; nothing if what it was decided on was no longer so.
async fn try_scale(
    target: &AppSession,
    args: &ScaleArgs,
    asked: &Asked,
) -> anyhow::Result<Option<ScaleRequest>> {
    let (app, release) = target.release_or_current(args.release).await?;
    let (now, tags) = present(target, release.id).await?;
    let counts = &asked.counts;
    check(&now, counts, &release)?;
    let of = |kind: &String| now.get(kind).copied().unwrap_or_default();
    let changes = counts.iter().map(|(kind, n)| format!("{kind}: {} => {n}", of(kind)));
    output::say(&format!("scaling {}", changes.collect::<Vec<_>>().join(", ")));
    let began = Instant::now();
    let before = target.controller.current_jobs(&target.name).await?;
    // While the app is being deployed the new release's jobs count, too: the change goes to it.
    let only = (!is_deploying(target).await?).then_some(release.id);
    let mut wait = Wait::new(only, counts.clone(), &release, &before);
    let query = EventQuery { app: Some(app.id.to_string()), types: &["job"], since: None };
    let events = if args.no_wait { None } else { target.controller.events(&query).await.ok() };
    let (old_tags, new_tags) = asked.tags_changed(&tags);
    let tagged = !new_tags.is_empty();
    let change = ScaleRequest {
        old_processes: Some(counts.keys().map(|kind| (kind.clone(), of(kind))).collect()),
        new_processes: Some(counts.clone()),
        old_tags: tagged.then_some(old_tags),
        new_tags: tagged.then_some(new_tags),
        ..ScaleRequest::default()
    };
    let scaled = match target.controller.scale(&target.name, release.id, &change).await {
        Ok(scaled) => scaled,
        Err(err) if err.code() == Some(ErrorCode::Conflict) => return Ok(None),
        Err(err) => return Err(err.into()),
    };
    if args.no_wait {
        return Ok(Some(scaled));
    }
    let bound = Duration::from_secs(app.deploy_timeout.into()) + PATIENCE;
    // Without a stream of events the jobs are looked at now and then.
    let nudges = match events {
        Some(events) => events.map(drop).chain(futures_util::stream::pending()).boxed(),
        None => futures_util::stream::pending().boxed(),
    };
    until_done(target, &mut wait, nudges, bound).await?;
    output::say(&format!("scale completed in {}", took(began.elapsed())));
    Ok(Some(scaled))
}

async fn until_done(
    target: &AppSession,
    wait: &mut Wait,
    mut nudges: futures_util::stream::BoxStream<'_, ()>,
    bound: Duration,
) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + bound;
    loop {
        let standing = match target.controller.current_jobs(&target.name).await {
            Ok(jobs) => {
                let (lines, standing) = wait.look(&jobs);
                lines.iter().for_each(|line| output::say(line));
                standing
            }
            // The formation is stored; a controller that restarts meanwhile is no reason to stop watching.
            Err(err) if err.is_retryable() => {
                Standing::Going("the controller does not answer".into())
            }
            Err(err) => return Err(err.into()),
        };
        match standing {
            Standing::Done => return Ok(()),
            Standing::Hopeless(why) => bail!(
                "{why}\nFlynn goes on trying, ever more slowly. `flynn log` shows what the jobs say, `flynn ps` when \
                 the next try is; scale back to stop it"
            ),
            Standing::Going(how) if tokio::time::Instant::now() >= deadline => bail!(
                "not all serve after {}: {how}\nFlynn goes on. `flynn ps` and `flynn log` show more",
                took(bound)
            ),
            Standing::Going(_) => {}
        }
        let _ = tokio::time::timeout(LOOK_AGAIN, nudges.next()).await;
        // Events come in bursts; one look answers them all.
        while nudges.next().now_or_never().is_some() {}
    }
}

async fn is_deploying(target: &AppSession) -> anyhow::Result<bool> {
    let open =
        |d: &Deployment| matches!(d.status, DeploymentStatus::Pending | DeploymentStatus::Running);
    Ok(target.controller.deployments(&target.name).await?.iter().any(open))
}

async fn show_all(target: &AppSession, json: bool) -> anyhow::Result<()> {
    let formations = target.controller.formations(&target.name).await;
    let formations = formations.map_err(|err| target.explained(err))?;
    if json {
        return output::json(&formations);
    }
    for formation in &formations {
        let release = target.controller.release(formation.release).await?;
        let counts = shown(&formation.processes, &formation.tags, &release);
        output::data(&format!("{}  {counts}", formation.release))?;
    }
    Ok(())
}
