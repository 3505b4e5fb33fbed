//! Volumes are listed and removed.

use api::{
    id::{AppId, JobId},
    usage::Usage,
    volume::{Size, Volume},
};
use axum::{
    Json, Router,
    extract::{Path, Query, State},
    response::Response,
    routing::{delete, get},
};
use std::collections::BTreeMap;

use crate::{
    fake::{Fake, Shared, found},
    person::Person,
};

pub(crate) fn routes() -> Router<Shared> {
    Router::new()
        .route("/usage", get(usage))
        .route("/volumes", get(all))
        .route("/apps/{app}/volumes", get(of_app))
        .route("/volumes/{volume}", delete(remove_left))
        .route("/apps/{app}/volumes/{volume}", delete(remove))
}

async fn all(State(world): State<Shared>) -> Json<Vec<Volume>> {
    Json(world.lock().unwrap().volumes.clone())
}

async fn of_app(State(world): State<Shared>, Path(app): Path<String>) -> Json<Vec<Volume>> {
    let mut volumes = world.lock().unwrap().volumes.clone();
    volumes.retain(|volume| volume.app_name.as_ref() == Some(&app));
    Json(volumes)
}

async fn remove_left(State(world): State<Shared>, Path(id): Path<String>) -> Response {
    take_away(&world, |volume| volume.id == id && volume.app_name.is_none())
}

async fn remove(
    State(world): State<Shared>,
    Path((app, id)): Path<(String, String)>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    let host = query.get("host").cloned();
    take_away(&world, |volume| {
        let meant = host.as_ref().is_none_or(|host| volume.host_id == *host);
        volume.id == id && volume.app.is_some_and(|of| of.to_string() == app) && meant
    })
}

async fn usage() -> Json<Vec<Usage>> {
    let shop = Usage {
        app: Some(AppId::random()),
        app_name: Some("shop".into()),
        slugs: 3 << 20,
        volumes: 1 << 30,
        ..Usage::default()
    };
    Json(vec![shop, Usage { other: 10, ..Usage::default() }, Usage::default()])
}

#[test]
fn who_uses_the_disk_is_listed_largest_first() {
    let fake = Fake::start();
    let person = Person::of(&fake);
    let listed = person.flynn(&["usage"]).ok().stdout;
    let lines: Vec<Vec<&str>> =
        listed.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[1][..5], ["shop", "1.0", "GB", "3.0", "MB"]);
    assert_eq!(lines[2][..3], ["(nobody's)", "10", "B"]);
    assert_eq!(lines.len(), 3, "what takes nothing is not listed: {listed}");
    let json = person.flynn(&["usage", "--json"]).ok().stdout;
    assert_eq!(serde_json::from_str::<Vec<Usage>>(&json).unwrap().len(), 3);
}

fn take_away(world: &Shared, meant: impl Fn(&Volume) -> bool) -> Response {
    let mut world = world.lock().unwrap();
    let at = world.volumes.iter().position(meant);
    found(at.map(|at| world.volumes.remove(at)))
}

fn volume(id: &str, app_name: Option<&str>, host: &str) -> Volume {
    Volume {
        id: id.into(),
        host_id: host.into(),
        app: Some(AppId::random()),
        app_name: app_name.map(str::to_owned),
        job_type: "db".into(),
        path: Some("/data".into()),
        size: Some(Size { bytes: 3 << 20, at_least: false }),
        jobs: vec![],
    }
}

#[test]
fn volumes_are_listed_with_host_and_size_and_removed() {
    let fake = Fake::start();
    fake.world().deployed_app("myapp");
    let person = Person::of(&fake);
    let job = JobId::random();
    let own = Volume { jobs: vec![job], ..volume("v1", Some("myapp"), "host-1") };
    let twin = Volume { size: None, host_id: "host-2".into(), ..own.clone() };
    fake.world().volumes = vec![own, twin, volume("v2", None, "host-1")];
    let listed = person.flynn(&["-a", "myapp", "volumes"]).ok().stdout;
    let lines: Vec<Vec<&str>> =
        listed.lines().map(|line| line.split_whitespace().collect()).collect();
    let id = format!("host-1-{job}");
    assert_eq!(lines[1], ["v1", "myapp", "db", "/data", "host-1", "3.0", "MB", &id]);
    assert_eq!(lines[2][4..6], ["host-2", "?"]);
    assert_eq!(lines.len(), 3);
    let all = person.flynn(&["volume", "list", "--all"]).ok().stdout;
    assert!(all.contains("v2") && all.contains("(deleted)"), "{all}");
    let json = person.flynn(&["volumes", "--all", "--json"]).ok().stdout;
    assert_eq!(serde_json::from_str::<Vec<Volume>>(&json).unwrap().len(), 3);

    let asked = person.flynn(&["volume-remove", "v2"]).failed();
    assert!(asked.contains("-y"), "{asked}");
    let removed = person.flynn(&["volume-remove", "v2", "-y"]).ok();
    assert!(removed.stderr.contains("Volume v2 removed from host host-1."), "{removed:?}");
    let words = ["volume", "decommission", "v1", "--host", "host-2", "-y", "--json"];
    let removed = person.flynn(&words).ok().stdout;
    assert_eq!(serde_json::from_str::<Volume>(&removed).unwrap().host_id, "host-2");
    let nothing = person.flynn(&["volume-remove", "v9", "-y"]).failed();
    assert!(nothing.contains("flynn volumes --all"), "{nothing}");
    assert_eq!(fake.world().volumes.len(), 1);
}
