//! What providers were asked for and have not answered yet, so that what they made for an answer that was lost is
//! destroyed.

use api::id::{ProviderId, ResourceId};
use pg::{GenericClient, Row, types::Json};
use uuid::Uuid;

use super::{Tx, json};
use crate::error::{Error, Result};

/// Notes what a provider is about to be asked for.
pub(crate) async fn begin(
    db: &impl GenericClient,
    id: ResourceId,
    provider: ProviderId,
    config: &serde_json::Value,
) -> Result<()> {
    let sql = "INSERT INTO provisionings (resource_id, provider_id, config) \
               SELECT $1, provider_id, $3 FROM providers WHERE provider_id = $2 FOR KEY SHARE";
    let begun = pg::execute(db, sql, &[&id.uuid(), &provider.uuid(), &Json(config)]).await?;
    // It was removed since it was found.
    if begun == 0 { Err(Error::missing("provider", provider)) } else { Ok(()) }
}

/// Forgets it again: the provider made nothing, or what it made is destroyed or somebody's.
pub(crate) async fn end(db: &impl GenericClient, id: ResourceId) -> Result<()> {
    pg::execute(db, "DELETE FROM provisionings WHERE resource_id = $1", &[&id.uuid()]).await?;
    Ok(())
}

/// What was made shall be destroyed at once: nobody waits for it.
pub(crate) async fn hasten(db: &impl GenericClient, id: ResourceId) -> Result<()> {
    let sql = "UPDATE provisionings SET asked_at = NULL, retry_at = now() WHERE resource_id = $1";
    pg::execute(db, sql, &[&id.uuid()]).await?;
    Ok(())
}

/// Locks a provider to the end of the transaction: of what it made, nothing is recorded and nothing is condemned by another
/// meanwhile. Who also locks an app has done that before.
pub(super) async fn lock_provider(tx: &Tx<'_>, provider: ProviderId) -> Result<()> {
    // Who merely refers to it does not wait.
    let sql = "SELECT FROM providers WHERE provider_id = $1 FOR NO KEY UPDATE";
    let locked = pg::row_opt(&**tx, sql, &[&provider.uuid()]).await?;
    locked.map(drop).ok_or_else(|| Error::missing("provider", provider))
}

/// Whether what a provider made under its id is being destroyed. Its provider is locked.
pub(super) async fn is_condemned(
    tx: &Tx<'_>,
    provider: ProviderId,
    external_id: &str,
) -> Result<bool> {
    let sql = "SELECT FROM provisionings WHERE provider_id = $1 AND external_id = $2 LIMIT 1";
    Ok(pg::row_opt(&**tx, sql, &[&provider.uuid(), &external_id]).await?.is_some())
}

/// Whether it is still known that a provider was asked for this.
pub(super) async fn is_begun(tx: &Tx<'_>, id: ResourceId) -> Result<bool> {
    let sql = "SELECT FROM provisionings WHERE resource_id = $1 FOR UPDATE";
    Ok(pg::row_opt(&**tx, sql, &[&id.uuid()]).await?.is_some())
}

/// What becomes of something that a provider made for an answer that was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is destroyed.
    Condemned,
    /// It is not: somebody has it, or its id could not be told to the provider as it is.
    Left,
    /// A removed resource is called so and is being destroyed: once that is over it is seen what is left.
    Waits,
}

/// Says that what a provider made shall be destroyed, unless it is a recorded resource: one that the provider answered
/// twice, or that somebody recorded meanwhile. Then, there is nothing to do and it is forgotten that it was asked for.
pub(crate) async fn condemn(tx: &Tx<'_>, lost: &Lost, external_id: &str) -> Result<Verdict> {
    if external_id.contains('\0') {
        // A provider may read but the part before it, which is another's.
        end(&**tx, lost.id).await?;
        return Ok(Verdict::Left);
    }
    lock_provider(tx, lost.provider).await?;
    let recorded = "SELECT purging FROM resources WHERE provider_id = $1 AND external_id = $2";
    match pg::row_opt(&**tx, recorded, &[&lost.provider.uuid(), &external_id]).await? {
        Some(row) if row.get("purging") => return Ok(Verdict::Waits),
        Some(_) => {
            end(&**tx, lost.id).await?;
            return Ok(Verdict::Left);
        }
        None => {}
    }
    let sql = "UPDATE provisionings SET external_id = $2 WHERE resource_id = $1";
    let known = pg::execute(&**tx, sql, &[&lost.id.uuid(), &external_id]).await? > 0;
    Ok(if known { Verdict::Condemned } else { Verdict::Left })
}

/// A provider has answered that it did not do what it was asked for.
pub(crate) async fn answered(db: &impl GenericClient, id: ResourceId) -> Result<()> {
    let sql = "UPDATE provisionings SET asked_at = NULL WHERE resource_id = $1";
    pg::execute(db, sql, &[&id.uuid()]).await?;
    Ok(())
}

/// What a provider was asked for without an answer.
#[derive(Debug)]
pub(crate) struct Lost {
    /// The id it was to have.
    pub(crate) id: ResourceId,
    /// Who was asked.
    pub(crate) provider: ProviderId,
    /// For what.
    pub(crate) config: serde_json::Value,
    /// The provider's id, once it is known that it has to be destroyed.
    pub(crate) external_id: Option<String>,
}

/// Takes provisionings whose answer was lost: the first first, at most `each` of a provider, together with the
/// requests it is `busy` with. They are taken again in five minutes, and each time after twice the time, up to an hour.
pub(crate) async fn take(
    db: &impl GenericClient,
    busy: &[ProviderId],
    each: i64,
    limit: i64,
) -> Result<Vec<Lost>> {
    let sql = "UPDATE provisionings SET purge_failures = purge_failures + 1, asked_at = now(), retry_at = now() \
                   + least(interval '5 minutes' * 2 ^ least(purge_failures, 10), interval '1 hour') \
               WHERE resource_id IN (SELECT resource_id FROM provisionings JOIN \
                   (SELECT resource_id, row_number() OVER \
                        (PARTITION BY provider_id ORDER BY retry_at, resource_id) AS place \
                    FROM provisionings WHERE retry_at <= now()) due \
                   USING (resource_id) \
                   WHERE place + (SELECT count(*) FROM unnest($1::uuid[]) AS busy (id) \
                                WHERE busy.id = provider_id) <= $2 \
                     AND retry_at <= now() \
                   ORDER BY retry_at LIMIT $3 FOR UPDATE OF provisionings SKIP LOCKED) \
               RETURNING resource_id, provider_id, config, external_id";
    let busy: Vec<Uuid> = busy.iter().map(|id| id.uuid()).collect();
    let lost = |row: &Row| Lost {
        id: row.get::<_, Uuid>("resource_id").into(),
        provider: row.get::<_, Uuid>("provider_id").into(),
        config: json(row, "config"),
        external_id: row.get("external_id"),
    };
    Ok(pg::rows(db, sql, &[&busy, &each, &limit]).await?.iter().map(lost).collect())
}
