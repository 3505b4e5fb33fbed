//! flynn-receive against a controller faked on the wire, which builds as slugbuilder does, and the real shelf.
#![expect(clippy::unwrap_used, reason = "helpers of tests too")]

use std::{
    collections::BTreeMap,
    io::Write,
    sync::{Arc, Mutex},
    time::Duration,
};

use api::{
    controller::{
        App, Artifact, Deployment, DeploymentStatus, NewArtifact, NewJob, NewPush, Repository,
        Strategy,
    },
    id::{AppId, ArtifactId, DeploymentId, ReleaseId},
};
use attach::{Frame, FrameCodec, Stream};
use axum::{
    Json, Router,
    extract::{Path, Request, State},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use clap::Parser;
use daemon::{ApiError, Lifetime, events};
use futures_util::{SinkExt, StreamExt};
use http::StatusCode;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use receiver::{Console, Failure, config::ReceiveArgs, receive};
use tempfile::TempDir;
use testkit::wait_until;
use tokio::{net::TcpListener, process::Command};
use tokio_util::codec::Framed;

/// How the build and the deployment go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Course {
    Good,
    BuildFails,
    BuildHangs,
    /// The app is deleted, and with it the build ends.
    AppDeleted,
    /// Its deployment fails because of that.
    AppDeletedLate,
    /// The result names a slug that was never stored.
    WrongSlug,
    NothingToRun,
    DeploymentFails,
    /// The answer to the push is lost, although it was carried out.
    AnswerLost,
    /// It waits for its turn: what it will reach is not decided yet.
    NoTarget,
}

#[derive(Clone)]
struct Fake {
    course: Course,
    app: AppId,
    release: ReleaseId,
    seen: Arc<Mutex<Seen>>,
    lifetime: Lifetime,
}

#[derive(Default)]
struct Seen {
    job: Option<NewJob>,
    pushes: Vec<NewPush>,
    build_over: bool,
    /// How often a turn was asked for, and whether it was given back.
    turns: (u32, bool),
    lost_one: bool,
    deleted: bool,
    repository: Repository,
}

struct World {
    fake: Fake,
    shelf: shelf_client::Shelf,
    args: ReceiveArgs,
    /// The same as they are typed.
    words: Vec<String>,
    said: Arc<Mutex<Vec<u8>>>,
    _dir: TempDir,
}

struct Said(Arc<Mutex<Vec<u8>>>);

