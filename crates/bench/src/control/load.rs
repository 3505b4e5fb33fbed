//! Those who ask.

use std::{cell::RefCell, time::Duration};

use api::{
    controller::{Job, JobState, NewFormation},
    id::JobId,
};
use futures_util::future::try_join_all;
use tokio::time::Instant;

use super::{ASKERS, World, followers::Followers};

/// What those who asked met.
pub(super) struct Load {
    /// Answers a second.
    pub(super) rate: f64,
    /// How long each took.
    pub(super) milliseconds: Vec<f64>,
}

/// The reads a scheduler, a CLI and a dashboard do most.
pub(super) async fn reads(
    world: &World,
    followers: &mut Followers,
    time: Duration,
) -> anyhow::Result<Load> {
    loaded(followers, time, async |number| {
        let (app, release) = &world.apps[number % world.apps.len()];
        let client = &world.client;
        match number % 4 {
            0 => drop(client.app(&app.name).await?),
            1 => drop(client.release(release.id).await?),
            2 => drop(client.formation(&app.name, release.id).await?),
            _ => drop(client.jobs(&app.name).await?),
        }
        Ok(())
    })
    .await
}

/// The writes of a scheduler and of those who scale.
pub(super) async fn writes(
    world: &World,
    followers: &mut Followers,
    time: Duration,
) -> anyhow::Result<Load> {
    loaded(followers, time, async |number| write(world, number).await).await
}

/// One write: three of four are the scheduler's.
pub(super) async fn write(world: &World, number: usize) -> anyhow::Result<()> {
    let (app, release) = &world.apps[number % world.apps.len()];
    if number.is_multiple_of(4) {
        let web = 1 + u32::try_from(number % 7)?;
        let formation = NewFormation { processes: [("web".to_owned(), web)].into() };
        world.client.put_formation(&app.name, release.id, &formation).await?;
        return Ok(());
    }
    let uuid = JobId::random();
    let job = Job {
        id: format!("host-{uuid}"),
        uuid,
        host_id: Some("host".into()),
        app: app.id,
        release: release.id,
        kind: "web".into(),
        state: JobState::Up,
        args: Vec::new(),
        exit_status: None,
        host_error: None,
        end_reason: None,
        run_at: None,
        restarts: 0,
        created_at: None,
        updated_at: None,
    };
    world.client.put_job(&job).await?;
    Ok(())
}

async fn loaded(
    followers: &mut Followers,
    time: Duration,
    ask: impl AsyncFn(usize) -> anyhow::Result<()>,
) -> anyhow::Result<Load> {
    let milliseconds = RefCell::new(Vec::new());
    let begin = Instant::now();
    let askers = (0..ASKERS).map(|asker| {
        let (ask, milliseconds) = (&ask, &milliseconds);
        async move {
            let mut number = asker;
            while begin.elapsed() < time {
                let asked = Instant::now();
                ask(number).await?;
                milliseconds.borrow_mut().push(asked.elapsed().as_secs_f64() * 1e3);
                number += ASKERS;
            }
            anyhow::Ok(())
        }
    });
    tokio::select! {
        asked = try_join_all(askers) => drop(asked?),
        read = followers.read() => read?,
    }
    let elapsed = begin.elapsed().as_secs_f64();
    let milliseconds = milliseconds.into_inner();
    Ok(Load { rate: milliseconds.len() as f64 / elapsed, milliseconds })
}
