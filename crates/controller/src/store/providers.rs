//! Providers.

use api::{
    controller::{NewProvider, Provider},
    id::ProviderId,
};
use pg::{GenericClient, Row};
use uuid::Uuid;

use super::{Page, Tx, resources::UNANSWERED_SECONDS};
use crate::{
    domain::provider::{canonical_url, split_password},
    error::{Error, Result},
};

const COLUMNS: &str = "provider_id, name, url, created_at, updated_at";

fn of_row(row: &Row) -> Provider {
    Provider {
        id: row.get::<_, Uuid>("provider_id").into(),
        url: split_password(row.get("url")).0,
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

/// The key the operator gave for a provider; in the URL, in the version before.
pub(crate) async fn key(db: &impl GenericClient, id: ProviderId) -> Result<Option<String>> {
    let sql = "SELECT key, url FROM providers WHERE provider_id = $1";
    let Some(row) = pg::row_opt(db, sql, &[&id.uuid()]).await? else { return Ok(None) };
    let key: Option<String> = row.get("key");
    Ok(key.filter(|key| !key.is_empty()).or_else(|| split_password(row.get("url")).1))
}

/// Makes a provider known.
pub(crate) async fn insert(tx: &mut Tx<'_>, new: &NewProvider) -> Result<Provider> {
    let id = ProviderId::random();
    let place = canonical_url(&new.url);
    // Of two at once in two spellings, the second sees the first.
    pg::execute(&**tx, "LOCK TABLE providers IN SHARE ROW EXCLUSIVE MODE", &[]).await?;
    for row in pg::rows(&**tx, "SELECT name, url FROM providers", &[]).await? {
        if canonical_url(row.get("url")) == place {
            let (name, url): (&str, &str) = (row.get("name"), &new.url);
            return Err(Error::Exists(format!("{url} leads to the provider {name} already")));
        }
    }
    let key = new.key.as_deref().filter(|key| !key.is_empty());
    let sql = format!(
        "INSERT INTO providers (provider_id, name, url, key) VALUES ($1, $2, $3, $4) \
         RETURNING {COLUMNS}"
    );
    let row =
        pg::row(&**tx, &sql, &[&id.uuid(), &new.name, &new.url, &key]).await.map_err(|err| {
            match err.violated() {
                Some(_) => {
                    Error::Exists(format!("there is a provider named {:?} already", new.name))
                }
                None => err.into(),
            }
        })?;
    let provider = of_row(&row);
    tx.event(None, "provider", provider.id, &provider);
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
    check_unused(tx, &provider).await?;
    if leftovers == Leftovers::GivenUp {
        check_idle(tx, &provider).await?;
        super::resources::give_up(tx, provider.id).await?;
    }
    let made = "SELECT count(*) FROM resources WHERE provider_id = $1";
    let made: i64 = pg::row(&**tx, made, &[&id]).await?.get(0);
    if made > 0 {
        return Err(Error::Conflict(format!(
            "resources of provider {} were removed and are not destroyed yet ({made}): `flynn resources --all` lists \
             them. They are destroyed after the time in which they can be restored, if the provider answers; if it never \
             will again, --force gives them up",
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
    tx.event(None, "provider_deletion", provider.id, &provider);
    Ok(provider)
}

/// Nobody uses what it made.
async fn check_unused(tx: &Tx<'_>, provider: &Provider) -> Result<()> {
    let sql = "SELECT count(DISTINCT r.resource_id), \
                      coalesce(left(string_agg(DISTINCT a.name, ', ' ORDER BY a.name), 200), 'no app') AS apps \
               FROM resources r LEFT JOIN app_resources l USING (resource_id) \
                   LEFT JOIN apps a ON a.app_id = l.app_id AND a.deleted_at IS NULL \
               WHERE r.provider_id = $1 AND r.deleted_at IS NULL";
    let row = pg::row(&**tx, sql, &[&provider.id.uuid()]).await?;
    let (made, apps): (i64, String) = (row.get(0), row.get("apps"));
    if made == 0 {
        return Ok(());
    }
    Err(Error::Conflict(format!(
        "there are resources of provider {} that were not removed ({made}; used by {apps}): `flynn resources --all` lists \
         them, `flynn -a APP resource-remove` removes one",
        provider.name
    )))
}

/// It is not being asked for anything: what it may yet do must be known here until it has done it.
async fn check_idle(tx: &Tx<'_>, provider: &Provider) -> Result<()> {
    let id = provider.id.uuid();
    // First, for what takes one of them at this moment is seen by the next statement.
    for table in ["resources", "provisionings"] {
        let lock = format!("SELECT FROM {table} WHERE provider_id = $1 FOR UPDATE");
        pg::rows(&**tx, &lock, &[&id]).await?;
    }
    let sql = "SELECT (SELECT count(*) FROM resources WHERE provider_id = $1 AND asked_at > now() - $2 * interval '1 s') \
                    + (SELECT count(*) FROM provisionings WHERE provider_id = $1 AND asked_at > now() - $2 * interval '1 s')";
    let under_way: i64 = pg::row(&**tx, sql, &[&id, &UNANSWERED_SECONDS]).await?.get(0);
    if under_way == 0 {
        return Ok(());
    }
    Err(Error::Conflict(format!(
        "provider {} was just asked to make or to destroy something, has not answered, and may yet do it: try again in \
         {UNANSWERED_SECONDS:.0} s",
        provider.name
    )))
}
