//! Bodies that nobody means.

use api::{
    controller::{App, JobState, NewApp, NewFormation, NewProvider, Release},
    id::{JobId, ResourceId},
};
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, TestRng, TestRunner},
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::world::{KEY, World, raw_http};

/// Bodies a place and form.
const BODIES: usize = 60;

/// Values that stand where others are meant.
fn odd() -> impl Strategy<Value = Value> {
    let deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
    prop_oneof![
        Just(Value::Null),
        Just(json!(-1)),
        Just(json!(u64::MAX)),
        Just(json!(1e300)),
        Just(json!("")),
        Just(json!("\u{0}")),
        Just(json!("a\u{0}b")),
        Just(json!("\u{202e}\u{1f4a9}\u{fffd}")),
        Just(json!("../..//")),
        Just(json!([])),
        Just(json!({})),
        Just(json!({ "\u{0}": "\u{0}" })),
        Just(deep),
        "\\PC{0,12}".prop_map(Value::from),
        "[ -~]{4000,5000}".prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
    ]
}

/// A body with one of its values replaced, or with one more.
fn changed(mut body: Value, at: usize, odd: Value) -> Value {
    let mut pointers = vec![String::new()];
    list(&body, "", &mut pointers);
    let pointer = &pointers[at % pointers.len()];
    let place = body.pointer_mut(pointer).unwrap();
    match place {
        Value::Object(fields) if at.is_multiple_of(2) => {
            drop(fields.insert("odd\u{0}".into(), odd))
        }
        place => *place = odd,
    }
    body
}

fn list(value: &Value, to: &str, pointers: &mut Vec<String>) {
    let mut next = |key: &str, value: &Value| {
        let pointer = format!("{to}/{}", key.replace('~', "~0").replace('/', "~1"));
        pointers.push(pointer.clone());
        list(value, &pointer, pointers);
    };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| next(key, value)),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(at, value)| next(&at.to_string(), value));
        }
        _ => {}
    }
}

/// Whatever is asked, it is not the controller's failure; and what is refused is refused with a sentence.
async fn check(request: reqwest::RequestBuilder, what: &str) {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    assert!(status < 500, "{what}: {status} {text}");
    if status == 400 {
        let told: Value = serde_json::from_str(&text).unwrap();
        assert!(told["message"].as_str().unwrap().len() > 10, "{what}: {text}");
    }
}

/// Every place that takes a body, with one that it takes.
fn places(app: &App, release: &Release) -> Vec<(Method, String, Value)> {
    let image = release.artifacts[0];
    let job = JobId::random();
    let process = json!({ "args": ["x"], "env": { "A": "1" }, "volumes": [{ "path": "/data" }],
        "ports": [{ "port": 80, "proto": "tcp", "service": { "name": "one-web", "check": { "type": "tcp" } } }],
        "limits": { "memory": 1_073_741_824 }, "stop_timeout_seconds": 5 });
    let state = serde_json::to_value(JobState::Up).unwrap();
    vec![
        (
            Method::POST,
            "/apps".to_owned(),
            json!({ "meta": { "a": "b" }, "strategy": "one-by-one", "deploy_timeout": 9 }),
        ),
        (Method::POST, "/apps/one".into(), json!({ "meta": { "a": "b" }, "deploy_timeout": 9 })),
        (Method::POST, "/apps/one/meta".into(), json!({ "meta": { "a": "b" } })),
        (
            Method::POST,
            "/releases".into(),
            json!({ "app_id": app.id, "artifacts": [image], "env": { "A": "1" },
            "meta": { "a": "b" }, "processes": { "web": process } }),
        ),
        (
            Method::POST,
            "/artifacts".into(),
            json!({ "type": "file", "uri": "http://shelf.discoverd/x", "meta": { "sha256": "x" } }),
        ),
        (
            Method::PUT,
            format!("/apps/one/formations/{}", release.id),
            json!({ "processes": { "web": 1 } }),
        ),
        (Method::PUT, "/apps/one/release".into(), json!({ "id": release.id })),
        (
            Method::PUT,
            format!("/apps/one/jobs/{job}"),
            json!({ "id": job, "uuid": job, "app": app.id, "release": release.id,
            "type": "web", "state": state, "args": ["a"], "exit_status": 1, "host_error": "x", "restarts": 1, "host_id": "h" }),
        ),
        (
            Method::POST,
            "/apps/one/jobs".into(),
            json!({ "release": release.id, "args": ["a"], "env": { "A": "1" }, "meta": { "a": "b" }, "timeout_seconds": 9 }),
        ),
        (Method::POST, "/apps/one/deploy".into(), json!({ "id": release.id })),
        (
            Method::POST,
            "/apps/one/routes".into(),
            json!({ "type": "http", "domain": "a.example", "service": "one-web", "path": "/x" }),
        ),
        (
            Method::POST,
            "/keys".into(),
            json!({ "key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHUqGvDsC8Aj+4s3tXbXWTHOqhUDSvlrcGFCxF3Fhl3K me" }),
        ),
        (Method::POST, "/providers".into(), json!({ "name": "p", "url": "http://p.example/x" })),
        (
            Method::POST,
            "/sinks".into(),
            json!({ "kind": "syslog", "config": { "url": "syslog://h:1", "x": "y" } }),
        ),
    ]
}

