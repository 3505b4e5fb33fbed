//! What the original clients send and expect.

use std::collections::BTreeMap;

use api::{
    controller::{NewFormation, NewRelease},
    error::ErrorCode,
};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::world::{KEY, World, raw_http};

struct Raw<'a> {
    http: reqwest::Client,
    world: &'a World,
}

impl<'a> Raw<'a> {
    fn new(world: &'a World) -> Self {
        Self { http: raw_http(), world }
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let base = self.world.client.client().endpoint().to_string();
        self.http.request(method, format!("{base}{path}")).basic_auth("", Some(KEY))
    }

    async fn send(&self, method: Method, path: &str, body: Value) -> Response {
        self.request(method, path).json(&body).send().await.unwrap()
    }

    async fn ok(&self, method: Method, path: &str, body: Value) -> Value {
        let response = self.send(method, path, body).await;
        let status = response.status();
        let text = response.text().await.unwrap();
        assert_eq!(status, StatusCode::OK, "{path}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    async fn refused(&self, method: Method, path: &str, body: Value) -> Value {
        let response = self.send(method, path, body).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{path}");
        response.json().await.unwrap()
    }
}

#[tokio::test]
async fn what_is_not_there_is_a_404_without_json_and_our_client_tells_why() {
    let world = World::start().await;
    let response = Raw::new(&world).request(Method::GET, "/apps/nowhere").send().await.unwrap();
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
    assert!(!kind.contains("json"), "{kind}");
    let err = world.client.app("nowhere").await.unwrap_err();
    assert!(err.is_not_found());
    assert_eq!(err.to_string(), "there is no app nowhere");
}

#[tokio::test]
async fn a_wrong_method_and_a_wrong_query_are_errors_as_any_other() {
    let world = World::start().await;
    let raw = Raw::new(&world);
    let response = raw.request(Method::PATCH, "/apps").send().await.unwrap();
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert!(response.headers().contains_key("allow"));
    assert!(response.json::<Value>().await.unwrap()["message"].is_string());
    for query in ["/events?count=x", "/apps?before_id=x", "/apps/x/log?lines=-1"] {
        let response = raw.request(Method::GET, query).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{query}");
        assert_eq!(response.json::<Value>().await.unwrap()["code"], "validation_error");
    }
    raw.ok(Method::GET, "/events?past=1&count=1", json!(null)).await;
    let asked = raw.request(Method::OPTIONS, "/apps").header("Origin", "http://x.example");
    let asked = asked.header("Access-Control-Request-Method", "POST").send().await.unwrap();
    assert_eq!(asked.status(), StatusCode::OK);
    assert_eq!(asked.headers()["access-control-allow-origin"], "*");
}

#[tokio::test]
async fn a_release_of_an_original_client_has_its_artifact_command_ports_and_limits() {
    let world = World::start().await;
    let raw = Raw::new(&world);
    let app = world.app("one").await;
    let artifact =
        raw.ok(Method::POST, "/artifacts", json!({ "uri": "docker://flynn/slugrunner" })).await;
    let release = json!({ "artifact": artifact["id"], "processes": { "web": {
        "cmd": ["start", "web"], "ports": [{ "proto": "tcp" }], "service": "one-web",
        "resources": { "memory": { "limit": 536_870_912 } },
    } } });
    let release = raw.ok(Method::POST, "/releases", release).await;
    assert_eq!(release["artifacts"], json!([artifact["id"]]));
    let web = &release["processes"]["web"];
    assert_eq!(web["args"], json!(["start", "web"]));
    assert_eq!(web["ports"][0]["port"], 8080);
    assert_eq!(web["ports"][0]["service"]["name"], "one-web");
    assert_eq!(web["limits"]["memory"], 536_870_912);
    let dashed = uuid::Uuid::try_parse(release["id"].as_str().unwrap()).unwrap();
    let path = format!("/apps/one/formations/{}", dashed.hyphenated());
    raw.ok(Method::PUT, &path, json!({ "processes": { "web": 1 } })).await;
    let expanded = raw.ok(Method::GET, &format!("{path}?expand=true"), json!(null)).await;
    assert_eq!(expanded["app"]["id"], json!(app.id));
    assert_eq!(expanded["artifacts"][0], artifact);

    let body = json!({ "processes": { "web": { "mounts": [{ "location": "/x" }] } } });
    let refused = raw.refused(Method::POST, "/releases", body).await;
    assert_eq!(refused["detail"]["field"], "mounts");
    for body in [json!({ "protected": true }), json!({ "release": dashed.to_string() })] {
        raw.refused(Method::POST, "/apps/one", body).await;
    }
    let other =
        json!({ "type": "file", "uri": "http://shelf.discoverd/x", "meta": { "sha256": "a" } });
    raw.ok(Method::POST, "/artifacts", other.clone()).await;
    let mut changed = other;
    changed["meta"]["sha256"] = "b".into();
    let response = raw.send(Method::POST, "/artifacts", changed).await;
    assert_eq!(response.status(), StatusCode::CONFLICT);
}

#[tokio::test]
async fn meta_is_changed_by_entry_or_replaced_and_what_keeps_flynn_safe_stays() {
    let world = World::start().await;
    let raw = Raw::new(&world);
    let meta = json!({ "flynn-system-critical": "true", "a": "1" });
    raw.ok(Method::POST, "/apps", json!({ "name": "one", "meta": meta })).await;
    let changed = raw.ok(Method::POST, "/apps/one", json!({ "meta": { "b": "2" } })).await;
    assert_eq!(changed["meta"], json!({ "flynn-system-critical": "true", "a": "1", "b": "2" }));
    // An original client sends the whole app back.
    raw.ok(Method::POST, "/apps/one", changed).await;
    let replaced = raw.ok(Method::POST, "/apps/one/meta", json!({ "meta": { "c": "3" } })).await;
    assert_eq!(replaced["meta"], json!({ "flynn-system-critical": "true", "c": "3" }));
    let unsafe_change = json!({ "meta": { "flynn-system-critical": "false" } });
    raw.refused(Method::POST, "/apps/one", unsafe_change).await;
}

#[tokio::test]
async fn a_route_is_told_flat_and_in_2014s_form_and_is_changed_at_its_place() {
    let world = World::start().await;
    let raw = Raw::new(&world);
    world.app("one").await;
    let body = json!({ "type": "http", "config": { "domain": "a.example", "service": "one-web" } });
    let route = raw.ok(Method::POST, "/apps/one/routes", body).await;
    assert_eq!(
        (&route["domain"], &route["config"]["domain"]),
        (&json!("a.example"), &json!("a.example"))
    );
    let all = raw.ok(Method::GET, "/routes", json!(null)).await;
    assert_eq!(all.as_array().unwrap().len(), 2);
    let path = format!("/apps/one/routes/{}", route["id"].as_str().unwrap());
    let elsewhere = json!({ "domain": "b.example" });
    raw.refused(Method::PUT, &path, elsewhere).await;
    let same = raw.ok(Method::PUT, &path, json!({ "service": "one-web" })).await;
    assert_eq!(same["id"], route["id"]);
    let sticky = json!({ "type": "http", "config": { "domain": "c.example", "service": "one-web", "sticky": true } });
    let route = raw.ok(Method::POST, "/apps/one/routes", sticky).await;
    assert_eq!((&route["sticky"], &route["config"]["sticky"]), (&json!(true), &json!(true)));
    let disabled = json!({ "type": "http", "domain": "d.example", "disable_keep_alives": true });
    raw.refused(Method::POST, "/apps/one/routes", disabled).await;
}

#[tokio::test]
async fn lists_have_pages() {
    let world = World::start().await;
    let raw = Raw::new(&world);
    for name in ["a", "b", "c"] {
        world.app(name).await;
    }
    let mut names = Vec::new();
    let mut query = "/apps?count=2".to_owned();
    loop {
        let page = raw.ok(Method::GET, &query, json!(null)).await;
        let page = page.as_array().unwrap().clone();
        let Some(last) = page.last() else { break };
        query = format!("/apps?count=2&before_id={}", last["id"].as_str().unwrap());
        names.extend(page.iter().map(|app| app["name"].as_str().unwrap().to_owned()));
    }
    assert_eq!(names, ["c", "b", "a"]);
}

#[tokio::test]
async fn a_release_that_nothing_runs_can_be_deleted_and_a_sink_is_kept() {
    let world = World::start().await;
    let raw = Raw::new(&world);
    let app = world.app("one").await;
    let release = world.release(&app, &["web"], "serve").await;
    let path = format!("/apps/one/releases/{}", release.id);
    let up = NewFormation { processes: [("web".to_owned(), 1)].into() };
    world.client.put_formation("one", release.id, &up).await.unwrap();
    let response = raw.send(Method::DELETE, &path, json!(null)).await;
    assert_eq!(response.status(), StatusCode::CONFLICT);
    world.client.delete_formation("one", release.id).await.unwrap();
    raw.ok(Method::DELETE, &path, json!(null)).await;
    assert!(world.client.release(release.id).await.unwrap_err().is_not_found());
    assert!(world.client.releases("one").await.unwrap().is_empty());

    let sink = json!({ "kind": "syslog", "config": { "url": "syslog://logs.example:514" } });
    let sink = raw.ok(Method::POST, "/sinks", sink).await;
    let path = format!("/sinks/{}", sink["id"].as_str().unwrap());
    assert_eq!(raw.ok(Method::GET, &path, json!(null)).await, sink);
    assert_eq!(sink["delivery"], "not_yet", "nobody takes it for a sink that gets something");
    raw.ok(Method::DELETE, &path, json!(null)).await;
    assert_eq!(raw.ok(Method::GET, "/sinks", json!(null)).await, json!([]));
}

#[tokio::test]
async fn a_release_made_before_its_app_takes_no_service_of_another() {
    let world = World::start().await;
    let client = &world.client;
    world.app("one").await;
    world.app("two").await;
    let release = |service: &str| {
        let mut process = api::expand::slug_process("one", "web");
        process.ports[0].service.as_mut().unwrap().name = service.into();
        let processes = BTreeMap::from([("web".to_owned(), process)]);
        NewRelease { processes, ..NewRelease::default() }
    };
    for (service, why) in [("one-web", "belongs to app one"), ("flynn-host", "reserved")] {
        let release = client.create_release(&release(service)).await.unwrap();
        let err = client.deploy_release("two", release.id).await.unwrap_err();
        assert!(err.to_string().contains(why), "{err}");
        let formation = NewFormation { processes: [("web".to_owned(), 1)].into() };
        let err = client.put_formation("two", release.id, &formation).await.unwrap_err();
        assert_eq!(err.code(), Some(ErrorCode::ValidationError));
    }
}
