//! The only place with SQL: a file a table.

pub(crate) mod apps;
pub(crate) mod artifacts;
pub(crate) mod builds;
pub(crate) mod deployments;
pub(crate) mod events;
pub(crate) mod formations;
pub(crate) mod jobs;
pub(crate) mod keys;
pub(crate) mod providers;
pub(crate) mod provisionings;
pub(crate) mod releases;
pub(crate) mod repositories;
pub(crate) mod resources;
pub(crate) mod retention;
pub(crate) mod services;
pub(crate) mod sinks;
pub(crate) mod terms;
mod text;
mod tx;

use std::collections::BTreeMap;

use api::{
    controller::{ArtifactType, DeploymentStatus, JobState, Strategy},
    host::EndReason,
};
use pg::{
    GenericClient, Row,
    types::{Json, ToSql},
};
use serde::{Serialize, de::DeserializeOwned};
use text::{stored, stored_json};
use tracing::warn;
pub(crate) use tx::Tx;
use uuid::Uuid;

use crate::error::{Error, Result};

/// The migrations of this daemon's database.
pub(crate) mod migrations {
    refinery::embed_migrations!("migrations");
}

/// A map kept as JSON.
pub(crate) type Map = BTreeMap<String, String>;
/// Counts of processes by type.
pub(crate) type Counts = BTreeMap<String, u32>;

/// A part of a list, newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Page<Id = Uuid> {
    /// Only what is older than this one.
    pub(crate) before: Option<Id>,
    /// Most that are answered.
    pub(crate) limit: i64,
}

/// Refuses a page without rows whose beginning, the row with this id, is gone: nobody shall take it for the end of the list.
async fn begun<Id: ToSql + Sync>(
    db: &impl GenericClient,
    rows: &[Row],
    (table, column): (&str, &str),
    before: Option<Id>,
) -> Result<()> {
    let Some(id) = before.filter(|_| rows.is_empty()) else { return Ok(()) };
    let sql = format!("SELECT 1 FROM {table} WHERE {column} = $1");
    match pg::row_opt(db, &sql, &[&id]).await? {
        Some(_) => Ok(()),
        None => Err(begin_again()),
    }
}

/// What a page shall begin after is not there.
pub(crate) fn begin_again() -> Error {
    Error::invalid(
        "before_id",
        "names what is not there any more: read the list from its beginning",
    )
}

/// A value of ours in a text column, as it is spelt on the wire.
fn spelt<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        _ => unreachable!("enums without fields serialise to their names"),
    }
}

/// A word kept in a text column.
trait Word: DeserializeOwned {
    /// What a word is taken for that a newer version wrote: nothing shall follow from it.
    const UNKNOWN: Self;
}

impl Word for Strategy {
    const UNKNOWN: Self = Self::OneByOne;
}

impl Word for DeploymentStatus {
    const UNKNOWN: Self = Self::Running;
}

impl Word for JobState {
    const UNKNOWN: Self = Self::Starting;
}

impl Word for ArtifactType {
    const UNKNOWN: Self = Self::File;
}

impl Word for EndReason {
    const UNKNOWN: Self = Self::Unknown;
}

/// The value a text column spells. The column is written by `spelt` only, if perhaps by the `spelt` of a newer version.
fn read<T: Word>(text: String) -> T {
    serde_json::from_value(serde_json::Value::String(text)).unwrap_or_else(|err| {
        warn!(
            error = &err as &dyn std::error::Error,
            "a newer version wrote a word unknown to this one"
        );
        T::UNKNOWN
    })
}

/// A JSON column.
fn json<T: DeserializeOwned>(row: &pg::Row, column: &str) -> T
where
    for<'a> Json<T>: pg::types::FromSql<'a>,
{
    row.get::<_, Json<T>>(column).0
}

/// A count in an `int` column.
fn count(row: &pg::Row, column: &str) -> u32 {
    u32::try_from(row.get::<_, i32>(column)).unwrap_or_default()
}

/// A `u32` for an `int` column; what is too large for it is cut.
fn int(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_of_a_newer_version_is_read_as_one_that_nothing_follows_from() {
        assert_eq!(read::<JobState>("hibernating".into()), JobState::Starting);
        assert_eq!(read::<Strategy>("canary".into()), Strategy::OneByOne);
        assert_eq!(read::<Strategy>(spelt(&Strategy::InBatches)), Strategy::InBatches);
    }

    /// A database that ran a migration knows its checksum, and refuses one that was edited afterwards for ever.
    #[test]
    fn the_first_migration_stays_as_it_is() {
        let runner = migrations::migrations::runner();
        let first = runner.get_migrations().iter().find(|one| one.version() == 1);
        assert_eq!(first.map(|one| one.checksum()), Some(18_040_335_831_347_403_270));
    }
}
