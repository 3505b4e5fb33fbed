//! Where requests go to: addresses, their connections, and who is asked first.

mod go_ahead;
mod health;
mod hold;
mod io;
mod lease;
mod services;
mod slow;
mod upstream;

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use daemon::sockets::detect_lost_peers;
pub(crate) use go_ahead::wait_to_be_asked;
use health::Health;
use http::StatusCode;
use io::REQUEST_STILL_SECS;
pub(crate) use io::{Control, Socket};
pub(crate) use lease::Lease;
use rustix::io::Errno;
pub(crate) use services::{Census, Registered, Service, Services, Set};
use tokio::sync::Notify;
use tracing::{debug, error};
pub(crate) use upstream::{BodyError, RequestBody, SendError, Upstream, handshake};

use crate::{
    domain::{
        ewma::Latency,
        outlier::{Fault, Peers, Success},
        pick::{Candidate, Standing},
    },
    gate::Place,
};

/// Longest time to connect to a backend: they are near.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The same where another can be tried: one that has just died refuses nothing, for its address is nobody's.
pub(crate) const HASTY_TIMEOUT: Duration = Duration::from_millis(150);
/// Idle connections older than this are closed: just before servers commonly close them, at 5 s.
const IDLE_LIMIT_MS: u64 = 4_000;
/// Most idle connections kept to one backend.
const IDLE_COUNT: usize = 1024;
/// Pause between two lines that say that the router has run out of something.
const TELL_INTERVAL_MS: u64 = 10_000;

/// Milliseconds since the process began.
pub(crate) fn now_ms() -> u64 {
    ms_at(Instant::now())
}

fn ms_at(instant: Instant) -> u64 {
    static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);
    instant.saturating_duration_since(*BEGUN).as_millis() as u64
}

/// Whether a connection could not be made for want of something of this machine's.
pub(crate) fn is_exhaustion(err: &std::io::Error) -> bool {
    let of_ours = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];
    Errno::from_io_error(err).is_some_and(|errno| of_ours.contains(&errno))
}

