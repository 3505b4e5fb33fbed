//! What a command works with: the configuration, the server, the app.

use std::{
    cell::OnceCell,
    fs,
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use api::{
    controller::{App, Release},
    id::{AppId, ReleaseId},
};
use controller_client::Controller;

use crate::{
    args::Globals,
    domain::{
        flynnrc::{Flynnrc, Server},
        target::{self, Wishes},
    },
    git, http,
};

/// One run of `flynn`.
pub(crate) struct Session {
    pub(crate) globals: Globals,
    chosen: OnceCell<Server>,
}

/// A command's app.
pub(crate) struct AppSession {
    pub(crate) controller: Controller,
    pub(crate) server: Server,
    /// As the person or the git remote calls it: name or id.
    pub(crate) name: String,
}

impl Session {
    pub(crate) fn new(globals: Globals) -> Self {
        Self { globals, chosen: OnceCell::new() }
    }

    /// The server that was turned to, for errors.
    pub(crate) fn chosen(&self) -> Option<&Server> {
        self.chosen.get()
    }

    /// Where the configuration is.
    pub(crate) fn flynnrc_path(&self) -> anyhow::Result<PathBuf> {
        match (&self.globals.env_flynnrc, &self.globals.env_home) {
            (Some(path), _) if !path.as_os_str().is_empty() => Ok(path.clone()),
            (_, Some(home)) => Ok(home.join(".flynnrc")),
            _ => bail!("neither HOME nor FLYNNRC is set, so there is no place for ~/.flynnrc"),
        }
    }

    /// The configuration; empty if there is no file.
    pub(crate) fn flynnrc(&self) -> anyhow::Result<Flynnrc> {
        let path = self.flynnrc_path()?;
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(err) if err.kind() == ErrorKind::NotFound => String::new(),
            Err(err) => return Err(err).with_context(|| format!("reading {}", path.display())),
        };
        Flynnrc::parse(&text).with_context(|| format!("{} cannot be used", path.display()))
    }

    /// Replaces the configuration, whole or not at all; only its owner can read it, for keys are in it.
    pub(crate) fn write_flynnrc(&self, text: &str) -> anyhow::Result<()> {
        let path = self.flynnrc_path()?;
        // A link stays a link: people keep such files elsewhere.
        let path = fs::canonicalize(&path).unwrap_or(path);
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let write = || -> std::io::Result<()> {
            // Made with mode 0600.
            let mut file = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new(".")))?;
            file.write_all(text.as_bytes())?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            Ok(())
        };
        write().with_context(|| format!("writing {}", path.display()))
    }

    /// The server of a command that is about no app.
    pub(crate) fn server(&self) -> anyhow::Result<(Server, Controller)> {
        let rc = self.flynnrc()?;
        let server = target::server(&self.wishes(&[], None), &rc)?.clone();
        self.turn_to(server)
    }

    /// The server and the app of a command about an app.
    pub(crate) fn app(&self) -> anyhow::Result<AppSession> {
        let rc = self.flynnrc()?;
        let (remotes, flynn_remote) = (git::remotes(), git::config("flynn.remote"));
        let (server, name) = target::app(&self.wishes(&remotes, flynn_remote.as_deref()), &rc)?;
        let (server, controller) = self.turn_to(server.clone())?;
        Ok(AppSession { controller, server, name })
    }

    fn turn_to(&self, server: Server) -> anyhow::Result<(Server, Controller)> {
        let _ = self.chosen.set(server.clone());
        let controller = Controller::with_client(http::client(&server)?);
        Ok((server, controller))
    }

    fn wishes<'a>(
        &'a self,
        remotes: &'a [(String, String)],
        flynn_remote: Option<&'a str>,
    ) -> Wishes<'a> {
        let globals = &self.globals;
        let said = |text: &'a Option<String>| text.as_deref().filter(|text| !text.is_empty());
        Wishes {
            app: said(&globals.app),
            cluster: said(&globals.cluster),
            env_app: said(&globals.env_flynn_app),
            env_server: said(&globals.env_flynn_cluster).or(said(&globals.env_flynn_server)),
            flynn_remote,
            remotes,
        }
    }
}

impl AppSession {
    /// The app as the controller has it.
    pub(crate) async fn app(&self) -> anyhow::Result<App> {
        match self.controller.app(&self.name).await {
            Ok(app) => Ok(app),
            Err(err) => Err(self.explained(err)),
        }
    }

    /// Whether an app that was there has been deleted. Another one may have its name.
    pub(crate) async fn is_gone(&self, app: AppId) -> bool {
        is_gone(&self.controller, app).await
    }

    /// The app and the release that serves.
    pub(crate) async fn release(&self) -> anyhow::Result<(App, Release)> {
        let app = self.app().await?;
        let id = app.release.with_context(|| no_release(&app.name))?;
        let release = self.controller.release(id).await?;
        Ok((app, release))
    }

    /// The release that was typed, or the one that serves.
    pub(crate) async fn release_or_current(
        &self,
        id: Option<ReleaseId>,
    ) -> anyhow::Result<(App, Release)> {
        let Some(id) = id else { return self.release().await };
        let app = self.app().await?;
        let release = self.controller.release(id).await;
        let release = release.map_err(|err| match err.is_not_found() {
            true => anyhow::anyhow!("there is no release {id}; `flynn releases` lists them"),
            false => err.into(),
        })?;
        if release.app_id != Some(app.id) {
            bail!("release {id} is not one of {}; `flynn releases` lists them", app.name);
        }
        Ok((app, release))
    }

    /// The error, or, if the app is what is missing, a sentence about that.
    pub(crate) fn explained(&self, err: controller_client::Error) -> anyhow::Error {
        if !err.is_not_found() {
            return err.into();
        }
        anyhow::anyhow!(
            "there is no app {:?} on server {:?}; `flynn apps` lists them, `flynn create {}` makes it",
            self.name,
            self.server.name,
            self.name
        )
    }
}

/// Whether an app that was there has been deleted.
pub(crate) async fn is_gone(controller: &Controller, app: AppId) -> bool {
    controller.app(&app.to_string()).await.is_err_and(|err| err.is_not_found())
}

/// What to tell who wants to run something before the first push.
pub(crate) fn no_release(app: &str) -> String {
    format!(
        "{app} has no release yet, so there is nothing to run: `git push flynn master` makes the first"
    )
}
