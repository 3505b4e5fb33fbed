//! discoverd as a process between a real etcd and many watchers in another process.

mod crowd;
mod fanout;
mod server;
mod watchers;

pub(crate) use server::{Server, ours};
use testkit::Etcd;
pub(crate) use watchers::Watchers;

/// How much is measured.
struct Size {
    watchers: usize,
    changes: usize,
    instances: usize,
    idle_seconds: u64,
}

pub(crate) async fn run(small: bool) -> anyhow::Result<()> {
    let size = match small {
        false => Size { watchers: 10_000, changes: 30, instances: 50_000, idle_seconds: 20 },
        true => Size { watchers: 500, changes: 5, instances: 2_000, idle_seconds: 3 },
    };
    let etcd = Etcd::start().await;
    let server = Server::start(&etcd).await?;
    fanout::run(&etcd, &server, &size).await?;
    crowd::run(&etcd, &server, &size).await
}
