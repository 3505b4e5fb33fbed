//! Providers and what they provide.

use api::{
    controller::{NewProvider, NewResource, Provider, Resource},
    id::{AppId, ProviderId, ResourceId},
};
use pg::{GenericClient, Row, types::Json};
use uuid::Uuid;

use super::{Tx, json};
use crate::error::{Error, Result};

const COLUMNS: &str = "provider_id, name, url, created_at, updated_at";
const RESOURCE: &str = "SELECT resource_id, provider_id, external_id, env, created_at, \
     ARRAY(SELECT app_id FROM app_resources l WHERE l.resource_id = r.resource_id \
           ORDER BY app_id) AS apps FROM resources r";

fn of_row(row: &Row) -> Provider {
    Provider {
        id: row.get::<_, Uuid>("provider_id").into(),
        url: row.get("url"),
        name: row.get("name"),
        created_at: row.get("created_at"),
        updated_at: row.get("updated_at"),
    }
}

fn resource_of_row(row: &Row) -> Resource {
    let apps: Vec<Uuid> = row.get("apps");
    Resource {
        id: row.get::<_, Uuid>("resource_id").into(),
        provider: row.get::<_, Uuid>("provider_id").into(),
        external_id: row.get("external_id"),
        env: json(row, "env"),
        apps: apps.into_iter().map(Into::into).collect(),
        created_at: row.get("created_at"),
    }
}

/// All providers, newest first.
pub(crate) async fn list(db: &impl GenericClient) -> Result<Vec<Provider>> {
    let sql = format!("SELECT {COLUMNS} FROM providers ORDER BY created_at DESC, provider_id");
    Ok(pg::rows(db, &sql, &[]).await?.iter().map(of_row).collect())
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

/// Makes a provider known.
pub(crate) async fn insert(tx: &mut Tx<'_>, new: &NewProvider) -> Result<Provider> {
    let id = ProviderId::random();
    let sql = format!(
        "INSERT INTO providers (provider_id, name, url) VALUES ($1, $2, $3) RETURNING {COLUMNS}"
    );
    let row =
        pg::row(&**tx, &sql, &[&id.uuid(), &new.name, &new.url]).await.map_err(|err| match err
            .violated()
        {
            Some("providers_url") => {
                Error::Exists(format!("there is a provider with the URL {} already", new.url))
            }
            Some(_) => Error::Exists(format!("there is a provider named {:?} already", new.name)),
            None => err.into(),
        })?;
    let provider = of_row(&row);
    let told = Provider { url: without_password(&provider.url), ..provider.clone() };
    tx.event(None, "provider", provider.id, &told);
    Ok(provider)
}

/// A URL without the user and password in it: events are kept.
fn without_password(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    match authority.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://{host}{path}"),
        None => url.to_owned(),
    }
}

/// Records a resource. The same id again is the same resource; its links to apps are added to.
pub(crate) async fn put_resource(
    tx: &mut Tx<'_>,
    id: ResourceId,
    provider: ProviderId,
    new: &NewResource,
) -> Result<Resource> {
    let sql = "INSERT INTO resources (resource_id, provider_id, external_id, env) \
               VALUES ($1, $2, $3, $4) ON CONFLICT (resource_id) DO NOTHING";
    let external = new.external_id.clone().unwrap_or_default();
    pg::execute(&**tx, sql, &[&id.uuid(), &provider.uuid(), &external, &Json(&new.env)])
        .await
        .map_err(|err| match err.violated() {
            Some(_) => Error::Exists(format!("the resource {external:?} is recorded already")),
            None => err.into(),
        })?;
    for app in &new.apps {
        link(tx, *app, id).await?;
    }
    let resource = find_resource(&**tx, id).await?;
    let told = Resource { env: super::Map::new(), ..resource.clone() };
    tx.event(None, "resource", id, &told);
    Ok(resource)
}

async fn link(tx: &Tx<'_>, app: AppId, resource: ResourceId) -> Result<()> {
    let sql = "INSERT INTO app_resources (app_id, resource_id) \
               SELECT app_id, $2 FROM apps WHERE app_id = $1 ON CONFLICT DO NOTHING";
    pg::execute(&**tx, sql, &[&app.uuid(), &resource.uuid()]).await?;
    Ok(())
}

/// A resource.
pub(crate) async fn find_resource(db: &impl GenericClient, id: ResourceId) -> Result<Resource> {
    let sql = format!("{RESOURCE} WHERE resource_id = $1");
    let row = pg::row_opt(db, &sql, &[&id.uuid()]).await?;
    row.as_ref().map(resource_of_row).ok_or_else(|| Error::missing("resource", id))
}

/// What a provider made, newest first.
pub(crate) async fn resources_of(
    db: &impl GenericClient,
    provider: ProviderId,
) -> Result<Vec<Resource>> {
    let sql = format!("{RESOURCE} WHERE provider_id = $1 ORDER BY created_at DESC, resource_id");
    let rows = pg::rows(db, &sql, &[&provider.uuid()]).await?;
    Ok(rows.iter().map(resource_of_row).collect())
}

/// What an app uses, newest first.
pub(crate) async fn resources_of_app(db: &impl GenericClient, app: AppId) -> Result<Vec<Resource>> {
    let sql = format!(
        "{RESOURCE} WHERE resource_id IN (SELECT resource_id FROM app_resources WHERE app_id = $1) \
         ORDER BY created_at DESC, resource_id"
    );
    let rows = pg::rows(db, &sql, &[&app.uuid()]).await?;
    Ok(rows.iter().map(resource_of_row).collect())
}

#[cfg(test)]
mod tests {
    use super::without_password;

    #[test]
    fn a_url_is_told_without_its_password() {
        assert_eq!(without_password("http://me:secret@db.example/x@y"), "http://db.example/x@y");
        assert_eq!(
            without_password("discoverd+http://pg/databases"),
            "discoverd+http://pg/databases"
        );
    }
}
