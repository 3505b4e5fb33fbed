//! How a role leaves the database in which a session is.

use tokio_postgres::Client;

use super::{StoreError, removal::refused};
use crate::domain::names::Name;

/// Statements by which a role leaves relations and policies, each of which is locked for that. The server has room for some
/// thousand locks in all.
const PIECES: &str = "SELECT format('ALTER TABLE %I.%I OWNER TO pg_database_owner', n.nspname, c.relname) \
     FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_roles r ON r.oid = c.relowner \
     WHERE r.rolname = $1 AND c.relpersistence <> 't' \
         AND (c.relkind IN ('r', 'p', 'v', 'm', 'f') OR c.relkind = 'S' AND NOT EXISTS ( \
             SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid \
                 AND d.deptype IN ('a', 'i') AND d.refclassid = d.classid)) \
     UNION ALL \
     SELECT CASE WHEN others IS NULL THEN format('DROP POLICY %I ON %I.%I', polname, nspname, relname) \
         ELSE format('ALTER POLICY %I ON %I.%I TO %s', polname, nspname, relname, others) END \
     FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
         JOIN pg_roles r ON r.oid = ANY (p.polroles), \
         LATERAL (SELECT string_agg(quote_ident(o.rolname), ', ') AS others FROM pg_roles o \
             WHERE o.oid = ANY (p.polroles) AND o.oid <> r.oid) AS rest \
     WHERE r.rolname = $1 \
     LIMIT 500";
/// So many at a time.
const AT_A_TIME: usize = 500;

/// The statements that remove a role from the database in which they are executed. Its objects go to `pg_database_owner`, a
/// role of which the owner of the database is a member. Where a superuser owns the database they do not become a superuser's:
/// a function that runs with its owner's rights, or an index that calls one, gives nobody more rights.
pub(super) fn leave(role: &Name) -> [String; 2] {
    let role = role.quoted();
    [format!("REASSIGN OWNED BY {role} TO pg_database_owner"), format!("DROP OWNED BY {role}")]
}

/// Has a role leave the database of this session. What has been done stays done if it cannot be done whole in time.
pub(super) async fn leave_here(worker: &Client, role: &Name) -> Result<(), StoreError> {
    while leave_pieces(worker, role).await.map_err(refused)? {}
    for step in leave(role) {
        worker.batch_execute(&step).await.map_err(refused)?;
    }
    Ok(())
}

/// Where there is more than fits, has the role leave some of it. Whether it did.
async fn leave_pieces(worker: &Client, role: &Name) -> Result<bool, tokio_postgres::Error> {
    let pieces = worker.query(PIECES, &[&role.to_string()]).await?;
    if pieces.len() < AT_A_TIME {
        return Ok(false);
    }
    let pieces: Vec<&str> = pieces.iter().map(|row| row.get(0)).collect();
    match worker.batch_execute(&pieces.join(";")).await {
        Ok(()) => Ok(true),
        // The whole can do what one of these cannot, as when an app removed what it is about.
        Err(err) if err.code().is_some_and(|code| code.code().starts_with("42")) => Ok(false),
        Err(err) => Err(err),
    }
}
