//! What the kernel knows of a TCP connection beyond its bytes.
//!
//! Asked with sock_diag(7), for the other ways to it (`ioctl` with `SIOCOUTQ`, `getsockopt` with `TCP_INFO`) need unsafe code.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType,
    netlink::{SOCK_DIAG, SocketAddrNetlink},
    recv, sendto, socket_with,
};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

/// First time between two looks at what is still on its way; doubles up to the last.
const LOOK_INTERVAL_FIRST: Duration = Duration::from_millis(20);
/// Last time between two looks.
const LOOK_INTERVAL_LAST: Duration = Duration::from_secs(1);
/// Time between two looks whether the other end is lost.
const LOST_INTERVAL: Duration = Duration::from_secs(15);
/// Longest time the other end may take for what is on its way to it when nothing more will come.
const TAKE_TIMEOUT: Duration = Duration::from_secs(3600);
/// An end that acknowledged nothing for that time is lost. One that only stopped reading acknowledges the probes of the
/// kernel, which come every 2 min at least.
const LOST_TIMEOUT: Duration = Duration::from_secs(150);

// linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h, linux/tcp.h and net/tcp_states.h.
const NLM_F_REQUEST: u16 = 1;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const INET_DIAG_INFO: u16 = 2;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
const TCP_LISTEN: u8 = 10;
/// `nlmsghdr`, and what is asked: `inet_diag_req_v2`.
const REQUEST_LEN: u32 = 72;
/// `nlmsghdr`.
const HEAD_LEN: usize = 16;
/// `inet_diag_msg`.
const SOCKET_LEN: usize = 72;
/// Longest answer: that, and the attributes.
const ANSWER_LEN_MAX: usize = 4096;

/// A TCP connection, as the kernel tells it from others. To be used while its socket is open.
#[derive(Debug, Clone, Copy)]
pub struct Line {
    here: SocketAddr,
    there: SocketAddr,
}

/// What is on its way to the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Transit {
    /// Bytes that were written (and the end, which counts as one) and not acknowledged.
    unacknowledged: u32,
    /// Whether the kernel has asked, or sent something again, and has had no answer yet.
    is_asking: bool,
    /// Time since the other end last acknowledged anything.
    silent_for: Duration,
}

impl Line {
    /// That of a socket; none if it is not connected.
    pub fn of(stream: &TcpStream) -> Option<Self> {
        let canonical = |addr: SocketAddr| SocketAddr::new(addr.ip().to_canonical(), addr.port());
        let (here, there) = (stream.local_addr().ok()?, stream.peer_addr().ok()?);
        Some(Self { here: canonical(here), there: canonical(there) })
    }

    /// Waits until the other end has acknowledged all that was written, or is gone. One that takes nothing for a while is
    /// waited for, at most an hour.
    ///
    /// A socket that is closed before loses what is on its way: at once if something that came is unread, and else after
    /// some 100 s of taking nothing.
    pub async fn until_taken(self) {
        let taken = async {
            let mut pause = LOOK_INTERVAL_FIRST;
            let mut since = None;
            while let Some(transit) = self.transit()
                && transit.unacknowledged > 0
                && !transit.is_lost(*since.get_or_insert_with(Instant::now))
            {
                sleep(pause).await;
                pause = LOOK_INTERVAL_LAST.min(2 * pause);
            }
        };
        let _ = timeout(TAKE_TIMEOUT, taken).await;
    }

    /// Waits until the other end is lost with something on its way to it. The kernel's own keepalive notices only ends that
    /// vanish when nothing is, and its retransmissions take a quarter of an hour.
    pub async fn until_lost(self) {
        let mut since = None;
        loop {
            sleep(LOST_INTERVAL).await;
            match self.transit() {
                Some(transit) if transit.unacknowledged > 0 => {
                    if transit.is_lost(*since.get_or_insert_with(Instant::now)) {
                        return;
                    }
                }
                _ => since = None,
            }
        }
    }

