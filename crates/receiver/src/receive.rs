//! The steps of a push, and what may end it early.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use api::{
    controller::{App, NewHead, Repository},
    id::AppId,
};
use controller_client::Controller;
use sha2::{Digest, Sha256};
use shelf_client::Shelf;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    signal::unix::{SignalKind, signal},
    time::timeout,
};

use crate::{Console, Failure, build::Build, config::ReceiveArgs, deploy};

/// Packs a repository may have when it is deployed by its URL. A git push joins them when there are 24, and the receiver,
/// which has no git, cannot; more of them slow every push down.
const PACKS_MAX: usize = 48;
/// From so many on, those that nothing needs are let go.
const PACKS_MANY: usize = 24;
/// Longest time to find out whether the app is still there.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time to tidy up after a build.
const TIDY_TIMEOUT: Duration = Duration::from_secs(5);

/// Everything a push works with.
#[derive(Debug)]
pub(crate) struct Push<'a> {
    pub(crate) args: ReceiveArgs,
    pub(crate) controller: Controller,
    pub(crate) shelf: Shelf,
    pub(crate) console: &'a Console,
    /// Names this build among all.
    pub(crate) id: String,
    /// Whether the controller may have taken the push: from then on it goes on without us.
    pub(crate) taken: AtomicBool,
    /// The app that was found.
    found: OnceLock<AppId>,
}

/// Builds and deploys the tree that `tar` holds.
pub async fn receive(
    args: ReceiveArgs,
    tar: impl AsyncRead + Send + Unpin + 'static,
    console: &Console,
) -> Result<(), Failure> {
    let key = Some(args.services.controller_key.clone());
    let push = Push {
        controller: Controller::new(args.services.controller(), key),
        shelf: Shelf::new(args.services.shelf(), args.shelf_key.clone()),
        console,
        id: hex::encode(rand::random::<[u8; 16]>()),
        taken: AtomicBool::new(false),
        found: OnceLock::new(),
        args,
    };
    let outcome = tokio::select! {
        outcome = push.run(tar) => outcome,
        () = told_to_stop() => Err(push.stopped()),
        () = console.closed() => Err(push.stopped()),
    };
    // Dropping the build's connection stopped it. What is left here of the build is of no use to anybody.
    let left = format!("/builds/{}/", push.id);
    let tidied = async {
        let turn = push.controller.end_build_turn(&push.id);
        let _ = tokio::join!(push.shelf.delete_all(&left), turn);
    };
    let _ = timeout(TIDY_TIMEOUT, tidied).await;
    match outcome {
        Err(failure) if failure.may_be_of_a_deletion() && push.is_deleted().await => {
            Err(Failure::Deleted(push.args.app))
        }
        outcome => outcome,
    }
}

impl Push<'_> {
    async fn run(&self, tar: impl AsyncRead + Send + Unpin + 'static) -> Result<(), Failure> {
        let name = &self.args.app;
        let app = self.controller.app(name).await.map_err(|err| match err.is_not_found() {
            true => Failure::NoApp(name.clone()),
            false => Failure::controller("Looking up the app")(err),
        })?;
        let _ = self.found.set(app.id);
        let head = self.head(&app).await?;
        let result = Build { push: self, app: &app }.run(tar).await?;
        deploy::deploy(self, &app, result, head).await
    }

    /// The head the repository gets with this push.
    async fn head(&self, app: &App) -> Result<NewHead, Failure> {
        let new = self.args.commit.clone();
        if let Some(packs) = &self.args.packs {
            let old = Some(self.args.head_old.clone()).filter(|old| !old.is_empty());
            let packs_old = self.args.packs_old.as_deref().map(paths);
            return Ok(NewHead { old, new, packs: paths(packs), packs_old });
        }
        let Some(file) = &self.args.pack_file else { return Err(Failure::NoHead) };
        let unread = |source| shelf_client::Error::File { path: file.clone(), source };
        let storing = || Failure::shelf("Storing the repository");
        let sha256 = digest(file).await.map_err(unread).map_err(storing())?;
        let path = format!("/repos/{}/{sha256}.pack", app.id);
        self.shelf.put_file(&path, file).await.map_err(storing())?;
        let repository = self.controller.repository(&app.name).await;
        let repository = repository.map_err(Failure::controller("Looking up the repository"))?;
        let packs = self.packs(&repository, path)?;
        Ok(NewHead { old: repository.head, new, packs, packs_old: Some(repository.packs) })
    }

    /// The packs of a repository with one more. Branches and tags that are kept are in the others, and so is what another
    /// push keeps while this one is under way.
    fn packs(&self, repository: &Repository, path: String) -> Result<Vec<String>, Failure> {
        let mut packs = repository.packs.clone();
        if repository.refs.is_empty() && packs.len() >= PACKS_MANY {
            packs.clear();
        }
        if !packs.contains(&path) {
            packs.push(path);
        }
        match packs.len() {
            many if many > PACKS_MAX => Err(Failure::Parts(self.args.app.clone(), many)),
            _ => Ok(packs),
        }
    }

    /// Whether the app that was pushed to is there no more; one that was made since by its name is another.
    async fn is_deleted(&self) -> bool {
        let Some(found) = self.found.get() else { return false };
        match timeout(LOOK_TIMEOUT, self.controller.app(&self.args.app)).await {
            Ok(Ok(app)) => app.id != *found,
            Ok(Err(err)) => err.is_not_found(),
            Err(_) => false,
        }
    }

    fn stopped(&self) -> Failure {
        if self.taken.load(Ordering::SeqCst) { Failure::GoesOn } else { Failure::Stopped }
    }
}

/// Paths that were given with commas.
fn paths(text: &str) -> Vec<String> {
    text.split(',').filter(|path| !path.is_empty()).map(str::to_owned).collect()
}

async fn digest(file: &std::path::Path) -> std::io::Result<String> {
    let mut file = tokio::fs::File::open(file).await?;
    let (mut digest, mut buffer) = (Sha256::new(), vec![0; 128 << 10]);
    loop {
        match file.read(&mut buffer).await? {
            0 => return Ok(hex::encode(digest.finalize())),
            read => digest.update(&buffer[..read]),
        }
    }
}

/// Ends at SIGTERM, SIGINT or SIGHUP.
async fn told_to_stop() {
    let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
    let signals = kinds.map(|kind| {
        Box::pin(async move {
            match signal(kind) {
                Ok(mut signal) => drop(signal.recv().await),
                Err(_) => std::future::pending().await,
            }
        })
    });
    futures_util::future::select_all(signals).await;
}
