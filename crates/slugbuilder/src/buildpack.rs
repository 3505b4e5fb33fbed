//! Heroku's buildpack API.

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::ExitStatus,
};

use api::slug::SlugRelease;
use tokio::process::Command;

use crate::{
    console::Console,
    domain::release,
    error::BuildError,
    process::{HEARTBEAT, answer, shown},
};

/// A buildpack on disk.
#[derive(Debug, Clone)]
pub struct Buildpack {
    /// What it is called until its detect says better.
    pub name: String,
    /// Where it is.
    pub directory: PathBuf,
}

/// The directories buildpacks work with, and their environment.
#[derive(Debug, Clone)]
pub struct Workshop {
    /// The app.
    pub build: PathBuf,
    /// Kept from build to build.
    pub cache: PathBuf,
    /// The app's environment, a file a variable.
    pub env: PathBuf,
    /// Variables of buildpacks' programs: nothing else is in their environment.
    pub variables: Vec<(OsString, OsString)>,
    /// `export` files of the buildpacks before, sourced in this order.
    pub exports: Vec<PathBuf>,
}

impl Workshop {
    /// A program with a buildpack's environment.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = if self.exports.is_empty() {
            Command::new(program)
        } else {
            let mut shell = Command::new("bash");
            let script = r#"while [ "$1" != -- ]; do . "$1"; shift; done; shift; exec "$@""#;
            shell.args(["-c", script, "bash"]).args(&self.exports).arg("--").arg(program);
            shell
        };
        command.env_clear().envs(self.variables.iter().cloned());
        command.current_dir(&self.build).kill_on_drop(true);
        command
    }
}

impl Buildpack {
    /// A buildpack in a directory.
    pub fn open(name: &str, directory: PathBuf) -> Result<Self, BuildError> {
        let compile = directory.join("bin/compile");
        let runs = fs::metadata(&compile).is_ok_and(|file| file.permissions().mode() & 0o111 != 0);
        if !runs {
            return Err(BuildError::NotABuildpack { name: name.into() });
        }
        Ok(Self { name: name.into(), directory })
    }

    /// What it calls the app, if it wants it.
    pub async fn detect(&self, shop: &Workshop) -> Result<Option<String>, BuildError> {
        let mut detect = shop.command(&self.program("detect"));
        detect.arg(&shop.build);
        let (status, name) =
            answer(detect).await.map_err(|source| self.not_run("detect", source))?;
        Ok(status.success().then(|| name.trim().lines().next().unwrap_or_default().to_owned()))
    }

    /// Builds the app.
    pub async fn compile(&self, shop: &Workshop, console: &Console) -> Result<(), BuildError> {
        let mut compile = shop.command(&self.program("compile"));
        compile.arg(&shop.build).arg(&shop.cache).arg(&shop.env);
        let status = shown(compile, console, HEARTBEAT).await;
        let status = status.map_err(|source| self.not_run("compile", source))?;
        self.succeeded(status, |name, status| BuildError::Compile { name, status })
    }

    /// What it adds to the release. A buildpack need not have this part.
    pub async fn release(&self, shop: &Workshop) -> Result<SlugRelease, BuildError> {
        let program = self.program("release");
        if !program.exists() {
            return Ok(SlugRelease::default());
        }
        let mut command = shop.command(&program);
        command.arg(&shop.build);
        let (status, text) =
            answer(command).await.map_err(|source| self.not_run("release", source))?;
        self.succeeded(status, |name, status| BuildError::Release { name, status })?;
        release::parse(&text)
            .map_err(|source| BuildError::BadRelease { name: self.name.clone(), source })
    }

    /// The file it leaves for buildpacks after it.
    pub fn export(&self) -> Option<PathBuf> {
        let export = self.directory.join("export");
        export.is_file().then_some(export)
    }

    fn program(&self, name: &str) -> PathBuf {
        self.directory.join("bin").join(name)
    }

    fn succeeded(
        &self,
        status: ExitStatus,
        failed: impl Fn(String, ExitStatus) -> BuildError,
    ) -> Result<(), BuildError> {
        if status.success() { Ok(()) } else { Err(failed(self.name.clone(), status)) }
    }

    fn not_run(&self, program: &str, source: std::io::Error) -> BuildError {
        BuildError::Program {
            program: format!("bin/{program} of the {} buildpack", self.name),
            source,
        }
    }
}
