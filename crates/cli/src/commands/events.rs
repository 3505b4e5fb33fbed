//! `events`.

use api::controller::Event;
use clap::Args;
use controller_client::{Controller, EventQuery};
use futures_util::{StreamExt, pin_mut};

use super::follow::while_there;
use crate::{domain::table::plain, output, session::Session};

/// Between two streams: a controller that ends them is being replaced.
const RECONNECT_DELAY: std::time::Duration = std::time::Duration::from_secs(1);

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Go on with what comes
    #[arg(short, long)]
    follow: bool,
    /// Only the last ones
    #[arg(short = 'n', long, alias = "number", value_name = "N", default_value_t = 50)]
    count: u32,
    /// Only events of these kinds of objects, as deployment,job,route
    #[arg(short = 't', long = "type", value_name = "TYPES", value_delimiter = ',')]
    types: Vec<String>,
    /// Of all apps, and of what belongs to none
    #[arg(long)]
    all: bool,
    /// As JSON, an event a line
    #[arg(long)]
    json: bool,
}

pub(crate) async fn events(session: &Session, args: &EventsArgs) -> anyhow::Result<()> {
    let (controller, app) = if args.all {
        (session.server()?.1, None)
    } else {
        let target = session.app()?;
        let app = target.app().await?.id;
        (target.controller, Some(app))
    };
    let types: Vec<&str> = args.types.iter().map(String::as_str).collect();
    let mut query = EventQuery { app: app.map(|app| app.to_string()), types: &types, since: None };
    // Also of none that are shown the last is known: what is followed comes after it.
    let past = controller.past_events(&query, args.count.max(1)).await?;
    for event in past.iter().take(usize::try_from(args.count)?).rev() {
        show(event, args.json)?;
    }
    if !args.follow {
        return Ok(());
    }
    query.since = Some(past.first().map_or(0, |event| event.id));
    let following = follow(&controller, query, args.json);
    match app {
        Some(app) => while_there(&controller, app, following).await,
        None => following.await,
    }
}

async fn follow(
    controller: &Controller,
    mut query: EventQuery<'_>,
    json: bool,
) -> anyhow::Result<()> {
    loop {
        let stream = controller.events(&query).await?;
        pin_mut!(stream);
        // A stream that ends is taken up where it ended; a controller that is gone for good is an error above.
        while let Some(Ok(event)) = stream.next().await {
            show(&event, json)?;
            query.since = Some(event.id);
        }
        tokio::time::sleep(RECONNECT_DELAY).await;
    }
}

fn show(event: &Event, json: bool) -> anyhow::Result<()> {
    if json {
        return Ok(output::data(&serde_json::to_string(event)?)?);
    }
    let text = |field: &str| event.data.get(field).and_then(serde_json::Value::as_str);
    let facts = ["type", "state", "status", "name", "error"].map(text);
    let facts: Vec<&str> =
        facts.into_iter().flatten().map(|text| text.lines().next().unwrap_or("")).collect();
    let Event { id, created_at, object_type, object_id, .. } = event;
    let line = format!("{created_at:.0} {id} {object_type} {object_id} {}", facts.join(" "));
    Ok(output::data(plain(&line).trim_end())?)
}