/// Tells of it, not more often than an operator can read.
pub(crate) fn tell_of_exhaustion(err: &std::io::Error) {
    static TOLD: AtomicU64 = AtomicU64::new(0);
    let (now, told) = (now_ms().max(1), TOLD.load(Ordering::Relaxed));
    let is_due = told == 0 || now.saturating_sub(told) >= TELL_INTERVAL_MS;
    if is_due && TOLD.compare_exchange(told, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
        error!(error = err as &dyn std::error::Error, "the router can make no more connections");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One address of a service.
#[derive(Debug)]
pub(crate) struct Backend {
    addr: SocketAddr,
    /// How long it may take for the first byte of an answer, in seconds.
    answer_secs: u32,
    in_flight: AtomicU32,
    /// How much of that was upgraded to another protocol.
    upgraded: AtomicU32,
    /// Withdrawn: gets nothing new.
    gone: AtomicBool,
    /// Vanished without being withdrawn: may be dead.
    suspect: AtomicBool,
    health: Health,
    idle: Mutex<VecDeque<(u64, Box<Upstream>)>>,
    open: Mutex<Vec<Weak<Control>>>,
    ended: Notify,
}

impl Candidate for Arc<Backend> {
    fn standing(&self, now_ms: u64) -> Standing {
        if self.gone.load(Ordering::Relaxed) {
            return Standing::Gone;
        }
        if self.suspect.load(Ordering::Relaxed) {
            return Standing::Last;
        }
        self.health.standing(now_ms)
    }

    fn load(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    fn latency(&self) -> Latency {
        self.health.latency()
    }

    fn warmth(&self, now_ms: u64) -> f32 {
        self.health.warmth(now_ms)
    }
}

/// Why a backend could not be connected to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// Nobody answered in time.
    #[error("no connection within {0:?}")]
    Timeout(Duration),
    /// It was refused, or there is no way.
    #[error("the connection was refused")]
    Refused(#[source] std::io::Error),
    /// This router has no descriptor, port or memory left for it: nothing is known of the backend.
    #[error("this router can make no more connections")]
    Exhausted(#[source] std::io::Error),
    /// It was made and lost at once.
    #[error("the connection was lost at once")]
    Lost(#[source] hyper::Error),
}

impl Backend {
    fn new(addr: SocketAddr, answer_secs: u32) -> Self {
        Self {
            addr,
            answer_secs,
            in_flight: AtomicU32::new(0),
            upgraded: AtomicU32::new(0),
            gone: AtomicBool::new(false),
            suspect: AtomicBool::new(false),
            health: Health::new(now_ms()),
            idle: Mutex::default(),
            open: Mutex::default(),
            ended: Notify::new(),
        }
    }

    /// Where it is.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    fn is_gone(&self) -> bool {
        // Together with the order in `Busy::begin` and `withdraw`: either the request sees the withdrawal, or whoever
        // withdraws sees the request.
        self.gone.load(Ordering::SeqCst)
    }

    /// Requests and upgraded connections under way.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// Connections to it that are open, and those of them that are kept for the next request.
    pub(crate) fn connections(&self) -> (u64, u64) {
        let open = lock(&self.open).iter().filter(|control| control.strong_count() > 0).count();
        (open as u64, lock(&self.idle).len() as u64)
    }

    /// Nothing new is sent there from now on.
    fn withdraw(&self) {
        self.gone.store(true, Ordering::SeqCst);
        let idle = std::mem::take(&mut *lock(&self.idle));
        drop(idle);
    }

    /// A good idle connection, used not longer than `max_idle` ago.
    pub(crate) fn checkout(&self, max_idle: Duration) -> Option<Box<Upstream>> {
        let limit = u64::try_from(max_idle.as_millis()).unwrap_or(u64::MAX).min(IDLE_LIMIT_MS);
        let now = now_ms();
        loop {
            let (since, mut upstream) = lock(&self.idle).pop_back()?;
            if now.saturating_sub(since) > limit {
                // The others are older still; the sweep closes them.
                return None;
            }
            if upstream.is_usable() {
                return Some(upstream);
            }
        }
    }

    /// Keeps a connection that is ready for the next request.
    fn keep(&self, upstream: Box<Upstream>) {
        let mut idle = lock(&self.idle);
        if !self.is_gone() && idle.len() < IDLE_COUNT {
            idle.push_back((now_ms(), upstream));
        }
    }

    /// A new connection, as bytes.
    pub(crate) async fn connect(&self, patience: Duration) -> Result<Socket, ConnectError> {
        let connecting = tokio::net::TcpStream::connect(self.addr);
        let connected = match tokio::time::timeout(patience, connecting).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(err)) if is_exhaustion(&err) => {
                tell_of_exhaustion(&err);
                return Err(ConnectError::Exhausted(err));
            }
            Ok(Err(err)) => Err(ConnectError::Refused(err)),
            Err(_) => Err(ConnectError::Timeout(patience)),
        };
        let stream = connected?;
        self.health.succeed(Success::Connected, now_ms());
        let _ = stream.set_nodelay(true);
        let _ = detect_lost_peers(&stream);
        let socket = Socket::new(stream, self.answer_secs);
        let mut open = lock(&self.open);
        if open.len() == open.capacity() {
            open.retain(|control| control.strong_count() > 0);
        }
        open.push(Arc::downgrade(socket.control()));
        Ok(socket)
    }

    /// Whether a request may go there now: one that tries an ejected backend goes alone.
    pub(crate) fn admits(&self) -> bool {
        self.health.admit(now_ms())
    }

    /// It could not be connected to; it is one of these.
    pub(crate) fn failed(&self, err: &ConnectError, peers: Peers) {
        let fault = match err {
            ConnectError::Timeout(_) => Fault::TimedOut,
            ConnectError::Refused(_) => Fault::Refused,
            ConnectError::Lost(_) => Fault::Lost,
            ConnectError::Exhausted(_) => return,
        };
        self.health.fail(fault, peers, now_ms());
        if fault != Fault::Lost && self.suspect.load(Ordering::Relaxed) {
            self.withdraw();
        }
    }

    /// It lost a new connection without having answered.
    pub(crate) fn lost(&self, peers: Peers) {
        self.health.fail(Fault::Lost, peers, now_ms());
    }

    /// It answered what is not HTTP.
    pub(crate) fn babbled(&self, peers: Peers) {
        self.health.fail(Fault::BadAnswer, peers, now_ms());
    }

    /// It answered a request that was sent then, if how long that took says something about it.
    pub(crate) fn answered(
        &self,
        status: StatusCode,
        sent: Option<Instant>,
        peers: impl FnOnce() -> Peers,
    ) {
        let answered = Instant::now();
        let now = ms_at(answered);
        if matches!(status.as_u16(), 502..=504) {
            self.health.fail(Fault::BadAnswer, peers(), now);
            return;
        }
        self.health.succeed(Success::Answered, now);
        // One that fails at once is not quick.
        if let Some(sent) = sent.filter(|_| !status.is_server_error()) {
            let waited = answered.saturating_duration_since(sent);
            self.health.observe(u32::try_from(waited.as_micros()).unwrap_or(u32::MAX), now);
        }
    }

    /// Waits until nothing, or nothing else, is under way to it; it must have been withdrawn.
    async fn until_drained(&self, but_for_upgraded: bool) {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            let upgraded = if but_for_upgraded { self.upgraded.load(Ordering::SeqCst) } else { 0 };
            if self.in_flight() <= upgraded {
                return;
            }
            ended.await;
        }
    }

    /// Cuts every connection to it and says how much was under way.
    fn cut(&self) -> u32 {
        let under_way = self.in_flight();
        lock(&self.open).iter().filter_map(Weak::upgrade).for_each(|control| control.cut());
        under_way
    }

    /// Whether it may be dead with something under way, or be given something.
    fn is_in_doubt(&self) -> bool {
        self.suspect.load(Ordering::Relaxed) && (!self.is_gone() || self.in_flight() > 0)
    }

    /// Finds out whether it is alive. What is under way to a machine that is not would wait for an answer, and not even
    /// an error would come.
    pub(crate) async fn probe(&self) {
        match self.connect(CONNECT_TIMEOUT).await {
            Ok(_) | Err(ConnectError::Exhausted(_)) => {}
            Err(err) => {
                // Whether others are ejected makes no difference to one that may be dead.
                self.failed(&err, Peers::default());
                let cut = self.cut();
                debug!(backend = %self.addr, error = %err, cut, "{} is dead", self.addr);
            }
        }
    }

    /// Closes connections that are idle or still for too long.
    fn sweep(&self, every: Duration) {
        let now = now_ms();
        let old = {
            let mut idle = lock(&self.idle);
            let young =
                idle.partition_point(|(since, _)| now.saturating_sub(*since) > IDLE_LIMIT_MS);
            idle.drain(..young).collect::<Vec<_>>()
        };
        drop(old);
        let mut open = lock(&self.open);
        open.retain(|control| match control.upgrade() {
            Some(control) => {
                control.sweep(every);
                true
            }
            None => false,
        });
    }
}

/// A request, or a connection of another protocol, that is under way to a backend.
#[derive(Debug)]
pub(crate) struct Busy {
    backend: Arc<Backend>,
    is_tunnel: bool,
    /// It counts to its service until then, too.
    place: Option<Place>,
}

impl Busy {
    /// Counts one more, unless the backend was withdrawn.
    pub(crate) fn begin(backend: &Arc<Backend>) -> Option<Self> {
        backend.in_flight.fetch_add(1, Ordering::SeqCst);
        let busy = Self { backend: backend.clone(), is_tunnel: false, place: None };
        (!backend.is_gone()).then_some(busy)
    }

    /// To whom.
    pub(crate) fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// Keeps a place of its service as long as it lasts.
    pub(crate) fn keep_place(&mut self, place: Option<Place>) {
        self.place = place;
    }

    /// It is no request any more, but a connection that its ends close when they like.
    pub(crate) fn becomes_tunnel(&mut self) {
        if !std::mem::replace(&mut self.is_tunnel, true) {
            self.backend.upgraded.fetch_add(1, Ordering::SeqCst);
            self.backend.ended.notify_waiters();
        }
    }

    /// Ends with a connection that may be used again.
    pub(crate) fn end_with(self, mut upstream: Box<Upstream>) {
        if upstream.is_usable() {
            self.backend.keep(upstream);
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        // First: at no moment may a request seem to be one of the upgraded.
        if self.is_tunnel {
            self.backend.upgraded.fetch_sub(1, Ordering::SeqCst);
        }
        self.backend.in_flight.fetch_sub(1, Ordering::SeqCst);
        if self.backend.is_gone() {
            self.backend.ended.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    use super::*;

    #[tokio::test]
    async fn a_router_without_descriptors_holds_it_against_no_backend() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let backend = Arc::new(Backend::new(addr, REQUEST_STILL_SECS));
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: Some(3), ..limit }).unwrap();
        let connected = backend.connect(CONNECT_TIMEOUT).await;
        backend.probe().await;
        setrlimit(Resource::Nofile, limit).unwrap();
        assert!(matches!(connected, Err(ConnectError::Exhausted(_))), "{connected:?}");
        assert_eq!(backend.standing(now_ms()), Standing::Good);
        backend.connect(CONNECT_TIMEOUT).await.unwrap();
    }
}
