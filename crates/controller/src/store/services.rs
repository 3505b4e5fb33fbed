//! Whose a service is: what routes send to one app must never reach another, however both are named.

use std::collections::BTreeSet;

use api::{controller::ProcessType, id::AppId};
use pg::GenericClient;

use super::Tx;
use crate::error::{Error, Result};

/// The services some process types offer.
pub(crate) fn of<'a>(processes: impl IntoIterator<Item = &'a ProcessType>) -> BTreeSet<&'a str> {
    let ports = processes.into_iter().flat_map(|process| &process.ports);
    ports.filter_map(|port| port.service.as_ref()).map(|service| service.name.as_str()).collect()
}

/// Takes services for an app, or says which of them another app has. In order, so that two never wait for each other.
pub(crate) async fn claim(
    tx: &Tx<'_>,
    app: AppId,
    field: &'static str,
    services: &BTreeSet<&str>,
) -> Result<()> {
    let names: Vec<&str> = services.iter().copied().collect();
    let sql = "INSERT INTO services (name, app_id) SELECT unnest($1::text[]), $2 \
               ON CONFLICT DO NOTHING";
    pg::execute(&**tx, sql, &[&names, &app.uuid()]).await?;
    let sql = "SELECT s.name AS service, a.name AS owner FROM services s JOIN apps a USING (app_id) \
               WHERE s.name = ANY($1) AND s.app_id <> $2 ORDER BY s.name LIMIT 1";
    let Some(row) = pg::row_opt(&**tx, sql, &[&names, &app.uuid()]).await? else { return Ok(()) };
    let (service, owner): (String, String) = (row.get("service"), row.get("owner"));
    let message = format!(
        "would make this app answer for the service {service:?}, which belongs to app {owner}: choose another name"
    );
    Err(Error::invalid(field, message))
}

/// Gives up all services of an app.
pub(crate) async fn free(db: &impl GenericClient, app: AppId) -> Result<()> {
    pg::execute(db, "DELETE FROM services WHERE app_id = $1", &[&app.uuid()]).await?;
    Ok(())
}
