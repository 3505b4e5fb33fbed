//! TCP routes.

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::Arc,
};

use daemon::{line::Line, relay::relay_lines};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

use super::{Listener, counted::Counted, forward::Search, lent::Resettable, refuse::Refusals};
use crate::{
    handover::{Door, Doors, Entrance, Inheritance},
    live::Live,
};

/// The ports of TCP routes that are bound.
#[derive(Debug)]
pub(crate) struct TcpRoutes {
    live: Arc<Live>,
    lifetime: daemon::Lifetime,
    doors: Arc<Doors>,
    inheritance: Arc<Inheritance>,
    bound: HashMap<u16, CancellationToken>,
    failed: HashSet<u16>,
}

impl TcpRoutes {
    /// None yet.
    pub(crate) fn new(
        live: Arc<Live>,
        lifetime: daemon::Lifetime,
        doors: Arc<Doors>,
        inheritance: Arc<Inheritance>,
    ) -> Self {
        let (bound, failed) = (HashMap::new(), HashSet::new());
        Self { live, lifetime, doors, inheritance, bound, failed }
    }

    /// Binds the ports that have a route and closes those that have none any more. Connections that are open stay so. While
    /// clients are the next router's, so are the ports.
    pub(crate) fn reconcile(&mut self) {
        let wanted: HashSet<u16> = self.live.table().routes.ports().collect();
        self.bound.retain(|port, stop| {
            let keep = wanted.contains(port);
            if !keep {
                stop.cancel();
                self.doors.remove(Door::Tcp(*port));
                info!(port, "port {port} has no route any more");
            }
            keep
        });
        self.failed.retain(|port| wanted.contains(port));
        for port in wanted {
            if self.bound.contains_key(&port) {
                continue;
            }
            if self.doors.are_shut() {
                self.failed.insert(port);
            } else {
                self.bind(port);
            }
        }
        let table = self.live.table();
        let revision_of = |port| table.routes.port(port).map(|target| target.revision);
        // Of those that are left to the next router that one answers.
        let failed = self.failed.iter().filter(|_| !self.doors.are_shut());
        let unbound = failed.filter_map(|port| Some((revision_of(*port)?, *port)));
        self.live.set_unbound(unbound.collect());
    }

    /// Whether a port could not be bound; [`TcpRoutes::reconcile`] tries again.
    pub(crate) fn is_incomplete(&self) -> bool {
        !self.failed.is_empty()
    }

    fn bind(&mut self, port: u16) {
        let inherited = self.inheritance.take(Door::Tcp(port));
        match inherited.map_or_else(|| Listener::bind(port), Listener::of) {
            Ok(listener) => {
                self.failed.remove(&port);
                self.doors.add(Door::Tcp(port), listener.socket());
                let stop = self.lifetime.stop().child_token();
                self.bound.insert(port, stop.clone());
                info!(port, "serving the tcp route of port {port}");
                let (live, lifetime) = (self.live.clone(), self.lifetime.clone());
                let entrance = self.doors.entrance();
                let accept = accept(listener, entrance, port, live, lifetime, stop);
                self.lifetime.spawn("tcp route", |_| accept);
            }
            Err(err) => {
                if self.failed.insert(port) {
                    let err = &err as &dyn std::error::Error;
                    error!(
                        port,
                        error = err,
                        "port {port} of a tcp route cannot be bound; trying again"
                    );
                }
            }
        }
    }
}

async fn accept(
    listener: Listener,
    mut entrance: Entrance,
    port: u16,
    live: Arc<Live>,
    lifetime: daemon::Lifetime,
    stop: CancellationToken,
) {
    let mut refusals = Refusals::new(lifetime.clone());
    loop {
        let (stream, peer) = tokio::select! {
            () = stop.cancelled() => return,
            accepted = entrance.accept(&listener) => accepted,
        };
        let seat = match live.clients.enter(peer.ip()) {
            Ok(seat) => seat,
            Err(err) => {
                refusals.refuse(stream, peer, err, false);
                continue;
            }
        };
        let live = live.clone();
        lifetime.spawn_drained(async move {
            if let Err(err) = connection(stream, port, &live).await {
                debug!(port, error = %err, "a connection of a tcp route ended early");
            }
            drop(seat);
        });
    }
}

async fn connection(mut client: TcpStream, port: u16, live: &Live) -> io::Result<()> {
    let Some(target) = live.table().routes.port(port).cloned() else { return Ok(()) };
    let _open = live.meters.tcp.open();
    let mut search = Search::begin(&target).map_err(io::Error::other)?;
    let (mut backend, mut busy) = search.connect().await.map_err(io::Error::other)?;
    client.reset_when_closed();
    backend.control().becomes_tunnel();
    busy.becomes_tunnel();
    let (line, line_of_backend) = (Line::of(&client), backend.line());
    let control = backend.control().clone();
    let counted = Counted::default();
    let of_client = (counted.inspect(&mut client), line);
    let relayed = relay_lines(of_client, (&mut backend, line_of_backend));
    let lingering = tokio::select! {
        lingering = relayed => lingering,
        () = control.until_given_up() => return Err(io::ErrorKind::ConnectionAborted.into()),
    };
    drop(busy);
    let (received, sent) = counted.bytes();
    target.service.tally().carry(received, sent);
    let broken = match control.is_cut() {
        // The other side has this long to take what this one said, and no more.
        true => tokio::select! {
            broken = lingering => broken,
            () = control.until_given_up() => return Err(io::ErrorKind::ConnectionAborted.into()),
        },
        false => lingering.await,
    };
    if !broken.one {
        client.end_when_closed();
    }
    if !broken.other {
        backend.end_when_closed();
    }
    Ok(())
}
