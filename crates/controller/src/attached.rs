//! Relaying between the client of an attached job and its host.

use attach::FrameCodec;
use daemon::relay::linger;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy, split};
use tokio_util::codec::{FramedRead, FramedWrite};
use tracing::debug;

use crate::one_off::Attached;

/// Relays until the job has ended or the client is gone; in the latter case the job is stopped.
pub(crate) async fn relay(client: impl AsyncRead + AsyncWrite, mut attached: Attached) {
    let Some(host) = attached.connection.take() else { return };
    let (mut from_client, mut to_client) = split(client);
    let (mut from_host, to_host) = split(host);
    let down = async {
        // Ends when the host has said all, or when the client cannot be told any more.
        let copied = copy(&mut from_host, &mut to_client).await;
        let _ = to_client.shutdown().await;
        copied.is_ok()
    };
    attached.ended = tokio::select! {
        ended = down => ended,
        () = relay_up(&mut from_client, to_host) => false,
    };
    if attached.ended {
        // What it is still sending must not cost it the job's last words.
        linger(&mut from_client).await;
    }
}

/// Relays what the client says until it is gone. That it has no more for stdin is a frame; the end of the connection is
/// the end of the client, for one that was killed cannot be told from one that still listens.
async fn relay_up(from_client: impl AsyncRead + Unpin, to_host: impl AsyncWrite + Unpin) {
    let mut frames = FramedRead::new(from_client, FrameCodec);
    let mut host = FramedWrite::new(to_host, FrameCodec);
    let mut host_listens = true;
    while let Some(frame) = frames.next().await {
        let frame = match frame {
            Ok(frame) => frame,
            Err(err) => {
                debug!(error = %err, "a client of an attached job is lost");
                return;
            }
        };
        // A host that is done takes no more; its last words come the other way.
        host_listens = host_listens && host.send(frame).await.is_ok();
    }
}
