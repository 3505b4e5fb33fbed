//! The way back to a machine that joins. It reaches a host of the cluster, or it could not ask; that the others reach it is
//! tried before it is let in: one whose port is closed would be a host that nobody can list, and that is left out for ever.

use std::{convert::Infallible, io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

/// Longest time until the machine has said its word.
const ANSWER: Duration = Duration::from_secs(3);

/// Where a machine waits for the host that it asked, at the address and port that will be its tunnel's.
#[derive(Debug)]
pub(crate) struct Door {
    listener: TcpListener,
    word: String,
}

impl Door {
    /// Opens it.
    pub(crate) async fn open(at: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(at).await?;
        Ok(Self { listener, word: hex::encode(rand::random::<[u8; 16]>()) })
    }

    /// The answer to each connection, by which the host knows that it found this machine and no other.
    pub(crate) fn word(&self) -> &str {
        &self.word
    }

    /// Says it for as long as nobody gives this up.
    pub(crate) async fn answer(&self) -> Infallible {
        loop {
            let Ok((mut stream, _)) = self.listener.accept().await else {
                tokio::task::yield_now().await;
                continue;
            };
            // Who hangs up comes again.
            let _ = timeout(ANSWER, stream.write_all(self.word.as_bytes())).await;
        }
    }
}

/// The machine cannot be reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoWayBack {
    /// Nobody answers.
    #[error("no connection to it can be made within {ANSWER:?}")]
    Silent,
    /// It is refused, or breaks.
    #[error("a connection to it fails: {0}")]
    Io(#[from] io::Error),
    /// Another answers.
    #[error("another machine or program answers there")]
    Another,
}

/// Tries whether the machine that said this word is at that address.
pub(crate) async fn knock(at: SocketAddr, word: &str) -> Result<(), NoWayBack> {
    let heard = async {
        let mut heard = vec![0; word.len()];
        TcpStream::connect(at).await?.read_exact(&mut heard).await?;
        Ok::<_, io::Error>(heard)
    };
    let heard = match timeout(ANSWER, heard).await.map_err(|_| NoWayBack::Silent)? {
        Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => return Err(NoWayBack::Another),
        heard => heard?,
    };
    if heard == word.as_bytes() { Ok(()) } else { Err(NoWayBack::Another) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_machine_is_found_where_it_waits_and_no_other_is_taken_for_it() {
        let door = Door::open(([127, 0, 0, 1], 0).into()).await.unwrap();
        let at = door.listener.local_addr().unwrap();
        let other = "0".repeat(door.word().len());
        let found = async {
            assert!(knock(at, door.word()).await.is_ok());
            assert!(matches!(knock(at, &other).await, Err(NoWayBack::Another)));
        };
        tokio::select! {
            never = door.answer() => match never {},
            () = found => {}
        }
        drop(door);
        assert!(matches!(knock(at, &other).await, Err(NoWayBack::Io(_))));
    }
}
