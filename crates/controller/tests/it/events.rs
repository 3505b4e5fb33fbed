use std::collections::BTreeMap;

use api::{
    controller::{Event, ExpandedFormation, NewApp, NewFormation},
    error::ErrorCode,
};
use controller_client::EventQuery;
use futures_util::{StreamExt, future, pin_mut, stream};

use crate::world::World;

#[tokio::test]
async fn a_reader_misses_no_event_of_many_writers_and_sees_them_in_order() {
    let world = World::start().await;
    let client = &world.client;
    let query = EventQuery { types: &["app"], since: Some(0), ..EventQuery::default() };
    let events = client.events(&query).await.unwrap();
    pin_mut!(events);
    let writers = (0..8).map(|writer| async move {
        for number in 0..10 {
            let meta = [("flynn-system-app".to_owned(), "true".to_owned())].into();
            let name = Some(format!("app-{writer}-{number}"));
            client
                .create_app(&NewApp { name, meta: Some(meta), ..NewApp::default() })
                .await
                .unwrap();
        }
    });
    let (_, seen) = tokio::join!(
        future::join_all(writers),
        events.by_ref().take(80).map(Result::unwrap).collect::<Vec<_>>()
    );
    assert!(
        seen.is_sorted_by(|a, b| a.id < b.id),
        "{:?}",
        seen.iter().map(|e| e.id).collect::<Vec<_>>()
    );
    let names: std::collections::BTreeSet<_> =
        seen.iter().map(|event| event.data["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names.len(), 80);

    // Going on after any of them gives exactly the rest.
    let middle = seen[39].id;
    let rest = client.events(&EventQuery { since: Some(middle), ..query }).await.unwrap();
    let rest: Vec<_> = rest.take(40).map(|event| event.unwrap().id).collect().await;
    assert_eq!(rest, seen[40..].iter().map(|event| event.id).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_formation_stream_has_all_there_is_then_every_change_even_across_a_dead_database() {
    let world = World::start().await;
    let client = &world.client;
    let app = world.app("one").await;
    let release = world.release(&app, &["web", "worker"], "serve").await;
    let put = async |web: u32| {
        let formation = NewFormation { processes: [("web".to_owned(), web)].into() };
        client.put_formation("one", release.id, &formation).await
    };
    put(1).await.unwrap();
    let formations = client.stream_formations(None).await.unwrap();
    pin_mut!(formations);
    let backlog = formations.next().await.unwrap().unwrap().unwrap();
    assert_eq!(backlog.processes, BTreeMap::from([("web".to_owned(), 1)]));
    assert_eq!((backlog.app.id, backlog.release.id), (app.id, release.id));
    assert_eq!(backlog.artifacts.len(), 1);
    assert_eq!(formations.next().await.unwrap().unwrap(), None);

    put(2).await.unwrap();
    assert_eq!(web(&next(&mut formations).await), 2);
    world.postgres.lock().await.restart().await;
    testkit::wait_until("the formation can be changed", async || put(3).await).await;
    assert_eq!(web(&until(&mut formations, 3).await), 3);

    client.delete_formation("one", release.id).await.unwrap();
    assert_eq!(until(&mut formations, 0).await.processes, BTreeMap::new());
    // One that was deleted is not in the backlog of all there is.
    let again = client.stream_formations(None).await.unwrap();
    let first = again.take(1).collect::<Vec<_>>().await;
    assert_eq!(first[0].as_ref().unwrap(), &None);
}

type Item = Result<Option<ExpandedFormation>, controller_client::Error>;

async fn next(formations: &mut (impl stream::Stream<Item = Item> + Unpin)) -> ExpandedFormation {
    let item = tokio::time::timeout(testkit::LIMIT, formations.next()).await.unwrap();
    item.unwrap().unwrap().unwrap()
}

/// The same change may be told twice, never an older state after a newer one.
async fn until(
    formations: &mut (impl stream::Stream<Item = Item> + Unpin),
    count: u32,
) -> ExpandedFormation {
    loop {
        let formation = next(formations).await;
        if web(&formation) == count {
            return formation;
        }
    }
}

fn web(formation: &ExpandedFormation) -> u32 {
    formation.processes.get("web").copied().unwrap_or_default()
}

#[tokio::test]
async fn a_reader_that_fell_behind_misses_nothing_and_one_whose_filter_matches_nothing_costs_nothing()
 {
    let world = World::start().await;
    let client = &world.client;
    let none = EventQuery { types: &["no-such-type"], since: Some(0), ..EventQuery::default() };
    let none = client.events(&none).await.unwrap();
    let query = EventQuery { types: &["flood"], since: Some(0), ..EventQuery::default() };
    let slow = client.events(&query).await.unwrap();
    pin_mut!(slow);
    // More than is kept for those who are behind, and more than fits into the connection.
    world
        .sql(
            "INSERT INTO events (event_id, object_type, object_id, data) \
             SELECT nextval('event_ids'), 'flood', n::text, to_jsonb(repeat('x', 4000)) \
             FROM generate_series(1, 6000) n; SELECT pg_notify('events', '')",
        )
        .await;
    // Another is served meanwhile, from now on and from the newest few.
    let app = world.app("one").await;
    let last = EventQuery { types: &["app"], since: Some(0), ..EventQuery::default() };
    let seen = client.events(&last).await.unwrap().take(1).collect::<Vec<_>>().await;
    assert_eq!(seen[0].as_ref().unwrap().app, Some(app.id));
    let flood: Vec<_> = slow.take(6000).map(|event| event.unwrap()).collect().await;
    assert!(flood.is_sorted_by(|a, b| a.id < b.id));
    assert_eq!(flood[5999].object_id, "6000");
    drop(none);
}

async fn first_name(
    events: impl stream::Stream<Item = Result<Event, controller_client::Error>>,
) -> String {
    pin_mut!(events);
    let first = tokio::time::timeout(testkit::LIMIT, events.next()).await.unwrap();
    first.unwrap().unwrap().data["name"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_stream_after_an_event_that_cannot_be_begins_with_the_first_or_with_the_next() {
    let world = World::start().await;
    world.app("before").await;
    let after = async |since: i64| {
        let query = EventQuery { types: &["app"], since: Some(since), ..EventQuery::default() };
        world.client.events(&query).await.unwrap()
    };
    for since in [i64::MIN, -1, 0] {
        assert_eq!(first_name(after(since).await).await, "before", "after {since}");
    }
    let newer = after(i64::MAX).await;
    world.app("after").await;
    assert_eq!(first_name(newer).await, "after");
}

#[tokio::test]
async fn what_no_event_can_be_is_refused_and_not_asked_for_again_and_again() {
    let world = World::start().await;
    for query in ["object_types=app,a%00b", "object_id=a%00b", "app_id=a%00b"] {
        let (client, path) = (world.client.client(), format!("/events?{query}"));
        let stream = client.events::<serde_json::Value>(&path).await.map(drop).unwrap_err();
        let list = client.get::<serde_json::Value>(&path).await.unwrap_err();
        for refused in [stream, list] {
            assert_eq!(refused.code(), Some(ErrorCode::ValidationError), "{refused}");
            assert!(refused.to_string().contains("NUL"), "{refused}");
        }
    }
}
