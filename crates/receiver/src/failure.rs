//! Why a push is rejected, as sentences for the person who pushed.

use api::slug::BuildResult;

/// Why a push is rejected.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Not told which repository state the push leads to.
    #[error(
        "flynn-receive needs FLYNN_PACKS or FLYNN_PACK_FILE: it is run by git push or by taffy"
    )]
    NoHead,
    /// There is no such app.
    #[error("There is no app {0}. To create it: flynn create {0}")]
    NoApp(String),
    /// It was deleted meanwhile.
    #[error(
        "{0} was deleted while it was pushed: nothing of it runs. To create it anew: flynn create {0}"
    )]
    Deleted(String),
    /// Too many packs for one repository.
    #[error(
        "The repository of {0} is in {1} parts, because branches and tags are kept beside what is deployed. Join them with a git \
         push, as of `git push flynn HEAD:refs/heads/joined`, and deploy again. Nothing was changed."
    )]
    Parts(String, usize),
    /// The controller, asked before anything changed.
    #[error("{doing} failed: {source}. Nothing was changed; push again in a minute.")]
    Controller {
        /// What was being done.
        doing: &'static str,
        /// Why.
        source: api_client::Error,
    },
    /// The blob store.
    #[error("{doing} failed: {source}. Nothing was changed; push again in a minute.")]
    Shelf {
        /// What was being done.
        doing: &'static str,
        /// Why.
        source: shelf_client::Error,
    },
    /// The build ended with an error, and has said why.
    #[error("The build failed (see above). Nothing was changed: what ran before still runs.")]
    Build,
    /// The app sets something about its builds that cannot be.
    #[error("{0}. Nothing was changed.")]
    Setting(#[from] crate::settings::BadMemory),
    /// The builder was killed.
    #[error("The build was stopped with status {0}{hint}. Nothing was changed.", hint = hint(*.0))]
    Killed(u32),
    /// The connection to the build broke.
    #[error("The build was lost ({0}). Nothing was changed; push again.")]
    Lost(String),
    /// The result of the build is not usable.
    #[error("The build left no usable result ({0}). Nothing was changed; push again.")]
    BadResult(String),
    /// There is nothing to run.
    #[error(
        "{} found nothing to run. Add a Procfile with a line like `web: <command>` to the root of the repository.",
        if .0.buildpack.is_empty() { "The build" } else { &.0.buildpack }
    )]
    NoTypes(Box<BuildResult>),
    /// The controller refused the release.
    #[error("The release was refused: {0}. Nothing was changed.")]
    Refused(String),
    /// It is not known whether the release was made.
    #[error(
        "The controller broke off while the release was made: {0}. `flynn releases` shows whether it was; if not, push again."
    )]
    Unknown(api_client::Error),
    /// The new release does not work.
    #[error(
        "The new release was not deployed: {0}\nWhat ran before still runs. Mend it and push again."
    )]
    Deployment(String),
    /// The deployment can be followed no longer.
    #[error(
        "The deployment can be followed no longer ({0}) and goes on by itself. `flynn ps` shows what runs."
    )]
    Unfollowed(api_client::Error),
    /// Told to stop before anything changed.
    #[error("The push was stopped. Nothing was changed.")]
    Stopped,
    /// Told to stop too late.
    #[error(
        "The push was stopped, but the deployment goes on by itself. `flynn ps` shows what runs."
    )]
    GoesOn,
}

fn hint(status: u32) -> &'static str {
    match status {
        137 => {
            ": it was killed, most likely because it used more memory than builds may. To \
                give them more: flynn env-set BUILD_MEMORY=2GB"
        }
        143 => ": it was told to stop",
        _ => "",
    }
}

impl Failure {
    pub(crate) fn controller(doing: &'static str) -> impl FnOnce(api_client::Error) -> Self {
        move |source| Self::Controller { doing, source }
    }

    /// Whether it may be there because the app is not: whoever stopped the push knows what they did.
    pub(crate) fn may_be_of_a_deletion(&self) -> bool {
        !matches!(self, Self::NoHead | Self::NoApp(_) | Self::Stopped | Self::GoesOn)
    }

    pub(crate) fn shelf(doing: &'static str) -> impl FnOnce(shelf_client::Error) -> Self {
        move |source| Self::Shelf { doing, source }
    }
}
