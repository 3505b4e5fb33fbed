//! The build: slugbuilder as a job of the app, with URLs instead of keys.

use std::{collections::BTreeMap, time::Duration};

use api::{
    controller::{App, ArtifactType, NewArtifact, NewJob},
    host::Limits,
    slug::BuildResult,
};
use attach::{Frame, FrameCodec, State, read_state};
use futures_util::StreamExt;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::timeout,
};
use tokio_util::{codec::FramedRead, io::ReaderStream};

use crate::{
    Failure,
    domain::{RESULT_LEN_MAX, check_result, slug_path},
    receive::Push,
    settings, turn,
};

/// The image that builds.
const BUILDER: &str = "docker:///flynn/slugbuilder";
/// The URLs of a build work for this long: its start and its own time limit, and some time for its uploads. A builder
/// that nothing waits for can do no harm with them: all it can write is below `/builds/<id>/`. Its host ends it after the
/// same time, whoever is gone by then.
const URL_TTL: Duration = Duration::from_secs(30 * 60);
/// Largest slug taken; the builder's own limit is below.
const SLUG_LEN_MAX: u64 = 1 << 30;
/// Largest build cache kept.
const CACHE_LEN_MAX: u64 = 2 << 30;
/// Longest time to a running build: its image may have to be fetched, and hosts may be full.
const START_TIMEOUT: Duration = Duration::from_secs(300);
/// Bytes read of the tar at a time.
const READ_SIZE: usize = 256 << 10;

/// A build of an app.
pub(crate) struct Build<'a> {
    pub(crate) push: &'a Push<'a>,
    pub(crate) app: &'a App,
}

