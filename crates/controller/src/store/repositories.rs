//! Heads of repositories, and the right to push to one.

use api::{
    controller::{NewHead, RefsChange, Repository, RepositoryLease},
    id::AppId,
};
use pg::{GenericClient, types::Json};

use super::Tx;
use crate::{
    domain::refs,
    error::{Error, Result},
};

/// The head and the packs of an app's repository.
pub(crate) async fn find(db: &impl GenericClient, app: AppId) -> Result<Repository> {
    let sql = "SELECT head, packs, refs FROM repositories WHERE app_id = $1";
    let row = pg::row_opt(db, sql, &[&app.uuid()]).await?;
    Ok(row
        .map(|row| Repository {
            head: row.get("head"),
            packs: row.get("packs"),
            refs: row.get::<_, Json<_>>("refs").0,
        })
        .unwrap_or_default())
}

/// Moves branches and tags that are kept and not deployed, with the packs that brought their objects.
pub(crate) async fn change_refs(tx: &Tx<'_>, app: AppId, change: &RefsChange) -> Result<()> {
    let sql = "INSERT INTO repositories (app_id) VALUES ($1) ON CONFLICT DO NOTHING";
    pg::execute(&**tx, sql, &[&app.uuid()]).await?;
    let old = find(&**tx, app).await?;
    let packs = change.packs.as_ref();
    if packs.is_some_and(|packs| packs.old != old.packs) {
        return Err(Error::Conflict(
            "another push changed the repository meanwhile: push again".into(),
        ));
    }
    let refs = refs::changed(old.refs, &change.refs)?;
    let packs = packs.map_or(old.packs, |packs| packs.new.clone());
    let sql = "UPDATE repositories SET refs = $2, packs = $3 WHERE app_id = $1";
    pg::execute(&**tx, sql, &[&app.uuid(), &Json(&refs), &packs]).await?;
    Ok(())
}

/// Moves the head if it is where the pusher saw it. Answers whether it was.
pub(crate) async fn move_head(tx: &Tx<'_>, app: AppId, head: &NewHead) -> Result<bool> {
    let sql = "INSERT INTO repositories (app_id) VALUES ($1) ON CONFLICT DO NOTHING";
    pg::execute(&**tx, sql, &[&app.uuid()]).await?;
    // Who made these packs may have joined what there was, and so may another since: what that one left away is no longer
    // kept by anybody, and what it brought may need the objects of packs that were joined here. So if the packs are not
    // those that the pusher saw, none goes, and only what is new comes. Of a pusher that does not say what it saw, it is
    // known only whether somebody joined all packs.
    let sql = "UPDATE repositories SET head = $3, \
                   packs = CASE \
                       WHEN $5::text[] IS NULL THEN $4::text[] || ARRAY( \
                           SELECT pack FROM unnest(packs) pack \
                           WHERE pack <> ALL($4) AND packs[1] = ($4)[1]) \
                       WHEN packs = $5 THEN $4 \
                       ELSE packs || ARRAY( \
                           SELECT pack FROM unnest($4::text[]) pack \
                           WHERE pack <> ALL(packs) AND pack <> ALL($5)) END \
               WHERE app_id = $1 AND head IS NOT DISTINCT FROM $2";
    let NewHead { old, new, packs, packs_old } = head;
    let moved = pg::execute(&**tx, sql, &[&app.uuid(), old, new, packs, packs_old]).await?;
    Ok(moved == 1)
}

/// Takes or renews the right to push.
pub(crate) async fn lease(
    db: &impl GenericClient,
    app: AppId,
    lease: &RepositoryLease,
) -> Result<()> {
    let sql = "INSERT INTO repositories (app_id, holder, lease_until) \
               VALUES ($1, $2, now() + make_interval(secs => $3)) \
               ON CONFLICT (app_id) DO UPDATE \
               SET holder = excluded.holder, lease_until = excluded.lease_until \
               WHERE repositories.holder IS NULL OR repositories.holder = $2 \
                  OR repositories.lease_until < now()";
    let seconds = f64::from(lease.ttl_seconds);
    match pg::execute(db, sql, &[&app.uuid(), &lease.holder, &seconds]).await? {
        0 => Err(Error::Conflict(
            "somebody else pushes to this app at the moment; wait until that push has ended and \
             push again"
                .into(),
        )),
        _ => Ok(()),
    }
}

/// Gives the right to push back, if it is still the holder's.
pub(crate) async fn give_back(db: &impl GenericClient, app: AppId, holder: &str) -> Result<()> {
    let sql = "UPDATE repositories SET holder = NULL, lease_until = NULL \
               WHERE app_id = $1 AND holder = $2";
    pg::execute(db, sql, &[&app.uuid(), &holder]).await?;
    Ok(())
}