/// The places of a push, of scaling, and of what an app has. Where there is a `{app}`, each body needs an app of its own: what
/// one did would be in the way of the next.
fn more_places(app: &App, release: &Release, route: &str) -> Vec<(Method, String, Value)> {
    let (commit, sha) = ("1".repeat(40), "a".repeat(64));
    let slug = json!({ "type": "file", "uri": format!("http://shelf.discoverd/slugs/{sha}.tgz"),
        "meta": { "sha256": sha } });
    let resource = ResourceId::random();
    vec![
        (
            Method::PUT,
            "/apps/one/repository/lease".into(),
            json!({ "holder": "somebody", "ttl_seconds": 30 }),
        ),
        (
            Method::PUT,
            "/apps/{app}/repository/refs".into(),
            json!({ "refs": { "refs/heads/x": commit, "refs/tags/y": null },
                "packs": { "old": [], "new": ["/repos/a/1.pack"] } }),
        ),
        (
            Method::POST,
            "/apps/{app}/push".into(),
            json!({ "slug": slug, "image": { "type": "docker", "uri": "docker:///flynn/slugrunner" },
                "types": ["web"], "config_vars": { "A": "1" }, "meta": { "git.commit": commit },
                "head": { "old": null, "new": commit, "packs": ["/repos/a/1.pack"] } }),
        ),
        (
            Method::PUT,
            format!("/apps/one/scale/{}", release.id),
            json!({ "new_processes": { "web": 1 }, "old_processes": { "web": 1 },
                "new_tags": { "web": { "disk": "ssd" } }, "old_tags": { "web": {} }, "state": "pending" }),
        ),
        (
            Method::PUT,
            format!("/apps/one/routes/{route}"),
            json!({ "type": "http", "domain": "one.test.localhost", "service": "one-web", "path": "/",
                "tls_cert": "x", "tls_key": "y", "leader": false, "config": { "service": "one-web" } }),
        ),
        (
            Method::PUT,
            format!("/providers/p/resources/{resource}"),
            json!({ "external_id": "/x/1", "env": { "A": "1" }, "apps": [app.id], "config": {} }),
        ),
        (
            Method::POST,
            "/providers/p/resources".into(),
            json!({ "external_id": "/x/2", "env": { "A": "1" }, "apps": ["one"], "config": { "a": 1 } }),
        ),
        (Method::PUT, "/builds/0123456789abcdef".into(), json!({ "app": "one" })),
    ]
}

#[tokio::test]
async fn no_body_and_no_path_makes_the_controller_fail() {
    let world = World::start().await;
    let client = &world.client;
    let app = world.app("one").await;
    let release = world.release(&app, &["web"], "serve").await;
    let up = NewFormation { processes: [("web".to_owned(), 1)].into() };
    client.put_formation("one", release.id, &up).await.unwrap();
    let route = client.routes("one").await.unwrap().remove(0);
    let provider = NewProvider {
        name: "p".into(),
        url: format!("{}/provider", world.neighbours.url()),
        key: None,
    };
    client.create_provider(&provider).await.unwrap();
    let places = [places(&app, &release), more_places(&app, &release, &route.id)].concat();
    let base = client.client().endpoint().to_string();
    let http = raw_http();
    let rng = TestRng::deterministic_rng(Config::default().rng_algorithm);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    for (method, path, body) in places {
        for _ in 0..BODIES {
            let (at, odd) = (0usize..1000, odd()).new_tree(&mut runner).unwrap().current();
            let body = changed(body.clone(), at, odd);
            let path = match path.contains("{app}") {
                true => path
                    .replace("{app}", &client.create_app(&NewApp::default()).await.unwrap().name),
                false => path.clone(),
            };
            let request = http.request(method.clone(), format!("{base}{path}"));
            check(
                request.basic_auth("", Some(KEY)).json(&body),
                &format!("{method} {path} {body}"),
            )
            .await;
        }
    }
    for path in [
        "/apps/%00",
        "/apps/%ff",
        "/providers/%00",
        "/keys/%00",
        "/events?object_id=%00",
        "/apps/one/log?process_type=%00",
    ] {
        let request = http.get(format!("{base}{path}")).basic_auth("", Some(KEY));
        let status = request.send().await.unwrap().status();
        assert!(status.as_u16() < 500, "{path}: {status}");
    }
}
