//! Requests that switch protocols: websockets and the like.

use std::sync::Arc;

use daemon::{line::Line, relay::relay_lines};
use http::{
    HeaderValue, Request, Response, StatusCode,
    header::{CONNECTION, UPGRADE},
    request::Parts,
};
use hyper::{
    body::Incoming,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    answer::{Answer, Failure},
    counted::Counted,
    forward::{Search, begin, clean},
    lent::{Lent, Resettable},
    record::Record,
    request::Context,
    sticky::tell,
};
use crate::{
    backend::{Busy, Control, Lease, RequestBody, Socket, handshake},
    domain::headers::{is_among, strip_hop_by_hop},
    live::Target,
};

/// Sends the request on a connection of its own. After a 101 bytes are copied both ways until both sides have ended.
pub(super) async fn forward(
    context: &Context,
    mut parts: Parts,
    mut body: RequestBody,
    target: &Target,
    protocol: HeaderValue,
    record: &mut Record,
) -> Result<Response<Answer>, Failure> {
    let of_client = parts.extensions.remove::<OnUpgrade>();
    parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    parts.headers.insert(UPGRADE, protocol.clone());
    let mut search = begin(&mut parts, target).await?;
    let connected = search.connect().await;
    let (socket, mut busy) = connected.inspect_err(|_| record.unconnected(search.failed_last()))?;
    record.connected(busy.backend().addr(), false);
    let (control, line) = (socket.control().clone(), socket.line());
    let (mut send, connection) = handshake(socket).await.map_err(Failure::Unreachable)?;
    let ended = CancellationToken::new();
    let task = ended.clone().drop_guard();
    context.lifetime.spawn_drained(async move {
        let driven = ended.run_until_cancelled(connection.with_upgrades());
        if let Some(Err(err)) = driven.await {
            debug!(error = %err, "a connection to a backend ended early");
        }
    });
    body.goes_to(&control);
    let answered = send.send_request(Request::from_parts(parts, body)).await;
    let mut response = match answered {
        Ok(response) => response,
        Err(err) => return Err(lose(err, &control, &busy, &search)),
    };
    control.begin_answer();
    busy.backend().answered(response.status(), None, || search.peers());
    let cookie = search.cookie(busy.backend(), response.headers());
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (parts, body) = response.into_parts();
        let lease = Lease::of_driven(control, Some(task), busy);
        let mut parts = clean(parts)?;
        tell(cookie, &mut parts.headers);
        return Ok(Response::from_parts(parts, Answer::relay(body, lease)));
    }
    if !is_among(&protocol, response.headers()) {
        return Err(Failure::Unreadable("it switches to a protocol that was not asked for"));
    }
    let of_backend = hyper::upgrade::on(&mut response);
    // From now on it ends by itself.
    task.disarm();
    if let Some(of_client) = of_client {
        let record = record.hand_over(response.status());
        control.becomes_tunnel();
        busy.becomes_tunnel();
        let (of_client, of_backend) = ((of_client, context.line), (of_backend, line));
        let tunnel = tunnel(of_client, of_backend, control, busy, record);
        let seat = context.seat.clone();
        context.lifetime.spawn_drained(async move {
            tunnel.await;
            drop(seat);
        });
    }
    let mut switch = pass_on(response);
    tell(cookie, switch.headers_mut());
    Ok(switch)
}

/// Why no answer came.
fn lose(err: hyper::Error, control: &Control, busy: &Busy, search: &Search<'_>) -> Failure {
    if control.stood_still() {
        return Failure::still(control.is_client_awaited());
    }
    let failure = Failure::lost(Some(err));
    if matches!(failure, Failure::Lost(_)) && !control.take_received() {
        busy.backend().lost(search.peers());
    }
    failure
}

/// A 101 as the client gets it.
fn pass_on(response: Response<Incoming>) -> Response<Answer> {
    let protocol = response.headers().get(UPGRADE).cloned();
    let (mut parts, _) = response.into_parts();
    strip_hop_by_hop(&mut parts.headers);
    parts.extensions.clear();
    parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(protocol) = protocol {
        parts.headers.insert(UPGRADE, protocol);
    }
    Response::from_parts(parts, Answer::Own(None))
}

async fn tunnel(
    (of_client, line_of_client): (OnUpgrade, Option<Line>),
    (of_backend, line_of_backend): (OnUpgrade, Option<Line>),
    control: Arc<Control>,
    busy: Busy,
    record: Record,
) {
    let (client, backend) = match tokio::try_join!(of_client, of_backend) {
        Ok(switched) => switched,
        Err(err) => {
            debug!(error = %err, "a connection could not be switched to its new protocol");
            return;
        }
    };
    let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
    let counted = Counted::default();
    let of_client = (counted.inspect(&mut client), line_of_client);
    let of_backend = (&mut backend, line_of_backend);
    let lingering = tokio::select! {
        lingering = relay_lines(of_client, of_backend) => lingering,
        () = control.until_given_up() => {
            debug!("a connection of another protocol was cut");
            return;
        }
    };
    drop(busy);
    record.closed(counted.bytes());
    let broken = match control.is_cut() {
        // The other side has this long to take what this one said, and no more.
        true => tokio::select! {
            broken = lingering => broken,
            () = control.until_given_up() => return,
        },
        false => lingering.await,
    };
    if !broken.one {
        end_client(client.into_inner());
    }
    if !broken.other
        && let Ok(backend) = backend.into_inner().downcast::<TokioIo<Socket>>()
    {
        backend.io.into_inner().end_when_closed();
    }
}

fn end_client(client: Upgraded) {
    match client.downcast::<TokioIo<Lent<TcpStream>>>() {
        Ok(plain) => _ = plain.io.inner().get().map(Resettable::end_when_closed),
        Err(client) => {
            if let Ok(tls) = client.downcast::<TokioIo<Lent<TlsStream<TcpStream>>>>() {
                let _ = tls.io.inner().get().map(Resettable::end_when_closed);
            }
        }
    }
}
