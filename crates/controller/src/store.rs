//! The only place with SQL: a file a table.

pub(crate) mod apps;
pub(crate) mod artifacts;
pub(crate) mod deployments;
pub(crate) mod events;
pub(crate) mod formations;
pub(crate) mod jobs;
pub(crate) mod keys;
pub(crate) mod providers;
pub(crate) mod releases;
pub(crate) mod repositories;
pub(crate) mod services;
pub(crate) mod terms;
mod text;
mod tx;

use std::collections::BTreeMap;

use pg::types::Json;
use serde::{Serialize, de::DeserializeOwned};
use text::{stored, stored_json};
pub(crate) use tx::Tx;

/// The migrations of this daemon's database.
pub(crate) mod migrations {
    refinery::embed_migrations!("migrations");
}

/// A map kept as JSON.
pub(crate) type Map = BTreeMap<String, String>;
/// Counts of processes by type.
pub(crate) type Counts = BTreeMap<String, u32>;

/// A value of ours in a text column, as it is spelt on the wire.
fn spelt<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        _ => unreachable!("enums without fields serialise to their names"),
    }
}

/// The value a text column spells. The column is written by `spelt` only.
fn read<T: DeserializeOwned>(text: String) -> T {
    serde_json::from_value(serde_json::Value::String(text))
        .expect("what was spelt by this program can be read by it")
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
