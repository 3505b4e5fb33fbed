//! `/providers`.

use api::controller::{NewProvider, Provider};
use axum::{
    Json,
    extract::{Path, State},
};
use daemon::{Body, Query};

use super::{
    Answer,
    page::{self, Paging},
};
use crate::{
    error::Error,
    server::Controller,
    store::{self, Tx},
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
    if new.name.trim().is_empty() {
        return Err(Error::invalid("name", "must not be blank"));
    }
    let url = new.url.strip_prefix("discoverd+").unwrap_or(&new.url);
    if !url.starts_with("http://") && !url.starts_with("https://") {
        let message = "must be discoverd+http://<service>/<path>, or an http URL";
        return Err(Error::invalid("url", message));
    }
    let mut client = controller.db.client().await?;
    let mut tx = Tx::begin(&mut client).await?;
    let provider = store::providers::insert(&mut tx, &new).await?;
    tx.commit().await?;
    Ok(Json(provider))
}

pub(crate) async fn delete(
    State(controller): State<Controller>,
    Path(provider): Path<String>,
) -> Answer<Provider> {
    let mut client = controller.db.client().await?;
    let mut tx = Tx::begin(&mut client).await?;
    let provider = store::providers::delete(&mut tx, &provider).await?;
    tx.commit().await?;
    Ok(Json(provider))
}
