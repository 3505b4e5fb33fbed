//! Recording who leads.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    mirror::{Freshness, Mirror},
    store::Store,
};

/// How long a record that could not be written waits.
const PAUSE: Duration = Duration::from_millis(200);

/// Brings every service's record to who shall lead, until the daemon stops. All discoverds do that watch etcd: the record is
/// changed by compare-and-set, so the first one wins and the others agree.
pub(crate) async fn keep(mirror: Mirror, store: Store, stop: CancellationToken) {
    let (mut revision, mut freshness) = mirror.changes();
    loop {
        revision.mark_unchanged();
        freshness.mark_unchanged();
        let settled = settle(&mirror, &store).await;
        tokio::select! {
            () = stop.cancelled() => return,
            _ = revision.changed() => {}
            _ = freshness.changed() => {}
            () = tokio::time::sleep(PAUSE), if !settled => {}
        }
    }
}

/// Whether all records are as they shall be, or will be when etcd has told us of what we wrote.
async fn settle(mirror: &Mirror, store: &Store) -> bool {
    if mirror.freshness() != Freshness::Current {
        return true;
    }
    let wanted: Vec<_> = mirror.read(|directory| {
        let services = directory.unsettled();
        services
            .filter_map(|name| Some((name.to_owned(), directory.service(name)?.unsettled()?)))
            .collect()
    });
    for (service, (record, at)) in wanted {
        match store.record_leader(&service, record.as_ref(), at).await {
            Ok(()) => {
                let id = record.as_ref().map_or("nobody", |record| record.id.as_str());
                info!(service, leader = id, "{id} leads {service}");
            }
            Err(err) => {
                warn!(
                    service,
                    error = &err as &dyn std::error::Error,
                    "the leader of {service} could not be recorded"
                );
                return false;
            }
        }
    }
    true
}
