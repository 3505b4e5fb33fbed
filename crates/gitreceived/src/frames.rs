//! What the daemon and a hook say to each other.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixStream, unix::OwnedWriteHalf},
    time::timeout,
};

use crate::{
    domain::update::UPDATES_LEN_MAX,
    hook::{END, Question},
};

/// The hook asks at once.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(30);
/// A question is the list of refs in JSON.
const QUESTION_LEN_MAX: u32 = 2 * UPDATES_LEN_MAX as u32;

/// Reads what a hook asks.
pub(crate) async fn question(mut stream: UnixStream) -> io::Result<(UnixStream, Question)> {
    let reading = async {
        let len = stream.read_u32().await?;
        if len > QUESTION_LEN_MAX {
            return Err(io::Error::other("the question is too long"));
        }
        let mut bytes = vec![0; len as usize];
        stream.read_exact(&mut bytes).await?;
        serde_json::from_slice(&bytes).map_err(io::Error::other)
    };
    let question = timeout(QUESTION_TIMEOUT, reading).await.map_err(io::Error::other)??;
    Ok((stream, question))
}

/// Output for the hook: every write is a frame.
pub(crate) struct Frames(pub(crate) OwnedWriteHalf);

impl Frames {
    pub(crate) async fn end(&mut self, status: u8) -> io::Result<()> {
        self.0.write_all(&[&END.to_be_bytes()[..], &[status]].concat()).await
    }

    /// A line for the pusher. One who has gone is noticed elsewhere.
    pub(crate) async fn say(&mut self, line: &str) {
        let _ = self.write_all(format!("{line}\n").as_bytes()).await;
    }

    pub(crate) async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let len = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        self.0.write_all(&[&len.to_be_bytes(), bytes].concat()).await
    }
}
