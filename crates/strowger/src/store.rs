//! The routes in etcd: `/strowger/<id>`, the whole route as JSON; the key of its certificate is sealed.

use std::sync::Arc;

use api::route::{Route, Stored};
use jiff::Timestamp;
use keyspace::{Entry, Keyspace, Watch};

use crate::seal::Seals;

/// Below this are all routes.
const PREFIX: &str = "/strowger/";
/// How often a change is tried again which somebody else's came before.
const TRIES: u32 = 5;

/// The routes.
#[derive(Debug, Clone)]
pub(crate) struct Routes {
    keyspace: Keyspace,
    seal: Arc<Seals>,
}

/// What came of sealing the keys that are stored.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Resealed {
    /// Sealed now.
    pub(crate) changed: usize,
    /// Could not be opened.
    pub(crate) unopened: usize,
}

/// Why a route was not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// There is one already.
    #[error("{} already exists", describe(.0))]
    Exists(Box<Route>),
    /// It belongs to somebody else.
    #[error("{} exists and belongs to {}", describe(.0), .0.parent_ref)]
    Foreign(Box<Route>),
    /// There is none.
    #[error("there is no route {0}")]
    Missing(String),
    /// Somebody else changed it again and again.
    #[error("the route {0} is being changed by somebody else; try again")]
    Contended(String),
    /// What is stored is no route.
    #[error("the value stored for route {id} is not a route")]
    Unreadable {
        /// Its id.
        id: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// etcd did not do it.
    #[error(transparent)]
    Etcd(#[from] keyspace::Error),
}

fn describe(route: &Route) -> String {
    match route.kind.as_str() {
        "tcp" => format!("a route for port {}", route.port),
        _ => format!("a route for {}{}", route.domain, route.path),
    }
}

/// The id of a route whose key was set or deleted.
pub(crate) fn id_of(key: &str) -> &str {
    key.strip_prefix(PREFIX).unwrap_or(key)
}

/// The key of a route in etcd.
pub(crate) fn key(id: &str) -> String {
    format!("{PREFIX}{id}")
}

impl Routes {
    /// In this etcd, with their keys under this seal.
    pub(crate) fn new(keyspace: Keyspace, seal: Arc<Seals>) -> Self {
        Self { keyspace, seal }
    }

    /// Every change of the routes.
    pub(crate) fn watch(&self) -> Watch {
        self.keyspace.watch(PREFIX)
    }

    /// Stores a canonical route that is not there yet.
    pub(crate) async fn create(
        &self,
        mut route: Route,
        now: Timestamp,
    ) -> Result<Stored, StoreError> {
        (route.created_at, route.updated_at) = (Some(now), Some(now));
        drop_blank_certificate(&mut route);
        match self.keyspace.create(&key(&route.id), self.encode(&route)).await {
            Ok(revision) => Ok(Stored { route, revision }),
            Err(err) if err.is_conflict() => match self.read(&route.id).await? {
                Some((there, _)) => Err(StoreError::Exists(Box::new(there))),
                None => Err(StoreError::Contended(route.id)),
            },
            Err(err) => Err(err.into()),
        }
    }

    /// Stores a canonical route in place of what is there. One that belongs to somebody else is left alone; what a client
    /// may not know of (certificate, redirect, HSTS) stays if it says nothing of it. A blank certificate removes the one there.
    pub(crate) async fn replace(&self, route: Route, now: Timestamp) -> Result<Stored, StoreError> {
        for _ in 0..TRIES {
            let there = self.read(&route.id).await?;
            let mod_revision = there.as_ref().map_or(0, |(_, entry)| entry.mod_revision);
            let (before, _) = there.unzip();
            if let Some(before) = &before
                && !before.parent_ref.is_empty()
                && before.parent_ref != route.parent_ref
            {
                return Err(StoreError::Foreign(Box::new(before.clone())));
            }
            let mut new = route.clone();
            new.updated_at = Some(now);
            new.created_at = before.as_ref().and_then(|before| before.created_at).or(Some(now));
            if let Some(before) = before {
                new.redirect = new.redirect.or(before.redirect);
                new.hsts = new.hsts.or(before.hsts);
                if new.tls_cert.is_none() {
                    (new.tls_cert, new.tls_key) = (before.tls_cert, before.tls_key);
                }
            }
            drop_blank_certificate(&mut new);
            let key = key(&new.id);
            match self.keyspace.put_if(&key, self.encode(&new), mod_revision).await {
                Ok(revision) => return Ok(Stored { route: new, revision }),
                Err(err) if err.is_conflict() => {}
                Err(err) => return Err(err.into()),
            }
        }
        Err(StoreError::Contended(route.id))
    }

    /// Removes a route, whatever it is, and answers with what it was.
    pub(crate) async fn remove(&self, id: &str) -> Result<Stored, StoreError> {
        for _ in 0..TRIES {
            let key = key(id);
            let Some(entry) = self.keyspace.get(&key).await? else {
                return Err(StoreError::Missing(id.into()));
            };
            // One that cannot be read must be removable all the same.
            let route = serde_json::from_slice(&entry.value)
                .unwrap_or_else(|_| Route { id: id.into(), ..Route::default() });
            match self.keyspace.delete_if(&key, entry.mod_revision).await {
                Ok(revision) => return Ok(Stored { route, revision }),
                Err(err) if err.is_conflict() => {}
                Err(err) => return Err(err.into()),
            }
        }
        Err(StoreError::Contended(id.into()))
    }

    /// A route as it is stored, with the revision of its last change.
    pub(crate) async fn get(&self, id: &str) -> Result<Stored, StoreError> {
        let (route, entry) = self.read(id).await?.ok_or_else(|| StoreError::Missing(id.into()))?;
        Ok(Stored { route, revision: entry.mod_revision })
    }

    /// Seals the keys that are stored plain or sealed under a former key. What changes meanwhile is left to who changes it.
    pub(crate) async fn reseal(&self) -> Result<Resealed, StoreError> {
        let mut done = Resealed::default();
        for entry in self.keyspace.list(PREFIX).await?.entries {
            let id = id_of(&entry.key);
            // What this version knows nothing of stays in it.
            let Ok(mut route) = serde_json::from_slice::<serde_json::Value>(&entry.value) else {
                continue;
            };
            let Some(stored) = route.get("tls_key").and_then(serde_json::Value::as_str) else {
                continue;
            };
            if !self.seal.is_stale(id, stored) {
                continue;
            }
            let Ok(opened) = self.seal.open(id, stored) else {
                done.unopened += 1;
                continue;
            };
            route["tls_key"] = self.seal.close(id, &opened).into();
            match self.keyspace.put_if(&entry.key, route.to_string(), entry.mod_revision).await {
                Ok(_) => done.changed += 1,
                Err(err) if err.is_conflict() => {}
                Err(err) => return Err(err.into()),
            }
        }
        Ok(done)
    }

    async fn read(&self, id: &str) -> Result<Option<(Route, Entry)>, StoreError> {
        let Some(entry) = self.keyspace.get(&key(id)).await? else { return Ok(None) };
        match serde_json::from_slice(&entry.value) {
            Ok(route) => Ok(Some((route, entry))),
            Err(source) => Err(StoreError::Unreadable { id: id.into(), source }),
        }
    }

    fn encode(&self, route: &Route) -> Vec<u8> {
        let tls_key = route.tls_key.as_ref().map(|key| self.seal.close(&route.id, key));
        let sealed = Route { tls_key, ..route.clone() };
        serde_json::to_vec(&sealed).expect("a route is JSON")
    }
}

/// A blank certificate is none: it takes the place of the one there.
fn drop_blank_certificate(route: &mut Route) {
    if route.tls_cert.as_deref() == Some("") {
        (route.tls_cert, route.tls_key) = (None, None);
    }
}
