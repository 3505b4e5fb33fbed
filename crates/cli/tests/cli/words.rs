//! Words for what the platform obeys: limits, checks, meta, restarts, TCP routes, changes of routes, releases.

use std::collections::BTreeMap;

use api::{
    controller::ProcessType,
    id::ReleaseId,
    route::{NewRoute, Route},
};
use axum::{
    Json, Router,
    extract::{Path, State},
    response::Response,
    routing::{delete, put},
};

use crate::{
    fake::{Fake, Shared, found, not_found},
    person::{Outcome, Person},
};

/// What the fake answers beside the rest.
pub(crate) fn routes() -> Router<Shared> {
    Router::new()
        .route("/apps/{app}/releases/{release}", delete(delete_release))
        .route("/apps/{app}/routes/{kind}/{id}", put(update_route).get(one_route))
}

async fn delete_release(
    State(world): State<Shared>,
    Path((_, id)): Path<(String, ReleaseId)>,
) -> Response {
    let mut world = world.lock().unwrap();
    let at = world.releases.iter().position(|release| release.id == id);
    found(at.map(|at| world.releases.remove(at)))
}

async fn one_route(
    State(world): State<Shared>,
    Path((_, kind, id)): Path<(String, String, String)>,
) -> Response {
    let world = world.lock().unwrap();
    let route = world.routes.iter().find(|route| route.id == format!("{kind}/{id}"));
    found(route.map(|route| Route { tls_key: None, ..route.clone() }))
}

async fn update_route(
    State(world): State<Shared>,
    Path((_, kind, id)): Path<(String, String, String)>,
    Json(new): Json<NewRoute>,
) -> Response {
    let mut world = world.lock().unwrap();
    let route = world.routes.iter_mut().find(|route| route.id == format!("{kind}/{id}"));
    let Some(route) = route else { return not_found() };
    let new = new.flatten(None).unwrap();
    let tls = (new.tls_cert.clone(), new.tls_key.clone());
    let old = route.clone();
    *route = Route { id: old.id, created_at: old.created_at, ..new };
    if tls.0.is_none() {
        (route.tls_cert, route.tls_key) = (old.tls_cert, old.tls_key);
    }
    found(Some(Route { tls_key: None, ..route.clone() }))
}

/// Commands that make or change something, each with what its JSON is about.
const MAKING: [(&[&str], &str); 19] = [
    (&["create", "new-app", "-r", ""], "/id"),
    (&["env-set", "A=1"], "/id"),
    (&["env-get", "A"], ""),
    (&["env-unset", "A"], "/id"),
    (&["limit-set", "web", "memory=512MB"], "/id"),
    (&["check-set", "web", "http", "--path", "/"], "/id"),
    (&["check-unset", "web"], "/id"),
    (&["restart"], "/id"),
    (&["rollback"], "/id"),
    (&["meta-set", "owner=me"], "/owner"),
    (&["config", "deploy-branch=live"], "/deploy-branch"),
    (&["meta-unset", "owner"], ""),
    (&["deployment-strategy", "in-batches"], ""),
    (&["deployment-timeout", "60"], ""),
    (&["deployment-batch-size", "2"], ""),
    (&["route-add-http", "a.example.com"], "/id"),
    (&["run", "-d", "fail"], "/id"),
    (&["server-default", "local"], "/name"),
    (&["server-add", "-d", "other", "https://other.example.com", "KEY"], "/url"),
];

#[test]
fn what_is_made_is_shown_as_json_and_as_nothing_else() {
    let Scene { fake, person } = Scene::new();
    for (words, about) in MAKING {
        // Not at the end: there it would be a word of what `run` runs.
        let words = [&["-a", "myapp", words[0], "--json"], &words[1..]].concat();
        let done = person.flynn(&words).ok();
        let json: serde_json::Value = serde_json::from_str(&done.stdout)
            .unwrap_or_else(|err| panic!("{words:?}: {err}: {done:?}"));
        assert!(json.pointer(about).is_some_and(|v| !v.is_null()), "{words:?}: {json}");
        assert!(!done.stdout.contains("KEY"), "{words:?}: {done:?}");
    }
    drop(fake);
}

struct Scene {
    fake: Fake,
    person: Person,
}

