//! `/providers`.

use api::controller::{NewProvider, Provider};
use axum::{
    Json,
    extract::{Path, State},
};
use daemon::{Body, Query};
use serde::Deserialize;

use super::{
    Answer,
    page::{self, Paging, flag},
};
use crate::{
    domain::provider,
    server::Controller,
    store::{self, Tx, providers::Leftovers},
};

pub(crate) async fn list(
    State(controller): State<Controller>,
    Query(paging): Query<Paging>,
) -> Answer<Vec<Provider>> {
    let page = paging.page(page::MOST)?;
    Ok(Json(store::providers::list(&controller.db.client().await?, page).await?))
}

pub(crate) async fn show(
    State(controller): State<Controller>,
    Path(provider): Path<String>,
) -> Answer<Provider> {
    Ok(Json(store::providers::find(&controller.db.client().await?, &provider).await?))
}

pub(crate) async fn create(
    State(controller): State<Controller>,
    Body(new): Body<NewProvider>,
) -> Answer<Provider> {
    provider::check_name(&new.name)?;
    provider::check_url(&new.url)?;
    let mut client = controller.db.client().await?;
    let mut tx = Tx::begin(&mut client).await?;
    let provider = store::providers::insert(&mut tx, &new).await?;
    tx.commit().await?;
    Ok(Json(provider))
}

/// How a provider is to be forgotten.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Forgetting {
    /// Also when it has not destroyed what was removed.
    #[serde(deserialize_with = "flag")]
    force: bool,
}

pub(crate) async fn delete(
    State(controller): State<Controller>,
    Path(provider): Path<String>,
    Query(how): Query<Forgetting>,
) -> Answer<Provider> {
    let leftovers = if how.force { Leftovers::GivenUp } else { Leftovers::Awaited };
    let mut client = controller.db.client().await?;
    let mut tx = Tx::begin(&mut client).await?;
    let provider = store::providers::delete(&mut tx, &provider, leftovers).await?;
    tx.commit().await?;
    Ok(Json(provider))
}
