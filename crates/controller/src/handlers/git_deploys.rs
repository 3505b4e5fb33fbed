//! `POST /apps/:app/git-deploys`: a repository is deployed by its URL.

use api::id::JobId;
use axum::{
    extract::{Path, Request, State},
    response::Response,
};

use super::run;
use crate::{
    error::{Error, Result},
    git_deploys,
    server::Controller,
};

/// Starts a job that deploys what its stdin says (`api::git::GitSource`). There is no other way to say it: requests, arguments
/// and environments are seen by more than one.
pub(crate) async fn deploy(
    State(controller): State<Controller>,
    Path(app): Path<String>,
    mut request: Request,
) -> Result<Response> {
    let Some(upgrade) = run::upgrade_of(&mut request) else {
        let message = format!(
            "this needs the header `Upgrade: {}`: the job reads from its stdin what to deploy",
            attach::PROTOCOL
        );
        return Err(Error::Malformed(message));
    };
    // As with every attached job, the daemon waits for its end.
    let _attaching = controller.attachments.begin(JobId::random());
    let (planned, new) = git_deploys::plan(&controller, &app).await?;
    run::attach(&controller, planned, new, upgrade).await
}