    /// What is on its way; none if the connection is over, or the kernel does not tell.
    fn transit(self) -> Option<Transit> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let kernel =
            socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(SOCK_DIAG)).ok()?;
        let mut answer = [0; ANSWER_LEN_MAX];
        let to_kernel = SocketAddrNetlink::new(0, 0);
        sendto(&kernel, &self.request(), SendFlags::empty(), &to_kernel).ok()?;
        // It is there when the request was taken.
        let (_, len) = recv(&kernel, &mut answer[..], RecvFlags::empty()).ok()?;
        parse(&answer[..len.min(ANSWER_LEN_MAX)])
    }

    fn request(self) -> Vec<u8> {
        let family = if self.here.is_ipv4() { AF_INET } else { AF_INET6 };
        let octets = |addr: SocketAddr| match addr.ip() {
            IpAddr::V4(ip) => [&ip.octets()[..], &[0; 12]].concat(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        [
            &REQUEST_LEN.to_ne_bytes()[..],
            &SOCK_DIAG_BY_FAMILY.to_ne_bytes(),
            &NLM_F_REQUEST.to_ne_bytes(),
            // Which request of whom: there is one.
            &[0; 8],
            &[family, IPPROTO_TCP, 1 << (INET_DIAG_INFO - 1), 0],
            // In any state, and with any cookie.
            &[0xff; 4],
            &self.here.port().to_be_bytes(),
            &self.there.port().to_be_bytes(),
            &octets(self.here),
            &octets(self.there),
            &[0; 4],
            &[0xff; 8],
        ]
        .concat()
    }
}

impl Transit {
    /// Whether the other end is lost, something having been on its way to it since then.
    fn is_lost(self, since: Instant) -> bool {
        // After a pause the last acknowledgement is old, and means nothing.
        self.is_asking && self.silent_for.min(since.elapsed()) > LOST_TIMEOUT
    }
}

fn parse(answer: &[u8]) -> Option<Transit> {
    let half = |at: usize| Some(u16::from_ne_bytes(answer.get(at..at + 2)?.try_into().ok()?));
    let word = |at: usize| Some(u32::from_ne_bytes(answer.get(at..at + 4)?.try_into().ok()?));
    // Where the connection is over, the kernel may answer with the socket that took it.
    if half(4)? != SOCK_DIAG_BY_FAMILY || *answer.get(HEAD_LEN + 1)? == TCP_LISTEN {
        return None;
    }
    let unacknowledged = word(HEAD_LEN + 60)?;
    let mut at = HEAD_LEN + SOCKET_LEN;
    while let (Some(len), Some(kind)) = (half(at), half(at + 2)) {
        let info = at + 4;
        if kind == INET_DIAG_INFO {
            let is_asking = *answer.get(info + 2)? > 0 || *answer.get(info + 3)? > 0;
            let silent_for = Duration::from_millis(word(info + 56)?.into());
            return Some(Transit { unacknowledged, is_asking, silent_for });
        }
        at += usize::from(len.max(4)).next_multiple_of(4);
    }
    None
}

#[cfg(test)]
mod tests {
    use std::{future::pending, pin::pin};

    use futures_util::FutureExt;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    async fn pair(at: &str) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(at).await.unwrap();
        let connected = TcpStream::connect(listener.local_addr().unwrap());
        let (connected, accepted) = tokio::join!(connected, listener.accept());
        (connected.unwrap(), accepted.unwrap().0)
    }

    #[tokio::test]
    async fn what_is_on_its_way_is_known_until_it_is_taken() {
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let (mut here, mut there) = pair(at).await;
            let line = Line::of(&here).unwrap();
            line.until_taken().await;
            while here.try_write(&[b'x'; 32 << 10]).is_ok() {}
            let on_its_way = line.transit().unwrap();
            assert!(on_its_way.unacknowledged > 0, "{on_its_way:?}");
            here.shutdown().await.unwrap();
            let mut taken = pin!(line.until_taken());
            assert!(taken.as_mut().now_or_never().is_none(), "it takes nothing");
            let read = async {
                tokio::io::copy(&mut there, &mut tokio::io::sink()).await.unwrap();
                pending::<()>().await;
            };
            tokio::select! {
                () = taken => {}
                () = read => {}
            }
        }
    }

    #[tokio::test]
    async fn who_is_gone_is_not_waited_for() {
        let (mut here, there) = pair("127.0.0.1:0").await;
        let line = Line::of(&here).unwrap();
        while here.try_write(&[b'x'; 32 << 10]).is_ok() {}
        there.set_zero_linger().unwrap();
        drop(there);
        assert!(here.read(&mut [0]).await.is_err(), "it was reset");
        line.until_taken().now_or_never().expect("there is nothing to wait for");
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_that_answers_no_probes_is_lost_and_one_that_pauses_is_not() {
        let since = Instant::now();
        let of = |is_asking, secs| {
            let silent_for = Duration::from_secs(secs);
            Transit { unacknowledged: 1, is_asking, silent_for }
        };
        assert!(!of(true, 600).is_lost(since), "it has just been written");
        tokio::time::advance(2 * LOST_TIMEOUT).await;
        assert!(of(true, 290).is_lost(since));
        assert!(!of(true, 121).is_lost(since), "the last probe was answered");
        assert!(!of(false, 290).is_lost(since), "the next probe was not sent yet");
    }
}
