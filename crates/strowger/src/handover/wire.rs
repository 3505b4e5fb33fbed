//! Listening sockets over a Unix socket (unix(7), `SCM_RIGHTS`).
//!
//! A line of JSON and a descriptor a socket, in the same order; an empty line ends them. Whoever got them answers with one.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::TcpListener as StdListener,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use rustix::{
    cmsg_space,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
    },
};
use tokio::{
    io::Interest,
    net::{TcpListener, UnixStream},
};

use super::Door;

/// Longest list: as many tcp routes as there are ports.
const LIST_MAX: usize = 2 << 20;
/// Bytes read at once, and descriptors with them.
const PIECE: usize = 4096;
/// The kernel gives those of one message at once, and one message has one.
const DESCRIPTORS: usize = 4;

/// Sends the sockets and waits until the other side has them.
pub(super) async fn send_doors(
    stream: &UnixStream,
    doors: &[(Door, Arc<TcpListener>)],
) -> io::Result<()> {
    for (door, listener) in doors {
        let mut line = serde_json::to_vec(door)?;
        line.push(b'\n');
        send(stream, &line, Some(listener.as_fd())).await?;
    }
    send(stream, b"\n", None).await?;
    match receive(stream, &mut [0]).await? {
        (0, _) => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

/// Receives the sockets and says so.
pub(super) async fn receive_doors(stream: &UnixStream) -> io::Result<Vec<(Door, StdListener)>> {
    let (mut list, mut sockets) = (Vec::new(), Vec::new());
    while list != b"\n" && !list.ends_with(b"\n\n") {
        let mut piece = [0; PIECE];
        let (len, descriptors) = receive(stream, &mut piece).await?;
        if len == 0 || list.len() > LIST_MAX {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        list.extend_from_slice(&piece[..len]);
        sockets.extend(descriptors);
    }
    let doors = list.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let doors: Vec<Door> = doors.map(serde_json::from_slice).collect::<Result<_, _>>()?;
    if doors.len() != sockets.len() {
        return Err(io::Error::other("not every socket came with its name"));
    }
    send(stream, b"\n", None).await?;
    Ok(doors.into_iter().zip(sockets.into_iter().map(StdListener::from)).collect())
}

async fn send(
    stream: &UnixStream,
    mut bytes: &[u8],
    mut descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    while !bytes.is_empty() {
        let sent = stream.async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !descriptor.as_slice().is_empty() {
                ancillary.push(SendAncillaryMessage::ScmRights(descriptor.as_slice()));
            }
            let text = [IoSlice::new(bytes)];
            Ok(sendmsg(stream, &text, &mut ancillary, SendFlags::NOSIGNAL)?)
        });
        bytes = &bytes[sent.await?..];
        descriptor = None;
    }
    Ok(())
}

async fn receive(stream: &UnixStream, buf: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    stream
        .async_io(Interest::READABLE, || {
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut into = [IoSliceMut::new(buf)];
            let got = recvmsg(stream, &mut into, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
            let messages = ancillary.drain().filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
                _ => None,
            });
            Ok((got.bytes, messages.flatten().collect()))
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_socket_arrives_with_its_name() {
        let (one, other) = UnixStream::pair().unwrap();
        let mut doors = Vec::new();
        for port in 0..600 {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            doors.push((Door::Tcp(port), Arc::new(listener)));
        }
        let (sent, received) = tokio::join!(send_doors(&one, &doors), receive_doors(&other));
        sent.unwrap();
        let received = received.unwrap();
        assert_eq!(received.len(), doors.len());
        for ((door, listener), (name, socket)) in doors.iter().zip(&received) {
            assert_eq!(door, name);
            assert_eq!(listener.local_addr().unwrap(), socket.local_addr().unwrap());
        }
    }

    #[tokio::test]
    async fn one_that_goes_in_the_middle_hands_nothing_over() {
        let (one, other) = UnixStream::pair().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        send(&one, b"\"http\"\n", Some(listener.as_fd())).await.unwrap();
        drop(one);
        receive_doors(&other).await.unwrap_err();
    }
}
