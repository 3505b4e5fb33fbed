//! How much is passed on where bytes are all that is known.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::{InspectReader, InspectWriter};

/// Bytes from a client, and to it.
#[derive(Debug, Default)]
pub(super) struct Counted {
    received: AtomicU64,
    sent: AtomicU64,
}

impl Counted {
    /// The client's connection, of which everything is counted.
    pub(super) fn inspect<S>(&self, client: S) -> impl AsyncRead + AsyncWrite + Unpin + use<'_, S>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let count = |of: &AtomicU64, bytes: &[u8]| _ = of.fetch_add(bytes.len() as u64, Relaxed);
        let reader = InspectReader::new(client, move |bytes| count(&self.received, bytes));
        InspectWriter::new(reader, move |bytes| count(&self.sent, bytes))
    }

    /// How many came, and how many went.
    pub(super) fn bytes(&self) -> (u64, u64) {
        (self.received.load(Relaxed), self.sent.load(Relaxed))
    }
}