impl Scene {
    fn new() -> Self {
        let fake = Fake::start();
        fake.world().deployed_app("myapp");
        for release in &mut fake.world().releases {
            release.processes.insert("web".into(), api::expand::slug_process("myapp", "web"));
        }
        let person = Person::of(&fake);
        Self { fake, person }
    }

    fn flynn(&self, args: &[&str]) -> Outcome {
        self.person.flynn_with(args, &[("FLYNN_APP", "myapp")], "")
    }

    /// A process type of the release that serves.
    fn process(&self, kind: &str) -> ProcessType {
        let world = self.fake.world();
        let current = world.apps[0].release;
        let release = world.releases.iter().find(|release| Some(release.id) == current).unwrap();
        release.processes[kind].clone()
    }
}

#[test]
fn limits_are_shown_set_and_deployed() {
    let scene = Scene::new();
    let shown = scene.flynn(&["limit"]).ok().stdout;
    assert!(shown.contains("web     memory=1GB cpu=1000"), "{shown}");
    let outcome = scene.flynn(&["limit-set", "web", "memory=512MB", "max_fd=20"]).ok();
    assert!(outcome.stderr.contains("deployed in"), "{outcome:?}");
    let limits = scene.process("web").limits.unwrap();
    assert_eq!((limits.memory, limits.max_fd), (512 << 20, 20));
    let nothing = scene.flynn(&["limit", "set", "web", "memory=512MB"]).ok().stderr;
    assert!(nothing.contains("Nothing changes"), "{nothing}");
    scene.flynn(&["limit-set", "web", "memory=default", "max_fd=default"]).ok();
    assert_eq!(scene.process("web").limits, None);
    let err = scene.flynn(&["limit-set", "wbe", "memory=1GB"]).failed();
    assert!(err.contains("did you mean \"web\"?"), "{err}");
    let err = scene.flynn(&["limit-set", "web", "memory=lots"]).failed();
    assert!(err.contains("memory=512MB"), "{err}");
}

#[test]
fn checks_are_shown_set_and_taken_away() {
    let scene = Scene::new();
    let shown = scene.flynn(&["check"]).ok().stdout;
    assert!(shown.contains("web   8080  myapp-web  tcp within 60s"), "{shown}");
    let args = ["check-set", "web", "http", "--path", "/up", "--start-timeout", "2m"];
    scene.flynn(&[&args[..], &["--kill-on-failure"]].concat()).ok();
    let check = scene.process("web").ports[0].service.clone().unwrap().check.unwrap();
    assert_eq!((check.kind.as_str(), check.path.as_deref()), ("http", Some("/up")));
    assert_eq!((check.kill_down, check.start_timeout), (true, 120_000_000_000));
    scene.flynn(&["check", "unset", "web"]).ok();
    assert_eq!(scene.process("web").ports[0].service.clone().unwrap().check, None);
    let err = scene.flynn(&["check-set", "worker", "tcp"]).failed();
    assert!(err.contains("offers no service"), "{err}");
    assert_eq!(scene.flynn(&["check-set", "web", "udp"]).code, Some(2));
}

#[test]
fn a_restart_deploys_the_same_again() {
    let scene = Scene::new();
    let before = scene.process("web");
    let outcome = scene.flynn(&["restart"]).ok();
    assert!(outcome.stderr.contains("deployed in"), "{outcome:?}");
    assert_eq!(scene.process("web"), before);
    assert_eq!(scene.fake.world().releases.len(), 2);
}

#[test]
fn facts_about_an_app_are_set_one_by_one() {
    let scene = Scene::new();
    scene.flynn(&["meta-set", "owner=ops", "note=a=b"]).ok();
    scene.flynn(&["meta", "set", "owner=dev"]).ok();
    assert_eq!(scene.flynn(&["meta"]).ok().stdout, "note=a=b\nowner=dev\n");
    scene.flynn(&["meta-unset", "note"]).ok();
    let json: BTreeMap<String, String> =
        serde_json::from_str(&scene.flynn(&["meta", "--json"]).ok().stdout).unwrap();
    assert_eq!(json, [("owner".to_owned(), "dev".to_owned())].into());
    assert_eq!(scene.flynn(&["meta-set", "owner"]).code, Some(2));
}

