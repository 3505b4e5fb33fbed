//! Whose a service is: what routes send to one app must never reach another, however both are named.

use std::collections::BTreeSet;

use api::{
    controller::{META_SYSTEM_APP, ProcessType},
    id::AppId,
    reserved,
};
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
    let reserved = names.iter().find(|name| reserved::is_reserved_service(name));
    if let Some(name) = reserved
        && !reserved::may_offer(name, is_of_platform(tx, app).await?)
    {
        let message = format!(
            "would make this app answer for the service {name:?}, which is reserved for Flynn itself: choose another name"
        );
        return Err(Error::invalid(field, message));
    }
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

async fn is_of_platform(tx: &Tx<'_>, app: AppId) -> Result<bool> {
    let sql = "SELECT 1 FROM apps WHERE app_id = $1 AND meta->>$2 = 'true'";
    Ok(pg::row_opt(&**tx, sql, &[&app.uuid(), &META_SYSTEM_APP]).await?.is_some())
}

/// The services of an app, by name.
pub(crate) async fn of_app(db: &impl GenericClient, app: AppId) -> Result<Vec<String>> {
    let sql = "SELECT name FROM services WHERE app_id = $1 ORDER BY name";
    let rows = pg::rows(db, sql, &[&app.uuid()]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Gives up all services of an app.
pub(crate) async fn free(db: &impl GenericClient, app: AppId) -> Result<()> {
    pg::execute(db, "DELETE FROM services WHERE app_id = $1", &[&app.uuid()]).await?;
    Ok(())
}
