//! Artifacts.

use std::collections::BTreeMap;

use api::{
    controller::{Artifact, NewArtifact},
    id::{AppId, ArtifactId},
};
use pg::{GenericClient, Row, types::Json};
use uuid::Uuid;

use super::{Page, Tx, json, read, spelt};
use crate::error::{Error, Result};

const COLUMNS: &str = "artifact_id, type, uri, meta, created_at";

fn of_row(row: &Row) -> Artifact {
    Artifact {
        id: row.get::<_, Uuid>("artifact_id").into(),
        kind: read(row.get("type")),
        uri: row.get("uri"),
        meta: json(row, "meta"),
        created_at: row.get("created_at"),
    }
}

/// Artifacts, newest first.
pub(crate) async fn list(db: &impl GenericClient, page: Page) -> Result<Vec<Artifact>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM artifacts WHERE $1::uuid IS NULL OR (created_at, artifact_id) < \
             (SELECT created_at, artifact_id FROM artifacts WHERE artifact_id = $1) \
         ORDER BY created_at DESC, artifact_id DESC LIMIT $2"
    );
    let rows = pg::rows(db, &sql, &[&page.before, &page.limit]).await?;
    super::begun(db, &rows, ("artifacts", "artifact_id"), page.before).await?;
    Ok(rows.iter().map(of_row).collect())
}

/// The URIs of the artifacts that releases name, each with the app of the release.
pub(crate) async fn of_releases(db: &impl GenericClient) -> Result<Vec<(AppId, String)>> {
    let sql = "SELECT DISTINCT r.app_id, a.uri FROM releases r \
               JOIN artifacts a ON a.artifact_id = ANY(r.artifacts) WHERE r.app_id IS NOT NULL";
    let rows = pg::rows(db, sql, &[]).await?;
    Ok(rows.iter().map(|row| (row.get::<_, Uuid>("app_id").into(), row.get("uri"))).collect())
}

/// An artifact.
pub(crate) async fn find(db: &impl GenericClient, id: ArtifactId) -> Result<Artifact> {
    let mut found = in_order(db, &[id]).await?;
    found.pop().ok_or_else(|| Error::missing("artifact", id))
}

/// Those of these artifacts that exist, in this order.
pub(crate) async fn in_order(db: &impl GenericClient, ids: &[ArtifactId]) -> Result<Vec<Artifact>> {
    let wanted: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
    let sql = format!("SELECT {COLUMNS} FROM artifacts WHERE artifact_id = ANY($1)");
    let found: Vec<_> = pg::rows(db, &sql, &[&wanted]).await?.iter().map(of_row).collect();
    let found: BTreeMap<_, _> = found.into_iter().map(|artifact| (artifact.id, artifact)).collect();
    Ok(ids.iter().filter_map(|id| found.get(id).cloned()).collect())
}

/// Makes an artifact; the same type and URI again is the same artifact.
pub(crate) async fn put(tx: &mut Tx<'_>, new: &NewArtifact) -> Result<Artifact> {
    let id = new.id.unwrap_or_else(ArtifactId::random);
    let kind = spelt(&new.kind);
    let sql = format!(
        "INSERT INTO artifacts (artifact_id, type, uri, meta) VALUES ($1, $2, $3, $4) \
         ON CONFLICT ON CONSTRAINT artifacts_type_uri DO NOTHING RETURNING {COLUMNS}"
    );
    let made = pg::row_opt(&**tx, &sql, &[&id.uuid(), &kind, &new.uri, &Json(&new.meta)]).await;
    let made = made.map_err(|err| match err.violated() {
        Some(_) => Error::Exists(format!("there is another artifact with the id {id}")),
        None => err.into(),
    })?;
    if let Some(row) = made {
        let artifact = of_row(&row);
        tx.event(None, "artifact", artifact.id, &artifact);
        return Ok(artifact);
    }
    // Whoever wants it now names it in a release in a moment.
    let sql = format!(
        "UPDATE artifacts SET used_at = now() WHERE type = $1 AND uri = $2 RETURNING {COLUMNS}"
    );
    let there = of_row(&pg::row(&**tx, &sql, &[&kind, &new.uri]).await?);
    let digests = (there.meta.get("sha256"), new.meta.get("sha256"));
    if let (Some(known), Some(given)) = digests
        && known != given
    {
        let message = format!(
            "there is an artifact with the URI {} and another sha256 ({known}): give this one a URI of its own",
            new.uri
        );
        return Err(Error::Conflict(message));
    }
    Ok(there)
}
