//! Why a step failed.

use std::path::PathBuf;

use api::{id::JobId, route::TwoRoutesError};

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// This is no host of Flynn's.
    #[error(
        "the cluster's key in {path} could not be read; run `flynn-host init` on this host first, and this as root"
    )]
    ClusterKey {
        /// Where it should be.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The cluster has a layer 1 that this data directory knows nothing of.
    #[error(
        "this cluster has a controller already (at {0}), and this host holds no bootstrap/state.json of it, so nothing \
         was changed. A host that joined needs no bootstrap; to repeat one, run it on the host where it was run first"
    )]
    HasController(String),
    /// What is awaited did not come.
    #[error("waited too long for {what}; last seen: {seen}")]
    Timeout {
        /// What.
        what: String,
        /// What was seen last.
        seen: String,
    },
    /// A job ended.
    #[error("job {job} ({image}) ended instead of coming up: {said}; see `flynn-host log {job}`")]
    Ended {
        /// The job.
        job: JobId,
        /// What it ran.
        image: String,
        /// What its host says.
        said: String,
    },
    /// A route is described twice.
    #[error(transparent)]
    Route(#[from] TwoRoutesError),
    /// A template stands for nothing.
    #[error("a template of the step cannot be filled in")]
    Template(#[source] minijinja::Error),
    /// A field is missing or of the wrong kind.
    #[error("the step's fields cannot be used")]
    Fields(#[source] serde_json::Error),
    /// The step it refers to has no such result.
    #[error("step {step:?}, which this one refers to, {lacks}")]
    Reference {
        /// The other step.
        step: String,
        /// What is missing.
        lacks: &'static str,
    },
    /// A release cannot be run.
    #[error("the release cannot be run")]
    Release(#[source] api::expand::ExpandError),
    /// A service said no.
    #[error("{doing} failed")]
    Request {
        /// What was being done.
        doing: String,
        /// Why.
        #[source]
        source: api_client::Error,
    },
    /// A URL is of no known form.
    #[error("{0:?} is no URL a step can use: expected http://… or discoverd+http://<service>/…")]
    Url(String),
    /// A key or a certificate could not be made.
    #[error("{0} could not be made")]
    Crypto(&'static str),
    /// State.
    #[error(transparent)]
    State(#[from] crate::state::StateError),
}

impl StepError {
    /// For `map_err` on requests.
    pub fn request(doing: impl Into<String>) -> impl FnOnce(api_client::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Request { doing, source }
    }
}
