//! Handles of watches.

use std::{future::Future, sync::Arc};

use api_client::{Client, Endpoint};
use tokio::sync::watch;

use crate::{
    follow::follow,
    set::{ServiceSet, Services},
};

/// Watches one service. Clones share the stream, which ends with the last of them and their endpoints.
#[derive(Debug, Clone)]
pub struct ServiceWatch {
    service: String,
    set: watch::Receiver<Arc<ServiceSet>>,
    bases: watch::Receiver<Arc<[String]>>,
    leader: watch::Receiver<Arc<[String]>>,
}

impl ServiceWatch {
    pub(crate) fn begin(client: Client, service: &str) -> Self {
        let (set_sender, set) = watch::channel(Arc::new(ServiceSet::default()));
        let (bases_sender, bases) = watch::channel(Arc::from([]));
        let (leader_sender, leader) = watch::channel(Arc::from([]));
        let path = format!("/services/{service}");
        spawn(async move {
            let unwatched = async {
                set_sender.closed().await;
                bases_sender.closed().await;
                leader_sender.closed().await;
            };
            let following = follow(client, &path, |known: Arc<ServiceSet>| {
                update(&bases_sender, known.bases());
                update(&leader_sender, known.leader_base());
                set_sender.send_replace(known);
            });
            tokio::select! {
                () = unwatched => {}
                () = following => {}
            }
        });
        Self { service: service.into(), set, bases, leader }
    }

    /// The name of the service.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// What is known now.
    pub fn borrow(&self) -> Arc<ServiceSet> {
        self.set.borrow().clone()
    }

    /// Waits until something has changed since the last call.
    pub async fn changed(&mut self) {
        changed(&mut self.set).await;
    }

    /// Waits until everything there is has been told.
    pub async fn wait_current(&mut self) -> Arc<ServiceSet> {
        self.wait_for(|set| set.current).await
    }

    /// Waits until something is so.
    pub async fn wait_for(&mut self, so: impl FnMut(&ServiceSet) -> bool) -> Arc<ServiceSet> {
        wait_for(&mut self.set, so).await
    }

    /// Where a client of the service goes: all instances, oldest first.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint::Watched { service: self.service.clone(), bases: self.bases.clone() }
    }

    /// Where a client of the service's leader goes.
    pub fn leader_endpoint(&self) -> Endpoint {
        let service = format!("leader of {}", self.service);
        Endpoint::Watched { service, bases: self.leader.clone() }
    }
}

/// Watches all services. Clones share the stream, which ends with the last of them.
#[derive(Debug, Clone)]
pub struct AllWatch {
    services: watch::Receiver<Arc<Services>>,
}

impl AllWatch {
    pub(crate) fn begin(client: Client) -> Self {
        let (sender, services) = watch::channel(Arc::new(Services::default()));
        spawn(async move {
            let following = follow(client, "/services", |known: Arc<Services>| {
                sender.send_replace(known);
            });
            tokio::select! {
                () = sender.closed() => {}
                () = following => {}
            }
        });
        Self { services }
    }

    /// What is known now.
    pub fn borrow(&self) -> Arc<Services> {
        self.services.borrow().clone()
    }

    /// Waits until something has changed since the last call.
    pub async fn changed(&mut self) {
        changed(&mut self.services).await;
    }

    /// Waits until everything there is has been told.
    pub async fn wait_current(&mut self) -> Arc<Services> {
        self.wait_for(|services| services.current).await
    }

    /// Waits until something is so.
    pub async fn wait_for(&mut self, so: impl FnMut(&Services) -> bool) -> Arc<Services> {
        wait_for(&mut self.services, so).await
    }
}

/// The task that follows ends only with its runtime while there is a receiver, and with the runtime everything does.
const FOLLOWED: &str = "a watch is followed as long as it has a handle";

async fn changed<T>(receiver: &mut watch::Receiver<Arc<T>>) {
    receiver.changed().await.expect(FOLLOWED);
}

async fn wait_for<T>(
    receiver: &mut watch::Receiver<Arc<T>>,
    mut so: impl FnMut(&T) -> bool,
) -> Arc<T> {
    receiver.wait_for(|known| so(known)).await.expect(FOLLOWED).clone()
}

/// Sends what differs, so that who waits for a change is not woken for nothing.
fn update(sender: &watch::Sender<Arc<[String]>>, value: Arc<[String]>) {
    sender.send_if_modified(|present| {
        let differs = *present != value;
        *present = value;
        differs
    });
}

#[expect(
    clippy::disallowed_methods,
    reason = "the task ends with the last handle; a library has no lifetime of the daemon to put it in"
)]
pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) -> tokio::task::AbortHandle {
    tokio::spawn(task).abort_handle()
}
