//! Those who follow all events.

use std::time::Duration;

use anyhow::{Context, bail};
use controller_client::{Controller, EventQuery};
use futures_util::{
    StreamExt,
    stream::{BoxStream, SelectAll, select_all},
};
use tokio::time::{Instant, timeout};

use super::{World, load};

/// Longest wait for all of them to be told.
const LIMIT: Duration = Duration::from_secs(60);

type Told = (usize, Result<i64, controller_client::Error>);

/// Streams of events, and the id of the last event that each has told.
pub(super) struct Followers {
    streams: SelectAll<BoxStream<'static, Told>>,
    last: Vec<i64>,
}

impl Followers {
    /// Begins to follow.
    pub(super) async fn start(client: &Controller, count: usize) -> anyhow::Result<Self> {
        let mut streams = Vec::with_capacity(count);
        for follower in 0..count {
            let events = client.events(&EventQuery::default()).await.context("following")?;
            let told =
                move |event: Result<api::controller::Event, _>| (follower, event.map(|e| e.id));
            streams.push(events.map(told).boxed());
        }
        Ok(Self { streams: select_all(streams), last: vec![0; count] })
    }

    /// Reads what comes, for ever.
    pub(super) async fn read(&mut self) -> anyhow::Result<()> {
        loop {
            self.next().await?;
        }
    }

    async fn next(&mut self) -> anyhow::Result<()> {
        let Some((follower, told)) = self.streams.next().await else { bail!("all streams ended") };
        let id = told.context("a stream broke")?;
        if id <= self.last[follower] {
            bail!("event {id} came after {}", self.last[follower]);
        }
        self.last[follower] = id;
        Ok(())
    }

    /// Milliseconds from each of some changes until the last follower knew of it.
    pub(super) async fn delays(
        &mut self,
        world: &World,
        changes: usize,
    ) -> anyhow::Result<Vec<f64>> {
        let mut milliseconds = Vec::with_capacity(changes);
        for number in 0..changes {
            let begin = Instant::now();
            load::write(world, number).await?;
            let newest = world.client.past_events(&EventQuery::default(), 1).await?;
            let newest = newest.first().context("a change makes an event")?.id;
            let all = async {
                while self.last.iter().any(|last| *last < newest) {
                    self.next().await?;
                }
                anyhow::Ok(())
            };
            timeout(LIMIT, all).await.context("not everybody was told")??;
            milliseconds.push(begin.elapsed().as_secs_f64() * 1e3);
        }
        Ok(milliseconds)
    }
}
