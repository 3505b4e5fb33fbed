//! Statements, prepared once a connection.

use deadpool_postgres::GenericClient;
use tokio_postgres::{Row, types::ToSql};

use crate::Error;

/// Parameters of a statement.
type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// All rows of a query.
pub async fn rows(
    db: &impl GenericClient,
    sql: &str,
    params: Params<'_>,
) -> Result<Vec<Row>, Error> {
    let statement = db.prepare_cached(sql).await?;
    Ok(db.query(&statement, params).await?)
}

/// The row of a query that has one.
pub async fn row(db: &impl GenericClient, sql: &str, params: Params<'_>) -> Result<Row, Error> {
    let statement = db.prepare_cached(sql).await?;
    Ok(db.query_one(&statement, params).await?)
}

/// The row of a query that has at most one.
pub async fn row_opt(
    db: &impl GenericClient,
    sql: &str,
    params: Params<'_>,
) -> Result<Option<Row>, Error> {
    let statement = db.prepare_cached(sql).await?;
    Ok(db.query_opt(&statement, params).await?)
}

/// Runs a statement and says how many rows it touched.
pub async fn execute(db: &impl GenericClient, sql: &str, params: Params<'_>) -> Result<u64, Error> {
    let statement = db.prepare_cached(sql).await?;
    Ok(db.execute(&statement, params).await?)
}
