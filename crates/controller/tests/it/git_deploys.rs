//! A repository that is deployed by its URL.

use api::{
    controller::{META_SYSTEM_APP, NewApp, NewJob},
    error::ErrorCode,
};
use attach::{Frame, FrameCodec, Stream};
use controller_client::Controller;
use futures_util::{SinkExt, StreamExt};
use reqwest::Method;
use tokio_util::codec::Framed;

use crate::world::{GITRECEIVE_KEY, KEY, World, raw_http};

#[tokio::test]
async fn what_is_deployed_is_said_to_the_job_alone_and_its_keys_are_shown_to_nobody() {
    let world = World::start().await;
    let running = controller::start(world.config.clone(), &world.lifetime).await.unwrap();
    let url = format!("http://{}", running.addr);
    // An app that has nothing yet, with its first deploy.
    world.app("one").await;
    let connection = world.client.deploy_repository("one").await.unwrap();
    let mut frames = Framed::new(connection, FrameCodec);
    let secret = r#"{"url": "https://h/x", "token": "s3cret-token"}"#;
    let said = Frame::Data { stream: Stream::Stdin, bytes: secret.into() };
    frames.send(said).await.unwrap();
    let heard = frames.next().await.unwrap().unwrap();
    assert_eq!(heard, Frame::Data { stream: Stream::Stdout, bytes: secret.into() });
    let job = world.neighbours.jobs.borrow().values().next().unwrap().clone();
    assert_eq!(
        (&*job.image, &job.config.args[..]),
        ("flynn/taffy", &["--stdin", "one"].map(String::from)[..])
    );
    assert!(job.config.stdin && !job.config.tty);
    // Not the people's key: what parses a stranger's repository can do no more than a push.
    assert_eq!(job.config.env["CONTROLLER_KEY"], GITRECEIVE_KEY);
    assert_eq!(job.config.env["SHELF_KEY"], "shelf-key");
    for path in [
        "/events?count=1000",
        "/apps/one/jobs",
        "/apps/one/releases?env=true",
        "/active-jobs",
        "/artifacts",
    ] {
        let request =
            raw_http().request(Method::GET, format!("{url}{path}")).basic_auth("", Some(KEY));
        let text = request.send().await.unwrap().error_for_status().unwrap().text().await.unwrap();
        for secret in ["s3cret", GITRECEIVE_KEY, "shelf-key"] {
            assert!(!text.contains(secret), "{path}: {text}");
        }
    }
    frames.send(Frame::eof(Stream::Stdin)).await.unwrap();
    assert_eq!(frames.next().await.unwrap().unwrap(), Frame::Exit(7));
}

#[tokio::test]
async fn a_deploy_whose_client_is_gone_is_stopped() {
    let world = World::start().await;
    world.app("one").await;
    let mut stopped = world.neighbours.stopped.subscribe();
    drop(world.client.deploy_repository("one").await.unwrap());
    let job = *world.neighbours.jobs.borrow().keys().next().unwrap();
    let gone = stopped.wait_for(|stopped| stopped.contains(&job));
    tokio::time::timeout(testkit::LIMIT, gone).await.unwrap().unwrap();
}

#[tokio::test]
async fn no_repository_replaces_a_part_of_flynn_and_no_push_deploys_another() {
    let world = World::start().await;
    let running = controller::start(world.config.clone(), &world.lifetime).await.unwrap();
    let url = format!("http://{}", running.addr);
    let meta = [(META_SYSTEM_APP.to_owned(), "true".to_owned())].into();
    let part = NewApp { name: Some("part".into()), meta: Some(meta), ..NewApp::default() };
    world.client.create_app(&part).await.unwrap();
    let refused = world.client.deploy_repository("part").await.err().unwrap();
    assert!(refused.is_conflict() && refused.to_string().contains("part of Flynn"), "{refused}");
    let nothing = world.client.deploy_repository("nothing").await.err().unwrap();
    assert!(nothing.is_not_found(), "{nothing}");
    world.app("one").await;
    let pushes = Controller::new(url.as_str(), Some(GITRECEIVE_KEY.into()));
    let refused = pushes.deploy_repository("one").await.err().unwrap();
    assert_eq!(refused.code(), Some(ErrorCode::Unauthorized));
    // Without a connection there is no way to say what.
    let request = raw_http().post(format!("{url}/apps/one/git-deploys")).basic_auth("", Some(KEY));
    let answer = request.json(&NewJob::default()).send().await.unwrap();
    assert_eq!(answer.status(), 400);
    assert!(answer.text().await.unwrap().contains("Upgrade: flynn-attach/0"));
    assert!(world.neighbours.jobs.borrow().is_empty());
}
