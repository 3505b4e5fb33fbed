//! SSH keys.

use api::{controller::Key, id::AppId};
use pg::{GenericClient, Row};
use uuid::Uuid;

use super::{Page, Tx};
use crate::{
    domain::key::PublicKey,
    error::{Error, Result},
};

const COLUMNS: &str = "fingerprint, key, comment, apps, created_at";

fn of_row(row: &Row) -> Key {
    Key {
        fingerprint: row.get("fingerprint"),
        key: row.get("key"),
        comment: row.get("comment"),
        apps: row.get::<_, Vec<Uuid>>("apps").into_iter().map(Into::into).collect(),
        created_at: row.get("created_at"),
    }
}

/// Keys, newest first.
pub(crate) async fn list(db: &impl GenericClient, page: &Page<String>) -> Result<Vec<Key>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM keys WHERE $1::text IS NULL OR (created_at, fingerprint) < \
             (SELECT created_at, fingerprint FROM keys WHERE fingerprint = $1) \
         ORDER BY created_at DESC, fingerprint DESC LIMIT $2"
    );
    let rows = pg::rows(db, &sql, &[&page.before, &page.limit]).await?;
    super::begun(db, &rows, ("keys", "fingerprint"), page.before.as_ref()).await?;
    Ok(rows.iter().map(of_row).collect())
}

/// The key with a fingerprint.
pub(crate) async fn find(db: &impl GenericClient, fingerprint: &str) -> Result<Key> {
    let sql = format!("SELECT {COLUMNS} FROM keys WHERE fingerprint = $1");
    let row = pg::row_opt(db, &sql, &[&fingerprint]).await?;
    row.as_ref().map(of_row).ok_or_else(|| Error::missing("key", fingerprint))
}

/// Lets a key push, to these apps alone or, if none is named, to all.
pub(crate) async fn insert(tx: &mut Tx<'_>, key: &PublicKey, apps: &[AppId]) -> Result<Key> {
    let apps: Vec<Uuid> = apps.iter().map(|app| app.uuid()).collect();
    let sql = format!(
        "INSERT INTO keys (fingerprint, key, comment, apps) VALUES ($1, $2, $3, $4) RETURNING {COLUMNS}"
    );
    let row = pg::row(&**tx, &sql, &[&key.fingerprint, &key.key, &key.comment, &apps]).await;
    let row = row.map_err(|err| match err.violated() {
        Some(_) => Error::Exists(format!(
            "the key {} may push already; to bind it to other apps remove it first",
            key.fingerprint
        )),
        None => err.into(),
    })?;
    let key = of_row(&row);
    tx.event(None, "key", &key.fingerprint, &key);
    Ok(key)
}

/// Lets a key push no longer.
pub(crate) async fn delete(tx: &mut Tx<'_>, fingerprint: &str) -> Result<()> {
    let sql = format!("DELETE FROM keys WHERE fingerprint = $1 RETURNING {COLUMNS}");
    let row = pg::row_opt(&**tx, &sql, &[&fingerprint]).await?;
    let key = row.as_ref().map(of_row).ok_or_else(|| Error::missing("key", fingerprint))?;
    tx.event(None, "key_deletion", fingerprint, &key);
    Ok(())
}
