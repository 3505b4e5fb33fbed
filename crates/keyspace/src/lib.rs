#![doc = include_str!("../README.md")]

mod difference;
mod error;
mod lease;
mod members;
mod watch;
mod write;

use std::time::Duration;

use bytes::Bytes;
pub use error::Error;
use etcd_client::{Client, ConnectOptions, GetOptions, KeyValue};
pub use lease::{Lease, LeaseId};
pub use members::Member;
pub use watch::{Change, Update, Watch};
pub use write::Transaction;

/// Longest time a call may take, repetitions included.
const CALL_TIMEOUT: Duration = Duration::from_secs(4);
/// Pause before a call is repeated.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest time to make a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// HTTP/2 pings. Below 5 s a server on plaintext takes them for abuse and cuts the connection.
const PING_INTERVAL: Duration = Duration::from_secs(6);
/// A ping not answered in this time ends the connection.
const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// Keys a page of a listing: with values of a few kB a page is a few MB.
const PAGE: i64 = 1000;
/// Largest message taken from etcd: a page of large values, or one revision with very many changes.
const MESSAGE_LIMIT: usize = 256 << 20;

/// A client of etcd. Clones share its connections.
#[derive(Clone)]
pub struct Keyspace {
    client: Client,
}

impl std::fmt::Debug for Keyspace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keyspace")
    }
}

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: Bytes,
    /// The revision that created the key.
    pub create_revision: u64,
    /// The revision of its last change.
    pub mod_revision: u64,
    /// The lease it ends with.
    pub lease: Option<LeaseId>,
}

/// What was below a prefix at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// In the order of their keys.
    pub entries: Vec<Entry>,
    /// That revision.
    pub revision: u64,
}

impl Keyspace {
    /// A client of the endpoints (`http://127.0.0.1:2379`). No connection is made yet, so etcd need not be there.
    pub async fn connect<E: AsRef<str>>(endpoints: &[E]) -> Result<Self, Error> {
        let options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_keep_alive(PING_INTERVAL, PING_TIMEOUT)
            .with_require_leader(true);
        let client =
            Client::connect(endpoints, Some(options)).await.map_err(|source| Error::Endpoints {
                endpoints: endpoints.iter().map(|one| one.as_ref().to_owned()).collect(),
                source,
            })?;
        Ok(Self { client })
    }

    /// The entry of a key, if there is one.
    pub async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        let answer = self
            .repeated("reading", key, || {
                let mut kv = self.client.kv_client().max_decoding_message_size(MESSAGE_LIMIT);
                async move { kv.get(key, None).await }
            })
            .await?;
        Ok(answer.kvs().first().and_then(entry))
    }

    /// Everything whose key begins with `prefix`, at one revision.
    pub async fn list(&self, prefix: &str) -> Result<Listing, Error> {
        let end = write::after(prefix);
        let mut start = prefix.as_bytes().to_vec();
        let mut listing = Listing { entries: Vec::new(), revision: 0 };
        loop {
            let options = GetOptions::new().with_range(end.clone()).with_limit(PAGE);
            // The first page decides the revision, the others are read at it.
            let options = options.with_revision(listing.revision as i64);
            let answer = self
                .repeated("listing", prefix, || {
                    let mut kv = self.client.kv_client().max_decoding_message_size(MESSAGE_LIMIT);
                    let (start, options) = (start.clone(), options.clone());
                    async move { kv.get(start, Some(options)).await }
                })
                .await?;
            if listing.revision == 0 {
                listing.revision = revision(answer.header());
            }
            listing.entries.extend(answer.kvs().iter().filter_map(entry));
            match answer.kvs().last() {
                Some(last) if answer.more() => {
                    start = last.key().to_vec();
                    start.push(0);
                }
                _ => return Ok(listing),
            }
        }
    }

    /// Watches everything whose key begins with `prefix`, for ever.
    pub fn watch(&self, prefix: &str) -> Watch {
        Watch::new(self.clone(), prefix)
    }

    /// Makes a call that may be made twice, until it succeeds or its time is over.
    async fn repeated<T, F>(
        &self,
        doing: &'static str,
        key: &str,
        mut call: impl FnMut() -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let mut last = None;
        let repeat = async {
            loop {
                match call().await {
                    Ok(answer) => return Ok(answer),
                    Err(err) if error::is_passing(&err) => last = Some(err),
                    Err(err) => return Err(Error::of(doing, key, err)),
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        match tokio::time::timeout(CALL_TIMEOUT, repeat).await {
            Ok(result) => result,
            Err(_) => match last {
                Some(err) => Err(Error::of(doing, key, err)),
                None => Err(Error::Silent { doing, key: key.into() }),
            },
        }
    }

    /// Makes a call once.
    async fn once<T>(
        &self,
        doing: &'static str,
        key: &str,
        call: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(CALL_TIMEOUT, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(err)) => Err(Error::of(doing, key, err)),
            Err(_) => Err(Error::Silent { doing, key: key.into() }),
        }
    }
}

/// `None` for a key that is not text: no key of ours.
fn entry(kv: &KeyValue) -> Option<Entry> {
    Some(Entry {
        key: kv.key_str().ok()?.into(),
        value: Bytes::copy_from_slice(kv.value()),
        create_revision: kv.create_revision() as u64,
        mod_revision: kv.mod_revision() as u64,
        lease: LeaseId::of(kv.lease()),
    })
}

fn revision(header: Option<&etcd_client::ResponseHeader>) -> u64 {
    header.map_or(0, |header| header.revision() as u64)
}
