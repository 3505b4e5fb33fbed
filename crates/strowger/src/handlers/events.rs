//! `GET /events`: what this router serves, as it changes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use api::route::{Route, RouterBackend, RouterEvent, RouterEventKind};
use axum::{extract::State, response::Response};
use daemon::{ApiError, Query};
use futures_util::{StreamExt, stream};
use serde::Deserialize;
use tokio::{sync::watch, time::sleep};

use crate::{backend::Backend, routes::Api};

/// How often a backend that was withdrawn is looked at, until nothing is under way to it.
const DRAIN_LOOK: Duration = Duration::from_millis(100);

/// Query of the stream.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Wanted {
    /// Kinds, separated by commas; all if absent.
    types: Option<String>,
}

/// What is served now, then every change. It ends with the daemon.
pub(crate) async fn follow(
    State(api): State<Api>,
    Query(wanted): Query<Wanted>,
) -> Result<Response, ApiError> {
    let kinds = kinds(wanted.types.as_deref().unwrap_or_default())?;
    let follower = Follower {
        routes: api.live.revision(),
        services: api.live.services.revision(),
        told: Served { routes: BTreeMap::new(), backends: BTreeMap::new() },
        leaving: BTreeMap::new(),
        api: api.clone(),
    };
    let batches =
        stream::unfold(follower, async |mut follower| Some((follower.next().await, follower)));
    let wanted = move |event: &RouterEvent| kinds.is_empty() || kinds.contains(&event.event);
    let events = batches.flat_map(stream::iter);
    let events = events.filter(move |event| std::future::ready(wanted(event)));
    Ok(daemon::events::response(events.take_until(api.stop.clone().cancelled_owned())))
}

fn kinds(text: &str) -> Result<Vec<RouterEventKind>, ApiError> {
    let kind = |word: &str| {
        let word = serde_json::Value::from(word);
        serde_json::from_value(word.clone()).map_err(|_| {
            ApiError::invalid("types", format!("has {word}, which is no event of a router"))
        })
    };
    text.split(',').filter(|word| !word.is_empty()).map(kind).collect()
}

/// Routes by their ids, and the backends of the services they lead to.
#[derive(Debug)]
struct Served<B> {
    routes: BTreeMap<String, Route>,
    backends: BTreeMap<RouterBackend, B>,
}

/// What there is to tell when this is served instead of that.
fn changes<B>(before: &Served<B>, now: &Served<B>) -> Vec<RouterEvent> {
    let mut events = Vec::new();
    for (id, route) in &before.routes {
        if !now.routes.contains_key(id) {
            events.push(of_route(RouterEventKind::Remove, route));
        }
    }
    for (id, route) in &now.routes {
        if before.routes.get(id) != Some(route) {
            events.push(of_route(RouterEventKind::Set, route));
        }
    }
    for backend in before.backends.keys().filter(|one| !now.backends.contains_key(one)) {
        events.push(of_backend(RouterEventKind::BackendDown, backend));
    }
    for backend in now.backends.keys().filter(|one| !before.backends.contains_key(one)) {
        events.push(of_backend(RouterEventKind::BackendUp, backend));
    }
    events
}

fn of_route(event: RouterEventKind, route: &Route) -> RouterEvent {
    let route = Route { tls_key: None, ..route.clone() };
    RouterEvent { event, route: Some(route), backend: None }
}

fn of_backend(event: RouterEventKind, backend: &RouterBackend) -> RouterEvent {
    RouterEvent { event, route: None, backend: Some(backend.clone()) }
}

struct Follower {
    routes: watch::Receiver<Option<u64>>,
    services: watch::Receiver<Option<u64>>,
    told: Served<Arc<Backend>>,
    /// Withdrawn, with requests under way perhaps.
    leaving: BTreeMap<RouterBackend, Arc<Backend>>,
    api: Api,
}

impl Follower {
    /// Waits for something to tell.
    async fn next(&mut self) -> Vec<RouterEvent> {
        loop {
            self.routes.mark_unchanged();
            self.services.mark_unchanged();
            let events = self.look();
            if !events.is_empty() {
                return events;
            }
            tokio::select! {
                // The senders live as long as the API.
                _ = self.routes.changed() => {}
                _ = self.services.changed() => {}
                () = sleep(DRAIN_LOOK), if !self.leaving.is_empty() => {}
            }
        }
    }

    fn look(&mut self) -> Vec<RouterEvent> {
        let now = served(&self.api);
        let mut events = changes(&self.told, &now);
        self.leaving.retain(|backend, _| !now.backends.contains_key(backend));
        let before = std::mem::replace(&mut self.told, now);
        let gone = before.backends.into_iter();
        self.leaving.extend(gone.filter(|(backend, _)| !self.told.backends.contains_key(backend)));
        self.leaving.retain(|backend, there| {
            let busy = there.in_flight() > 0;
            if !busy {
                events.push(of_backend(RouterEventKind::BackendDrained, backend));
            }
            busy
        });
        events
    }
}

fn served(api: &Api) -> Served<Arc<Backend>> {
    let table = api.live.table();
    let routes = table.all.iter().map(|target| (target.route.id.clone(), target.route.clone()));
    let mut backends = BTreeMap::new();
    for service in table.all.iter().map(|target| &target.service) {
        for backend in &service.set().backends {
            let addr = backend.addr().to_string();
            let name = RouterBackend { service: service.name().to_owned(), addr };
            backends.insert(name, backend.clone());
        }
    }
    Served { routes: routes.collect(), backends }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_is_told_once_and_what_did_not_is_not() {
        let route = |id: &str, service: &str| {
            let (id, service) = (id.to_owned(), service.to_owned());
            (id.clone(), Route { id, service, ..Route::default() })
        };
        let backend = |addr: &str| (RouterBackend { service: "web".into(), addr: addr.into() }, ());
        let before = Served {
            routes: [route("a", "web"), route("b", "web"), route("c", "web")].into(),
            backends: [backend("10.0.0.1:80"), backend("10.0.0.2:80")].into(),
        };
        let now = Served {
            routes: [route("a", "web"), route("b", "other"), route("d", "web")].into(),
            backends: [backend("10.0.0.2:80"), backend("10.0.0.3:80")].into(),
        };
        let told: Vec<_> = changes(&before, &now)
            .into_iter()
            .map(|told| {
                (told.event, told.route.map(|r| r.id).or(told.backend.map(|b| b.addr)).unwrap())
            })
            .collect();
        let wanted = [
            (RouterEventKind::Remove, "c"),
            (RouterEventKind::Set, "b"),
            (RouterEventKind::Set, "d"),
            (RouterEventKind::BackendDown, "10.0.0.1:80"),
            (RouterEventKind::BackendUp, "10.0.0.3:80"),
        ];
        assert_eq!(told, wanted.map(|(event, of)| (event, of.to_owned())));
        assert_eq!(changes(&now, &now), []);
    }
}
