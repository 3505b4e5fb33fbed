//! Images from other hosts: what is missing here is streamed from one that has it, engine to engine.

use std::{error::Error, time::Duration};

use bytes::Bytes;
use discoverd_client::ServiceWatch;
use futures_util::{Stream, StreamExt, stream};
use rand::seq::SliceRandom;
use tokio::time::timeout;
use tracing::{info, warn};

use super::{
    engine::{Engine, EngineError, Image},
    turns::Turns,
};

/// How long another host may think before the first byte: its engine packs the image first.
const FIRST_BYTE: Duration = Duration::from_secs(120);
/// The longest silence in the middle.
const SILENCE: Duration = Duration::from_secs(60);

/// The other hosts, as those who may have an image.
#[derive(Debug)]
pub(crate) struct Peers {
    engine: Engine,
    hosts: ServiceWatch,
    own_id: String,
    key: String,
    turns: Turns,
}

/// The stream ended before the image did.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("nothing came for {SILENCE:?}")]
    Silent,
    #[error(transparent)]
    Lost(#[from] api_client::Error),
}

impl Peers {
    /// The hosts of a service, but for this one.
    pub(crate) fn new(engine: Engine, hosts: ServiceWatch, own_id: &str, key: String) -> Self {
        Self { engine, hosts, own_id: own_id.into(), key, turns: Turns::default() }
    }

    /// An image by name, from a host that has it. Jobs that want the same wait for one transfer. That nobody has it is
    /// [`EngineError::NoImage`].
    pub(crate) async fn fetch(&self, name: &str) -> Result<Image, EngineError> {
        let _turn = self.turns.of(name).await;
        for (id, addr) in self.others() {
            match self.fetch_from(&addr, name).await {
                Ok(true) => {
                    info!(host.id = %id, "fetched the image {name} from host {id}");
                    break;
                }
                Ok(false) => {}
                Err(err) => {
                    let error = &*err as &dyn Error;
                    warn!(error, host.id = %id, "the image {name} did not come from host {id}");
                }
            }
        }
        self.engine.image(name).await
    }

    /// In any order, so that not all ask the same one.
    fn others(&self) -> Vec<(String, String)> {
        let known = self.hosts.borrow();
        let all = known.instances.values();
        let named = all.filter_map(|one| Some((one.meta.get("id")?.clone(), one.addr.clone())));
        let mut others: Vec<_> = named.filter(|(id, _)| *id != self.own_id).collect();
        others.shuffle(&mut rand::rng());
        others
    }

    /// Answers whether the host has it.
    async fn fetch_from(&self, addr: &str, name: &str) -> anyhow::Result<bool> {
        let host = host_client::Host::new(format!("http://{addr}"), Some(self.key.clone()));
        let image = match timeout(FIRST_BYTE, host.image(name)).await? {
            Err(err) if err.is_not_found() => return Ok(false),
            answered => answered?,
        };
        self.engine.load(name, unsilent(image)).await?;
        Ok(true)
    }
}

/// Ends with an error where nothing comes for long.
fn unsilent(
    image: impl Stream<Item = Result<Bytes, api_client::Error>> + Send + 'static,
) -> impl Stream<Item = Result<Bytes, impl Error + Send + Sync + 'static>> + Send + 'static {
    stream::unfold(Some(image.boxed()), |image| async {
        let mut image = image?;
        match timeout(SILENCE, image.next()).await {
            Ok(None) => None,
            Ok(Some(Ok(piece))) => Some((Ok(piece), Some(image))),
            Ok(Some(Err(err))) => Some((Err(Broken::from(err)), None)),
            Err(_) => Some((Err(Broken::Silent), None)),
        }
    })
}
