use api::{
    cluster::{Committed, State as Cluster, Tx},
    error::ErrorCode,
};
use axum::{Json, extract::State};
use daemon::{ApiError, Body};
use http::HeaderMap;

use super::term;
use crate::{
    cluster::{CommitError, NotLeading},
    routes::App,
};

pub(crate) async fn state(State(app): State<App>) -> Result<Json<Cluster>, ApiError> {
    app.leadership.state().map(Json).map_err(|err| not_leading(&err))
}

pub(crate) async fn commit(
    State(app): State<App>,
    headers: HeaderMap,
    Body(tx): Body<Tx>,
) -> Result<Json<Committed>, ApiError> {
    let planner = term(&headers)?;
    app.leadership.commit(planner, tx).await.map(Json).map_err(|err| match err {
        CommitError::NotLeading(err) => not_leading(&err),
        CommitError::Panicked(err) => ApiError::internal("doing the transaction", &err),
        CommitError::Rejected(rejected) => {
            let detail = serde_json::to_value(rejected).expect("a refusal serialises");
            let message = "the state has changed since the transaction was planned; plan it again";
            ApiError::new(ErrorCode::Conflict, message).with_detail(detail)
        }
    })
}

fn not_leading(err: &NotLeading) -> ApiError {
    ApiError::unavailable(err.to_string())
}