impl Write for Said {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl World {
    async fn new(course: Course) -> Self {
        let (dir, lifetime) = (TempDir::new().unwrap(), Lifetime::default());
        let config = shelf::Config {
            listen: ([127, 0, 0, 1], 0).into(),
            key: "shelf-key".into(),
            data_dir: dir.path().into(),
            disk_reserve: 0,
            folder_len_max: u64::MAX,
        };
        let shelf_url = format!("http://{}", shelf::start(config, &lifetime).await.unwrap().addr);
        let fake = Fake {
            course,
            app: AppId::random(),
            release: ReleaseId::random(),
            seen: Arc::default(),
            lifetime: lifetime.clone(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let controller_url = format!("http://{}", listener.local_addr().unwrap());
        lifetime.serve(listener, fake.clone().router());
        let args = [
            "flynn-receive",
            "my-app",
            "c0ffee",
            "--controller-key",
            "controller-key",
            "--controller-url",
            &controller_url,
            "--shelf-key",
            "shelf-key",
            "--shelf-url",
            &shelf_url,
            "--build-shelf-url",
            &shelf_url,
            "--head-old",
            "0ld",
            "--packs-old",
            "/repos/a/1.pack",
            "--packs",
            "/repos/a/1.pack,/repos/a/2.pack",
        ];
        let words = args[1..].iter().map(|word| (*word).to_owned()).collect();
        let args = ReceiveArgs::parse_from(args);
        let shelf = shelf_client::Shelf::new(shelf_url.as_str(), "shelf-key");
        Self { fake, shelf, args, words, said: Arc::default(), _dir: dir }
    }

    async fn receive(&self) -> Result<(), Failure> {
        let console = Console::new(Said(self.said.clone()));
        receive(self.args.clone(), &b"the tree"[..], &console).await
    }

    fn said(&self) -> String {
        String::from_utf8(self.said.lock().unwrap().clone()).unwrap()
    }

    /// Nothing of a build is left but its slug.
    async fn is_tidy(&self) -> bool {
        self.shelf.list("/builds/").await.unwrap().is_empty()
    }
}

impl Fake {
    fn router(self) -> Router {
        Router::new()
            .route("/apps/{app}", get(app))
            .route("/apps/{app}/release", get(async || ApiError::not_found("none")))
            .route("/apps/{app}/repository", get(repository))
            .route("/apps/{app}/routes", get(async || Json(serde_json::json!([{"type": "http", "service": "my-app-web", "domain": "my-app.localhost"}]))))
            .route("/apps/{app}/jobs", post(run))
            .route("/apps/{app}/push", post(push))
            .route("/apps/{app}/deployments", get(deployments))
            .route("/builds/{id}", put(turn).delete(end_turn))
            .route("/artifacts", post(artifact))
            .route("/releases/{id}", get(release))
            .route("/deployments/{id}", get(deployment))
            .route("/events", get(async || events::response(futures_util::stream::pending::<()>())))
            .with_state(self)
    }

    fn deployment(&self) -> Deployment {
        let failed = matches!(self.course, Course::DeploymentFails | Course::AppDeletedLate);
        Deployment {
            id: DeploymentId::from(self.app.uuid()),
            app: self.app,
            old_release: None,
            new_release: self.release,
            strategy: Strategy::OneByOne,
            status: if failed { DeploymentStatus::Failed } else { DeploymentStatus::Complete },
            processes: match self.course {
                Course::NoTarget => BTreeMap::new(),
                _ => BTreeMap::from([("web".into(), 1)]),
            },
            deploy_timeout: 120,
            error: failed.then(|| "nothing listens on port 8080".into()),
            created_at: Timestamp::UNIX_EPOCH,
            finished_at: None,
        }
    }

    /// What slugbuilder does, with the URLs it is given and nothing else.
    async fn build(&self, job: &NewJob) -> u32 {
        let http = http();
        let source = http.get(&job.env["SOURCE_URL"]).send().await.unwrap();
        assert_eq!(source.text().await.unwrap(), "the tree");
        let env = http.get(&job.env["ENV_URL"]).send().await.unwrap();
        assert_eq!(env.text().await.unwrap(), "{}");
        let cache = http.get(&job.env["CACHE_GET_URL"]).send().await.unwrap();
        assert_eq!(cache.status(), 404);
        http.put(&job.env["CACHE_PUT_URL"]).body("the cache").send().await.unwrap();
        if self.course == Course::BuildFails {
            return 1;
        }
        if self.course == Course::AppDeleted {
            self.seen.lock().unwrap().deleted = true;
            return 143;
        }
        let put = http.put(&job.env["SLUG_PUT_URL"]).body("the slug").send().await.unwrap();
        let sha256 = put.headers()["etag"].to_str().unwrap().trim_matches('"').to_owned();
        let sha256 = if self.course == Course::WrongSlug { "0".repeat(64) } else { sha256 };
        let types = if self.course == Course::NothingToRun {
            serde_json::json!({})
        } else {
            serde_json::json!({"web": "node ."})
        };
        let slug = serde_json::json!({"sha256": sha256, "size": 8});
        let result = serde_json::json!({"types": types, "buildpack": "Node.js", "slug": slug});
        http.put(&job.env["RESULT_PUT_URL"]).json(&result).send().await.unwrap();
        0
    }
}

#[expect(clippy::disallowed_methods, reason = "a plain client, as a builder is one")]
fn http() -> reqwest::Client {
    reqwest::Client::new()
}

async fn app(State(fake): State<Fake>, Path(name): Path<String>) -> Result<Json<App>, ApiError> {
    if name != "my-app" || fake.seen.lock().unwrap().deleted {
        return Err(ApiError::not_found("no such app"));
    }
    Ok(Json(App {
        id: fake.app,
        name,
        meta: BTreeMap::new(),
        strategy: Strategy::OneByOne,
        release: None,
        deploy_timeout: 120,
        created_at: Timestamp::UNIX_EPOCH,
        updated_at: Timestamp::UNIX_EPOCH,
    }))
}

async fn repository(State(fake): State<Fake>) -> Json<Repository> {
    Json(fake.seen.lock().unwrap().repository.clone())
}

async fn artifact(Json(new): Json<NewArtifact>) -> Json<Artifact> {
    assert_eq!(new.uri, "docker:///flynn/slugbuilder");
    Json(Artifact {
        id: ArtifactId::random(),
        kind: new.kind,
        uri: new.uri,
        meta: new.meta,
        created_at: Timestamp::UNIX_EPOCH,
    })
}

async fn run(State(fake): State<Fake>, mut request: Request) -> Response {
    let upgrade = hyper::upgrade::on(&mut request);
    let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
    let job: NewJob = serde_json::from_slice(&body).unwrap();
    fake.seen.lock().unwrap().job = Some(job.clone());
    fake.lifetime.clone().spawn_request(async move {
        let mut frames = Framed::new(TokioIo::new(upgrade.await.unwrap()), FrameCodec);
        let bytes = "-----> Node.js app detected\n".into();
        frames.send(Frame::Data { stream: Stream::Stdout, bytes }).await.unwrap();
        if fake.course == Course::BuildHangs {
            // As the controller does: the end of the connection is the end of the job.
            assert!(frames.next().await.is_none());
        } else {
            let status = fake.build(&job).await;
            frames.send(Frame::Exit(status)).await.unwrap();
        }
        fake.seen.lock().unwrap().build_over = true;
    });
    let headers = [("connection", "Upgrade"), ("upgrade", attach::PROTOCOL)];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

/// The third place, then the second, the first, and then it may run.
async fn turn(State(fake): State<Fake>) -> Json<serde_json::Value> {
    let mut seen = fake.seen.lock().unwrap();
    seen.turns.0 += 1;
    assert!(seen.turns.0 > 3 || seen.job.is_none(), "it did not wait");
    Json(serde_json::json!({ "place": 4u32.saturating_sub(seen.turns.0) }))
}

async fn end_turn(State(fake): State<Fake>) -> Json<serde_json::Value> {
    fake.seen.lock().unwrap().turns.1 = true;
    Json(serde_json::json!({}))
}

async fn push(
    State(fake): State<Fake>,
    Json(push): Json<NewPush>,
) -> Result<Json<Deployment>, ApiError> {
    fake.seen.lock().unwrap().pushes.push(push);
    fake.seen.lock().unwrap().deleted = fake.course == Course::AppDeletedLate;
    if fake.course == Course::AnswerLost {
        return Err(ApiError::unavailable("going away"));
    }
    Ok(Json(fake.deployment()))
}

async fn deployments(State(fake): State<Fake>) -> Result<Json<Vec<Deployment>>, ApiError> {
    let mut seen = fake.seen.lock().unwrap();
    if !std::mem::replace(&mut seen.lost_one, true) {
        return Err(ApiError::unavailable("not back yet"));
    }
    Ok(Json(vec![fake.deployment()]))
}

async fn release(State(fake): State<Fake>) -> Json<serde_json::Value> {
    let meta = fake.seen.lock().unwrap().pushes[0].meta.clone();
    Json(
        serde_json::json!({ "id": fake.release, "meta": meta, "created_at": Timestamp::UNIX_EPOCH }),
    )
}

async fn deployment(State(fake): State<Fake>) -> Json<Deployment> {
    Json(fake.deployment())
}

#[tokio::test]
async fn a_tree_becomes_a_slug_a_release_and_a_deployment() {
    let world = World::new(Course::Good).await;
    world.receive().await.unwrap();
    let said = world.said();
    for line in [
        "-----> Building my-app...",
        "you are third in the queue",
        "you are first in the queue",
        "-----> Node.js app detected",
        "-----> Creating release...",
        "-----> Deploying: web 0 -> 1",
        "=====> Application deployed",
        "http://my-app.localhost/",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    let (push, job, turns) = {
        let seen = world.fake.seen.lock().unwrap();
        (seen.pushes[0].clone(), seen.job.clone().unwrap(), seen.turns)
    };
    assert_eq!(turns, (4, true), "it waits for its turn and gives it back");
    let (env, limits) = (job.env, job.limits.unwrap());
    assert!(limits.cpu < api::host::Limits::default().cpu);
    let cache = format!("/cache/{}.tgz", world.fake.app);
    assert_eq!(world.shelf.get_bytes(&cache, 100).await.unwrap(), "the cache");
    assert!(!env["CACHE_PUT_URL"].contains("/cache/"), "a late builder could replace the cache");
    let sha256 = &push.slug.meta["sha256"];
    assert_eq!(push.slug.uri, format!("http://shelf.discoverd/slugs/{sha256}.tgz"));
    assert_eq!(push.types, ["web"]);
    assert_eq!((push.head.old.as_deref(), push.head.new.as_str()), (Some("0ld"), "c0ffee"));
    assert_eq!(push.head.packs, ["/repos/a/1.pack", "/repos/a/2.pack"]);
    assert_eq!(push.head.packs_old.unwrap(), ["/repos/a/1.pack"]);
    assert!(env.values().all(|value| !value.contains("-key")), "{env:?}");
    let slug = format!("/slugs/{sha256}.tgz");
    assert_eq!(world.shelf.get_bytes(&slug, 100).await.unwrap(), "the slug");
    assert!(world.is_tidy().await);
}

#[tokio::test]
async fn a_deployment_without_a_target_yet_is_told_without_one() {
    let world = World::new(Course::NoTarget).await;
    world.receive().await.unwrap();
    let said = world.said();
    assert!(said.contains("-----> Deploying...\n") && !said.contains("Deploying:"), "{said}");
}

#[tokio::test]
async fn a_build_that_fails_or_lies_changes_nothing() {
    for (course, why) in [
        (Course::BuildFails, "The build failed (see above)"),
        (Course::WrongSlug, "its slug is another one than it says"),
        (Course::NothingToRun, "Node.js found nothing to run. Add a Procfile"),
    ] {
        let world = World::new(course).await;
        let failure = world.receive().await.unwrap_err().to_string();
        assert!(failure.contains(why), "{course:?}: {failure}");
        assert!(world.fake.seen.lock().unwrap().pushes.is_empty());
        assert!(world.is_tidy().await);
        assert!(world.shelf.list("/cache/").await.unwrap().is_empty(), "{course:?}");
    }
}

#[tokio::test]
async fn a_failed_deployment_rejects_with_its_reason() {
    let world = World::new(Course::DeploymentFails).await;
    let failure = world.receive().await.unwrap_err().to_string();
    assert!(failure.contains("nothing listens on port 8080"), "{failure}");
    assert!(failure.contains("What ran before still runs"), "{failure}");
}

#[tokio::test]
async fn an_app_that_was_deleted_meanwhile_is_said_to_be_gone() {
    for course in [Course::AppDeleted, Course::AppDeletedLate] {
        let failure = World::new(course).await.receive().await.unwrap_err().to_string();
        assert!(failure.starts_with("my-app was deleted while it was pushed"), "{failure}");
    }
}

/// How many packs a repository gets that has `count`, and for which refs.
async fn packs_of(kept: &[&str], count: u32) -> Result<usize, Failure> {
    let mut world = World::new(Course::Good).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "a pack").unwrap();
    world.args.packs = None;
    world.args.pack_file = Some(file.path().into());
    world.fake.seen.lock().unwrap().repository = Repository {
        packs: (0..count).map(|n| format!("/repos/a/{n}.pack")).collect(),
        refs: kept.iter().map(|name| ((*name).to_owned(), "1".repeat(40))).collect(),
        ..Repository::default()
    };
    world.receive().await?;
    let push = world.fake.seen.lock().unwrap().pushes[0].clone();
    assert_eq!(push.head.packs_old.unwrap().len(), count as usize, "it says what it saw");
    Ok(push.head.packs.len())
}

#[tokio::test]
async fn a_pack_is_added_to_those_that_kept_branches_and_tags_need() {
    assert_eq!(packs_of(&["refs/tags/v1"], 2).await.unwrap(), 3);
    assert_eq!(packs_of(&["refs/tags/v1"], 30).await.unwrap(), 31);
    assert_eq!(packs_of(&[], 2).await.unwrap(), 3);
    // They do not pile up.
    assert_eq!(packs_of(&[], 24).await.unwrap(), 1);
    let failure = packs_of(&["refs/tags/v1"], 48).await.unwrap_err();
    assert!(failure.to_string().contains("is in 49 parts"), "{failure}");
}

#[tokio::test]
async fn a_push_whose_answer_was_lost_is_looked_for_and_not_repeated() {
    let world = World::new(Course::AnswerLost).await;
    world.receive().await.unwrap();
    assert_eq!(world.fake.seen.lock().unwrap().pushes.len(), 1);
}

#[tokio::test]
async fn a_pusher_who_goes_away_stops_the_build() {
    let world = World::new(Course::BuildHangs).await;
    let console = Console::new(Closed);
    let receiving = receive(world.args.clone(), &b"the tree"[..], &console);
    let failure = tokio::time::timeout(Duration::from_secs(20), receiving).await.unwrap();
    assert!(matches!(failure, Err(Failure::Stopped)), "{failure:?}");
    wait_until("the build is stopped", async || {
        let seen = world.fake.seen.lock().unwrap();
        if seen.build_over || seen.job.is_none() { Ok(()) } else { Err("it runs") }
    })
    .await;
    assert!(world.is_tidy().await);
}

/// A terminal that was closed.
struct Closed;

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::BrokenPipe.into())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn an_unknown_app_is_named() {
    let mut world = World::new(Course::Good).await;
    world.args.app = "nobody".into();
    let failure = world.receive().await.unwrap_err().to_string();
    assert_eq!(failure, "There is no app nobody. To create it: flynn create nobody");
}

#[tokio::test]
async fn a_pack_of_the_whole_repository_can_be_brought_along() {
    let mut world = World::new(Course::Good).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "a pack").unwrap();
    world.args.packs = None;
    let failure = world.receive().await.unwrap_err();
    assert!(matches!(failure, Failure::NoHead), "{failure:?}");
    world.args.pack_file = Some(file.path().into());
    world.receive().await.unwrap();
    let packs = world.shelf.list(&format!("/repos/{}/", world.fake.app)).await.unwrap();
    assert_eq!(packs.len(), 1);
    assert!(packs[0].path.ends_with(&format!("/{}.pack", packs[0].sha256)));
}

#[tokio::test]
async fn a_receiver_that_is_killed_leaves_no_build_that_goes_on() {
    let world = World::new(Course::BuildHangs).await;
    let mut receiver = Command::new(env!("CARGO_BIN_EXE_flynn-receive"));
    receiver.args(&world.words).stdin(std::process::Stdio::null()).kill_on_drop(true);
    let mut receiver = receiver.spawn().unwrap();
    let job = wait_until("the build runs", async || {
        world.fake.seen.lock().unwrap().job.clone().ok_or("no build yet")
    })
    .await;
    assert!(job.timeout_seconds.is_some_and(|seconds| seconds <= 3600), "its host ends it, too");
    receiver.kill().await.unwrap();
    wait_until("the build is stopped", async || {
        let over = world.fake.seen.lock().unwrap().build_over;
        if over { Ok(()) } else { Err("it runs") }
    })
    .await;
}
