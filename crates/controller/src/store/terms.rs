//! The highest term of a scheduler that told of jobs.

use api::discoverd::Term;
use pg::Row;

use super::Tx;
use crate::error::{Error, Result};

/// Lets a scheduler tell of jobs to the end of the transaction, unless one with a higher term does. Two may believe to lead
/// for a while, and the last word must not be the old one's.
///
/// If the one with the higher term has told nothing for ten minutes its word counts no more: a database that was brought to
/// another cluster must not refuse that one's schedulers for ever.
pub(crate) async fn obey(tx: &Tx<'_>, term: Term) -> Result<()> {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let (epoch, revision) = (number(term.epoch), number(term.revision));
    let of_row = |row: &Row| (row.get::<_, i64>("epoch"), row.get::<_, i64>("revision"));
    let sql =
        "SELECT epoch, revision FROM scheduler_terms WHERE told_at > now() - interval '1 minute'";
    let known = pg::row_opt(&**tx, sql, &[]).await?;
    let obeyed = if known.as_ref().map(of_row) == Some((epoch, revision)) {
        // A shared lock: many of its jobs are told at once, and none after a higher term was.
        let sql = "SELECT 1 FROM scheduler_terms WHERE (epoch, revision) <= ($1, $2) FOR SHARE";
        pg::row_opt(&**tx, sql, &[&epoch, &revision]).await?
    } else {
        let sql = "INSERT INTO scheduler_terms (epoch, revision) VALUES ($1, $2) \
                   ON CONFLICT (only_one) DO UPDATE SET epoch = $1, revision = $2, told_at = now() \
                   WHERE (scheduler_terms.epoch, scheduler_terms.revision) <= ($1, $2) \
                      OR scheduler_terms.told_at < now() - interval '10 minutes' RETURNING 1";
        pg::row_opt(&**tx, sql, &[&epoch, &revision]).await?
    };
    obeyed.map(drop).ok_or_else(|| {
        Error::Conflict(format!(
            "the term {} of this scheduler is over: another one leads",
            term.to_header()
        ))
    })
}