impl Build<'_> {
    /// Builds the tree; the slug is in its lasting place when this returns.
    pub(crate) async fn run(
        &self,
        tar: impl AsyncRead + Send + Unpin + 'static,
    ) -> Result<BuildResult, Failure> {
        let Push { controller, shelf, console, .. } = self.push;
        console.step(&format!("Building {}...", self.app.name));
        let source = ReaderStream::with_capacity(tar, READ_SIZE);
        let stored = shelf.put_stream(&self.path("source.tar"), source).await;
        stored.map_err(Failure::shelf("Storing the source"))?;
        let app_env = self.app_env().await.map_err(Failure::controller("Preparing the build"))?;
        let limits = settings::limits(&self.app.meta, &app_env)?;
        let (id, app) = (&self.push.id, &self.app.name);
        turn::in_turn(controller, id, app, console, self.build(&app_env, limits)).await
    }

    async fn build(
        &self,
        app_env: &BTreeMap<String, String>,
        limits: Limits,
    ) -> Result<BuildResult, Failure> {
        let Push { controller, shelf, .. } = self.push;
        // In a file: one variable of a process could not hold all of them.
        let json = serde_json::json!(app_env).to_string();
        let stored = shelf.put_bytes(&self.path("env.json"), json).await;
        stored.map_err(Failure::shelf("Storing the environment"))?;
        let job = self.job(limits).await?;
        let started = timeout(START_TIMEOUT, controller.run_job_attached(&self.app.name, &job));
        let connection = started
            .await
            .map_err(|_| Failure::Lost(format!("it did not start within {START_TIMEOUT:?}")))?
            .map_err(Failure::controller("Starting the build"))?;
        match self.follow(connection).await? {
            0 => {
                let result = self.result().await?;
                self.keep_cache().await;
                Ok(result)
            }
            status @ 128.. => Err(Failure::Killed(status)),
            _ => Err(Failure::Build),
        }
    }

    fn path(&self, name: &str) -> String {
        format!("/builds/{}/{name}", self.push.id)
    }

    fn cache(&self) -> String {
        format!("/cache/{}.tgz", self.app.id)
    }

    /// The cache of a build that succeeded takes the place of the one before. It is the receiver that does so: a builder
    /// that outlived its push cannot.
    async fn keep_cache(&self) {
        match self.push.shelf.copy(&self.path("cache.tgz"), &self.cache()).await {
            Ok(_) => {}
            // It has not changed.
            Err(err) if err.is_not_found() => {}
            Err(err) => {
                self.push.console.line(&format!("The cache of this build is not kept: {err}"));
            }
        }
    }

    async fn job(&self, limits: Limits) -> Result<NewJob, Failure> {
        let builder = NewArtifact {
            id: None,
            kind: ArtifactType::Docker,
            uri: BUILDER.into(),
            meta: BTreeMap::new(),
        };
        let builder = self.push.controller.create_artifact(&builder).await;
        let builder = builder.map_err(Failure::controller("Preparing the build"))?;
        Ok(NewJob {
            artifacts: vec![builder.id],
            env: self.env(),
            limits: Some(limits),
            timeout_seconds: u32::try_from(URL_TTL.as_secs()).ok(),
            ..NewJob::default()
        })
    }

    /// The environment of the app's release, if it has one.
    async fn app_env(&self) -> Result<BTreeMap<String, String>, api_client::Error> {
        match self.push.controller.current_release(&self.app.name).await {
            Ok(release) => Ok(release.env),
            Err(err) if err.is_not_found() => Ok(BTreeMap::new()),
            Err(err) => Err(err),
        }
    }

    /// What the builder is told; see slugbuilder.
    fn env(&self) -> BTreeMap<String, String> {
        let Push { args, shelf, .. } = self.push;
        let url = |method, path: &str, limit| {
            shelf.signed_url(&args.build_shelf_url, method, path, limit, URL_TTL)
        };
        let env = [
            ("SOURCE_URL", url("GET", &self.path("source.tar"), 0)),
            ("ENV_URL", url("GET", &self.path("env.json"), 0)),
            ("CACHE_GET_URL", url("GET", &self.cache(), 0)),
            ("CACHE_PUT_URL", url("PUT", &self.path("cache.tgz"), CACHE_LEN_MAX)),
            ("SLUG_PUT_URL", url("PUT", &self.path("slug.tgz"), SLUG_LEN_MAX)),
            ("RESULT_PUT_URL", url("PUT", &self.path("result.json"), RESULT_LEN_MAX)),
            ("APP_NAME", self.app.name.clone()),
            ("SOURCE_VERSION", args.commit.clone()),
        ];
        env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// Shows what the build says until it ends; its exit status.
    async fn follow(&self, mut connection: impl AsyncRead + Unpin) -> Result<u32, Failure> {
        let lost = |err: String| Failure::Lost(err);
        let first = connection.read_u8().await.map_err(|err| lost(err.to_string()))?;
        let first_again = [first];
        let mut connection = (&first_again[..]).chain(connection);
        // A state comes first where the host's words are passed on as they are.
        if first <= 2 {
            loop {
                match read_state(&mut connection).await.map_err(|err| lost(err.to_string()))? {
                    State::Attached => break,
                    State::Waiting => {}
                    State::Error(why) => return Err(lost(why)),
                }
            }
        }
        let mut frames = FramedRead::new(connection, FrameCodec);
        while let Some(frame) = frames.next().await {
            match frame.map_err(|err| lost(err.to_string()))? {
                Frame::Data { bytes, .. } => self.push.console.raw(&bytes),
                Frame::Exit(status) => return Ok(status),
                Frame::Signal(_) | Frame::Resize { .. } => {}
            }
        }
        Err(lost("its connection ended before it did".into()))
    }

    /// Reads what the build made, and puts the slug where it stays.
    async fn result(&self) -> Result<BuildResult, Failure> {
        let shelf = &self.push.shelf;
        let (reading, keeping) = (
            || Failure::shelf("Reading the build's result"),
            || Failure::shelf("Keeping the slug"),
        );
        let json = match shelf.get_bytes(&self.path("result.json"), RESULT_LEN_MAX).await {
            Err(err) if err.is_not_found() => {
                return Err(Failure::BadResult("it stored no result".into()));
            }
            read => read.map_err(reading())?,
        };
        let built = self.path("slug.tgz");
        let slug = shelf.head(&built).await.map_err(reading())?;
        let result = check_result(&json, slug)?;
        let kept = shelf.copy(&built, &slug_path(&result.slug.sha256)).await.map_err(keeping())?;
        if kept == result.slug.sha256 {
            Ok(result)
        } else {
            Err(Failure::BadResult("its slug changed meanwhile".into()))
        }
    }
}
