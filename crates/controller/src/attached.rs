//! Relaying between the client of an attached job and its host.

use attach::{Frame, FrameCodec, Stream};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy, split};
use tokio_util::codec::{FramedRead, FramedWrite};
use tracing::debug;

use crate::one_off::Attached;

/// What became of the client's side.
enum Client {
    /// It has said all it will, and listens.
    Silent,
    /// It is gone.
    Gone,
}

/// Relays until the job has ended or the client is gone; in the latter case the job is stopped.
pub(crate) async fn relay(client: impl AsyncRead + AsyncWrite, mut attached: Attached) {
    let Some(host) = attached.connection.take() else { return };
    let (from_client, mut to_client) = split(client);
    let (mut from_host, to_host) = split(host);
    let down = async {
        // Ends when the host has said all, or when the client cannot be told any more.
        let copied = copy(&mut from_host, &mut to_client).await;
        let _ = to_client.shutdown().await;
        copied.is_ok()
    };
    let up = relay_up(from_client, to_host);
    tokio::pin!(down, up);
    let ended = tokio::select! {
        ended = &mut down => ended,
        client = &mut up => match client {
            Client::Silent => down.await,
            Client::Gone => false,
        },
    };
    attached.ended = ended;
}

/// Relays what the client says. An end of the connection is the client's end, unless it has closed stdin before: then it is
/// a client that has said all and still listens.
async fn relay_up(from_client: impl AsyncRead + Unpin, to_host: impl AsyncWrite + Unpin) -> Client {
    let mut frames = FramedRead::new(from_client, FrameCodec);
    let mut host = FramedWrite::new(to_host, FrameCodec);
    let mut closed = false;
    while let Some(frame) = frames.next().await {
        let frame = match frame {
            Ok(frame) => frame,
            Err(err) => {
                debug!(error = %err, "a client of an attached job is lost");
                return Client::Gone;
            }
        };
        if matches!(&frame, Frame::Data { stream: Stream::Stdin, bytes } if bytes.is_empty()) {
            closed = true;
        }
        if host.send(frame).await.is_err() {
            // The host is done; its last words come the other way.
            return Client::Silent;
        }
    }
    if closed {
        let _ = host.close().await;
        Client::Silent
    } else {
        Client::Gone
    }
}
