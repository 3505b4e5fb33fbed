//! `flynn deploy` against a job that answers what it was told.

use std::fs;

use attach::{Frame, FrameCodec, Stream};
use axum::{
    Router,
    extract::{Path, Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio_util::codec::Framed;

use crate::{
    fake::{Fake, Shared, not_found},
    person::Person,
};

const KEY: &str =
    "-----BEGIN OPENSSH PRIVATE KEY-----\ns3cret\n-----END OPENSSH PRIVATE KEY-----\n";

pub(crate) fn routes() -> Router<Shared> {
    Router::new().route("/apps/{app}/git-deploys", post(deploy))
}

/// Reads all of stdin, says something on both streams and ends with 3 if the URL is that of a bad repository.
async fn deploy(
    State(world): State<Shared>,
    Path(app): Path<String>,
    mut request: Request,
) -> Response {
    if world.lock().unwrap().app(&app).is_none() {
        return not_found();
    }
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let connection = upgraded.await.unwrap();
        let mut connection = Framed::new(TokioIo::new(connection), FrameCodec);
        let mut said = Vec::new();
        while let Some(Ok(Frame::Data { stream: Stream::Stdin, bytes })) = connection.next().await {
            if bytes.is_empty() {
                break;
            }
            said.extend(bytes);
        }
        let said: Value = serde_json::from_slice(&said).unwrap();
        let status = if said["url"] == "https://h/bad" { 3 } else { 0 };
        world.lock().unwrap().deployed_sources.push(said);
        let data = |stream, text: &'static str| Frame::Data { stream, bytes: Bytes::from(text) };
        for frame in [
            data(Stream::Stdout, "-----> Building myapp...\n"),
            data(Stream::Stderr, "a warning\n"),
            Frame::Exit(status),
        ] {
            connection.send(frame).await.unwrap();
        }
        let _ = connection.close().await;
        while let Some(Ok(_)) = connection.next().await {}
    });
    let headers = [(header::CONNECTION, "Upgrade"), (header::UPGRADE, "flynn-attach/0")];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

fn started() -> (Fake, Person) {
    let fake = Fake::start();
    fake.world().deployed_app("myapp");
    let person = Person::of(&fake);
    fs::write(person.path().join("token"), "s3cret\n").unwrap();
    fs::write(person.path().join("key"), KEY).unwrap();
    (fake, person)
}

#[test]
fn a_repository_is_deployed_with_live_output_and_the_status_of_its_job() {
    let (fake, person) = started();
    let deployed = person.flynn(&["-a", "myapp", "deploy", "https://h/x", "--ref", "v1"]).ok();
    assert_eq!(deployed.stdout, "-----> Building myapp...\n");
    assert_eq!(deployed.stderr, "a warning\n");
    assert_eq!(fake.world().deployed_sources[0], json!({ "url": "https://h/x", "ref": "v1" }));
    let failed = person.flynn(&["-a", "myapp", "deploy", "https://h/bad"]);
    assert_eq!(failed.code, Some(3));
    let machine = person.flynn(&["-a", "myapp", "deploy", "https://h/x", "--json"]).ok();
    let release: Value = serde_json::from_str(&machine.stdout).unwrap();
    assert_eq!(release["id"], fake.world().releases[0].id.to_string());
    assert!(machine.stderr.contains("Building") && machine.stderr.contains("a warning"));
    let nothing = person.flynn(&["-a", "nothing", "deploy", "https://h/x"]).failed();
    assert!(nothing.contains("there is no app \"nothing\""), "{nothing}");
}

#[test]
fn tokens_and_keys_go_to_the_job_and_nowhere_else() {
    let (fake, person) = started();
    let deploy = |more: &[&str], env: &[(&str, &str)], input: &str| {
        let words = [&["-a", "myapp", "deploy"], more].concat();
        let done = person.flynn_with(&words, env, input).ok();
        assert!(!format!("{done:?}").contains("s3cret"), "{done:?}");
        fake.world().deployed_sources.last().unwrap().clone()
    };
    let with_token = json!({ "url": "https://h/x", "user": "me", "token": "s3cret" });
    let of_file = deploy(&["https://h/x", "--user", "me", "--token-file", "token"], &[], "");
    assert_eq!(of_file, with_token);
    let of_stdin = deploy(&["https://h/x", "--user", "me", "--token-file", "-"], &[], "s3cret\n");
    assert_eq!(of_stdin, with_token);
    let of_env = deploy(&["https://h/x", "--user=me"], &[("FLYNN_GIT_TOKEN", "s3cret")], "");
    assert_eq!(of_env, with_token);
    let by_key = deploy(&["git@h:x", "--deploy-key", "key"], &[], "");
    assert_eq!(by_key, json!({ "url": "git@h:x", "key": KEY.trim() }));
    let requests = format!("{:?}", fake.world().requests);
    assert!(!requests.contains("s3cret") && !requests.contains("https%3A"), "{requests}");
}

#[test]
fn a_secret_in_the_url_or_for_another_kind_of_url_is_refused() {
    let (fake, person) = started();
    for (words, why) in [
        (&["https://me:s3cret@h/x"][..], "--token-file"),
        (&["https://s3cret@h/x"], "--token-file"),
        (&["git@h:x", "--token-file", "token"], "--deploy-key"),
        (&["https://h/x", "--deploy-key", "key"], "--token-file"),
    ] {
        let refused = person.flynn(&[&["-a", "myapp", "deploy"], words].concat());
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(refused.stderr.contains(why) && !refused.stderr.contains("s3cret"), "{refused:?}");
    }
    assert!(fake.world().deployed_sources.is_empty());
}