#[test]
fn a_setting_is_made_and_taken_back() {
    let scene = Scene::new();
    let outcome = scene.flynn(&["config", "deploy-branch=live"]).ok();
    assert_eq!(outcome.stdout, "deploy-branch  live\n");
    assert_eq!(scene.flynn(&["config", "deploy-branch="]).ok().stdout, "");
    assert_eq!(scene.flynn(&["config", "--json"]).ok().stdout, "{}\n");
}

#[test]
fn words_that_contradict_each_other_are_refused() {
    let scene = Scene::new();
    for words in [
        &["route-update", "x", "--leader", "--no-leader"][..],
        &["route-update", "x", "--sticky", "--no-sticky"],
        &["route-update", "x", "--redirect", "--no-redirect"],
        &["route-add-http", "a.com", "--hsts", "a year"],
        &["route-add-tcp", "-p", "0"],
        &["docker-push", "-p", "0", "x"],
        &["release-add-docker", "-p", "0", "x"],
        &["create", ""],
    ] {
        assert_eq!(scene.flynn(words).code, Some(2), "{words:?}");
    }
}

#[test]
fn a_route_is_changed_and_keeps_its_certificate() {
    let scene = Scene::new();
    let id = scene.flynn(&["route-add-http", "a.com"]).ok().stdout;
    scene.fake.world().routes[0].tls_cert = Some("CERT".into());
    scene.fake.world().routes[0].tls_key = Some("KEY".into());
    scene.flynn(&["route-update", id.trim(), "-s", "other", "--leader"]).ok();
    let route = scene.fake.world().routes[0].clone();
    assert_eq!((route.service.as_str(), route.leader), ("other", true));
    assert_eq!(route.tls_key.as_deref(), Some("KEY"));
    scene.flynn(&["route", "update", "a.com", "--no-leader"]).ok();
    assert!(!scene.fake.world().routes[0].leader);
    scene.flynn(&["route-update", "a.com", "--no-redirect", "--hsts", "60"]).ok();
    scene.flynn(&["route-update", "a.com", "--leader"]).ok();
    let route = scene.fake.world().routes[0].clone();
    assert_eq!((route.redirect, route.hsts), (Some(false), Some(60)));
    assert_eq!(route.tls_key.as_deref(), Some("KEY"));
    let listed = scene.flynn(&["routes"]).ok().stdout;
    assert!(listed.contains("HTTP stays, HSTS 60 s"), "{listed}");
    scene.flynn(&["route-update", "a.com", "--redirect", "--no-tls"]).ok();
    let route = scene.fake.world().routes[0].clone();
    assert_eq!((route.redirect, route.tls_cert.as_deref()), (Some(true), Some("")));
    let err = scene.flynn(&["route-update", "b.com", "--leader"]).failed();
    assert!(err.contains("`flynn routes` lists them"), "{err}");
}

#[test]
fn a_tcp_route_is_made_with_the_port_that_was_asked_for() {
    let scene = Scene::new();
    let outcome = scene.flynn(&["route-add-tcp", "-p", "3222"]).ok();
    let route = scene.fake.world().routes[0].clone();
    assert_eq!(
        (route.kind.as_str(), route.port, route.service.as_str()),
        ("tcp", 3222, "myapp-web")
    );
    assert!(outcome.stderr.contains("port 3222"), "{outcome:?}");
}

#[test]
fn a_release_is_shown_and_deleted_only_when_that_is_meant() {
    let scene = Scene::new();
    let id = scene.fake.world().apps[0].release.unwrap().to_string();
    scene.fake.world().releases[0].artifacts.clear();
    let shown = scene.flynn(&["release", "show", &id]).ok().stdout;
    assert!(shown.contains(&id) && shown.contains("start web"), "{shown}");
    let err = scene.flynn(&["release-delete", &id]).failed();
    assert!(err.contains("say -y"), "{err}");
    scene.flynn(&["release", "delete", "-y", &id]).ok();
    assert!(scene.fake.world().releases.is_empty());
}

#[test]
fn a_later_command_that_does_not_come_answers_with_the_way_that_does() {
    let scene = Scene::new();
    for (words, way) in [
        (&["docker", "login"][..], "docker-push"),
        (&["-a", "x", "pg", "psql"], "DATABASE_URL"),
        (&["volume", "show", "x"], "flynn volumes --json"),
    ] {
        let outcome = scene.flynn(words);
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        assert!(outcome.stderr.contains(way), "{outcome:?}");
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
    }
}
