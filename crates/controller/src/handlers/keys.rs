//! `/keys`.

use std::collections::BTreeSet;

use api::controller::{Key, NewKey};
use axum::{
    Json,
    extract::{Path, State},
};
use daemon::{Body, Query};

use super::{Answer, done, page::Paging};
use crate::{
    domain::key,
    error::Error,
    server::Controller,
    store::{self, Tx},
};

pub(crate) async fn list(
    State(controller): State<Controller>,
    Query(paging): Query<Paging>,
) -> Answer<Vec<Key>> {
    let page = paging.page_of_keys()?;
    Ok(Json(store::keys::list(&controller.db.client().await?, &page).await?))
}

pub(crate) async fn show(
    State(controller): State<Controller>,
    Path(fingerprint): Path<String>,
) -> Answer<Key> {
    let fingerprint = fingerprint.replace(':', "");
    Ok(Json(store::keys::find(&controller.db.client().await?, &fingerprint).await?))
}

pub(crate) async fn create(
    State(controller): State<Controller>,
    Body(NewKey { key: line, apps }): Body<NewKey>,
) -> Answer<Key> {
    let key = key::parse(&line)?;
    let mut client = controller.db.client().await?;
    let mut tx = Tx::begin(&mut client).await?;
    let mut bound = BTreeSet::new();
    for app in &apps {
        let found = store::apps::find(&*tx, app).await.map_err(|err| match err {
            Error::Missing { .. } => {
                Error::invalid("apps", format!("names {app:?}, which is no app"))
            }
            err => err,
        })?;
        bound.insert(found.id);
    }
    let bound: Vec<_> = bound.into_iter().collect();
    let key = store::keys::insert(&mut tx, &key, &bound).await?;
    tx.commit().await?;
    Ok(Json(key))
}

pub(crate) async fn delete(
    State(controller): State<Controller>,
    Path(fingerprint): Path<String>,
) -> Answer<()> {
    let mut client = controller.db.client().await?;
    let mut tx = Tx::begin(&mut client).await?;
    store::keys::delete(&mut tx, &fingerprint.replace(':', "")).await?;
    tx.commit().await?;
    done()
}
