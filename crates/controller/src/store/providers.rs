//! Providers.

use api::{
    controller::{NewProvider, Provider},
    id::ProviderId,
};
use pg::{GenericClient, Row};
use uuid::Uuid;

use super::{Page, Tx};
use crate::error::{Error, Result};

const COLUMNS: &str = "provider_id, name, url, created_at, updated_at";

fn of_row(row: &Row) -> Provider {
    Provider {
        id: row.get::<_, Uuid>("provider_id").into(),
        url: row.get("url"),
        name: row.get("name"),
        created_at: row.get("created_at"),
        updated_at: row.get("updated_at"),
    }
}

/// Providers, newest first.
pub(crate) async fn list(db: &impl GenericClient, page: Page) -> Result<Vec<Provider>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM providers WHERE $1::uuid IS NULL OR (created_at, provider_id) < \
             (SELECT created_at, provider_id FROM providers WHERE provider_id = $1) \
         ORDER BY created_at DESC, provider_id DESC LIMIT $2"
    );
    let rows = pg::rows(db, &sql, &[&page.before, &page.limit]).await?;
    super::begun(db, &rows, ("providers", "provider_id"), page.before).await?;
    Ok(rows.iter().map(of_row).collect())
}

/// A provider by id or name.
pub(crate) async fn find(db: &impl GenericClient, provider: &str) -> Result<Provider> {
    let id = provider.parse::<ProviderId>().ok().map(ProviderId::uuid);
    let sql = format!(
        "SELECT {COLUMNS} FROM providers WHERE provider_id = $1 OR name = $2 \
         ORDER BY (provider_id = $1) DESC NULLS LAST LIMIT 1"
    );
    let row = pg::row_opt(db, &sql, &[&id, &provider]).await?;
    row.as_ref().map(of_row).ok_or_else(|| Error::missing("provider", provider))
}

/// The key the operator gave for a provider.
pub(crate) async fn key(db: &impl GenericClient, id: ProviderId) -> Result<Option<String>> {
    let sql = "SELECT key FROM providers WHERE provider_id = $1";
    Ok(pg::row_opt(db, sql, &[&id.uuid()]).await?.and_then(|row| row.get("key")))
}

/// Makes a provider known.
pub(crate) async fn insert(tx: &mut Tx<'_>, new: &NewProvider) -> Result<Provider> {
    let id = ProviderId::random();
    let sql = format!(
        "INSERT INTO providers (provider_id, name, url, key) VALUES ($1, $2, $3, $4) \
         RETURNING {COLUMNS}"
    );
    let row = pg::row(&**tx, &sql, &[&id.uuid(), &new.name, &new.url, &new.key]).await.map_err(
        |err| match err.violated() {
            Some("providers_url") => {
                Error::Exists(format!("there is a provider with the URL {} already", new.url))
            }
            Some(_) => Error::Exists(format!("there is a provider named {:?} already", new.name)),
            None => err.into(),
        },
    )?;
    let provider = of_row(&row);
    tx.event(None, "provider", provider.id, &told(&provider));
    Ok(provider)
}

/// What becomes of what only the provider can destroy, and has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leftovers {
    /// It is asked until it does.
    Awaited,
    /// It is gone for good, or may keep them.
    GivenUp,
}

/// Forgets a provider. Not while a resource of it is in use, nor while leftovers are awaited.
pub(crate) async fn delete(
    tx: &mut Tx<'_>,
    provider: &str,
    leftovers: Leftovers,
) -> Result<Provider> {
    let provider = find(&**tx, provider).await?;
    let id = provider.id.uuid();
    // Who has it make something refers to it, and waits.
    let lock = "SELECT FROM providers WHERE provider_id = $1 FOR UPDATE";
    let locked = pg::row_opt(&**tx, lock, &[&id]).await?;
    locked.ok_or_else(|| Error::missing("provider", &provider.name))?;
    if leftovers == Leftovers::GivenUp {
        super::resources::give_up(tx, provider.id).await?;
    }
    let made = "SELECT count(*) FROM resources WHERE provider_id = $1";
    let made: i64 = pg::row(&**tx, made, &[&id]).await?.get(0);
    if made > 0 {
        return Err(Error::Conflict(format!(
            "there are resources of provider {} ({made}): `flynn resources --all` lists them. What was removed is \
             destroyed after the time in which it can be restored, if the provider answers; if it never will again, \
             --force gives up what was removed",
            provider.name
        )));
    }
    let asked = "SELECT count(*) FROM provisionings WHERE provider_id = $1";
    let asked: i64 = pg::row(&**tx, asked, &[&id]).await?.get(0);
    if asked > 0 {
        return Err(Error::Conflict(format!(
            "provider {} was asked for a resource and did not say what it made: that is cleared up some minutes after, if \
             it answers; try again then, or give it up with --force",
            provider.name
        )));
    }
    pg::execute(&**tx, "DELETE FROM providers WHERE provider_id = $1", &[&id]).await?;
    tx.event(None, "provider_deletion", provider.id, &told(&provider));
    Ok(provider)
}

/// What an event says of a provider.
fn told(provider: &Provider) -> Provider {
    Provider { url: without_password(&provider.url), ..provider.clone() }
}

/// A URL without the user and password in it: events are kept.
fn without_password(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    match authority.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://{host}{path}"),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::without_password;

    #[test]
    fn a_url_is_told_without_its_password() {
        assert_eq!(without_password("http://me:secret@db.example/x@y"), "http://db.example/x@y");
        assert_eq!(
            without_password("discoverd+http://pg/databases"),
            "discoverd+http://pg/databases"
        );
    }
}
