//! Keeps apps' databases within their quota: the server's disk is the control plane's too.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_postgres::{Client, Row};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{CONNECT_WITHIN, Databases};
use crate::domain::{
    names::Name,
    quota::{Access, access},
};

/// Apps' databases, whose names are those of their roles; what the cluster made for itself is not limited.
const SIZES: &str = "SELECT r.rolname::text, pg_database_size(d.oid) AS size, r.rolcanlogin, \
         coalesce('default_transaction_read_only=on' = ANY(s.setconfig), false) AS reads \
     FROM pg_database d JOIN pg_roles r ON r.oid = d.datdba AND r.rolname = d.datname \
     LEFT JOIN pg_db_role_setting s ON s.setrole = r.oid AND s.setdatabase = 0 \
     WHERE NOT r.rolsuper";

impl Databases {
    /// Measures all databases again and again, until the daemon stops.
    pub(crate) async fn keep_quota(self, most: u64, every: Duration, stop: CancellationToken) {
        let mut tick = interval(every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            let measured = stop.run_until_cancelled(self.enforce_quota(most)).await;
            if let Some(Err(err)) = measured {
                warn!(
                    error = &err as &dyn std::error::Error,
                    "databases could not be measured yet"
                );
            }
        }
    }

    async fn enforce_quota(&self, most: u64) -> Result<(), super::StoreError> {
        let _one = self.one_at_a_time.lock().await;
        self.with(CONNECT_WITHIN, "measuring the databases", async |client| {
            for row in client.query(SIZES, &[]).await? {
                let Ok(role) = row.get::<_, &str>("rolname").parse::<Name>() else { continue };
                let size = u64::try_from(row.get::<_, i64>("size")).unwrap_or_default();
                let now = access_of(&row);
                let then = access(size, most, now);
                if then != now {
                    set_access(client, &role, then).await?;
                    tell(&role, size, most, then);
                }
            }
            Ok(())
        })
        .await
    }
}

fn access_of(row: &Row) -> Access {
    match (row.get::<_, bool>("rolcanlogin"), row.get::<_, bool>("reads")) {
        (false, _) => Access::None,
        (true, true) => Access::ReadOnly,
        (true, false) => Access::Full,
    }
}

/// Says what a role may do, and ends its sessions, which would go on as they began.
async fn set_access(
    client: &Client,
    role: &Name,
    access: Access,
) -> Result<(), tokio_postgres::Error> {
    let (login, reads) = match access {
        Access::Full => ("LOGIN", "RESET default_transaction_read_only"),
        Access::ReadOnly => ("LOGIN", "SET default_transaction_read_only = on"),
        Access::None => ("NOLOGIN", "SET default_transaction_read_only = on"),
    };
    let (role, name) = (role.quoted(), role.literal());
    let change = format!("ALTER ROLE {role} {login}; ALTER ROLE {role} {reads}");
    client.batch_execute(&change).await?;
    let end =
        format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = {name}");
    client.batch_execute(&end).await
}

fn tell(role: &Name, size: u64, most: u64, access: Access) {
    let (size, most) = (size >> 20, most >> 20);
    let said = match access {
        Access::Full => "may be written again",
        Access::ReadOnly => "is read-only now: delete and vacuum, or raise DATABASE_LEN_MAX",
        Access::None => "was written on and is closed now: raise DATABASE_LEN_MAX",
    };
    warn!(database = %role, "database {role} has {size} MiB of at most {most} MiB and {said}");
}
