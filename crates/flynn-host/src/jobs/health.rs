//! Whether a job works, by asking it.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use api::host::{EndReason, HealthCheck, Job, Port};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::asking::{get, is_ours, unknown};
use crate::domain::sockets::{self, Traffic};

/// Longest time a connection within the host may take.
const CONNECT: Duration = Duration::from_secs(1);
/// Longest time an http check may take.
const ANSWER: Duration = Duration::from_secs(5);
/// Connections of a process's checks that are remembered before it is looked which of them are over.
const OWN: usize = 64;
/// First pause while a job comes up; grows to [`SLOWEST`].
const FIRST: Duration = Duration::from_millis(10);
/// Longest pause while a job comes up.
const SLOWEST: Duration = Duration::from_millis(500);
/// Pause between checks of a job that is up.
const STEADY: Duration = Duration::from_secs(2);
/// Pause after one of those failed.
const DOUBT: Duration = Duration::from_millis(100);
/// Checks in a row that must fail before a job counts as down: one may be lost to a moment's load.
const FAILURES: u32 = 2;
/// A process for which others wait as well is only busy as long as it took somebody within this time.
const BUSY: Duration = Duration::from_secs(30);
/// How long a job may take to come up, unless its check says.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// What the checks say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// All pass.
    Up,
    /// One that passed fails.
    Down {
        /// What it saw.
        seen: String,
        /// The job is to be killed for it.
        kill: bool,
    },
    /// It did not come up in time, be it for the first time or again.
    TooLate {
        /// Which of the two.
        reason: EndReason,
        /// What its owner is told: how long, and what the check saw last.
        said: String,
    },
}

/// What a check saw that failed.
#[derive(Debug)]
struct Failed {
    /// As a sentence.
    seen: String,
    /// Where nobody answered in time: it may be answering others.
    late_at: Option<u16>,
}

impl Failed {
    fn at_once(seen: String) -> Self {
        Self { seen, late_at: None }
    }
}

/// Those who wait for a process, while it does not answer.
#[derive(Debug)]
struct Queue {
    /// Whom it has taken.
    taken: BTreeSet<SocketAddr>,
    /// When it took somebody last, as far as is known.
    moved: Instant,
}

/// The checks of one process.
#[derive(Debug)]
pub(crate) struct Health {
    checks: Arc<[(u16, HealthCheck)]>,
    ip: IpAddr,
    pid: i64,
    /// Where the checks' own connections were from: one that the process never took still waits there, though it was
    /// closed, and is nobody whom it keeps waiting.
    own: BTreeSet<SocketAddr>,
    /// So many of them are too many.
    own_max: usize,
    deadline: Instant,
    start_timeout: Duration,
    pause: Duration,
    was_up: bool,
    /// It has been up before: what it needed for that is not asked again.
    has_begun: bool,
    /// Why it ends if it does not come up in time.
    too_late: EndReason,
    failures: u32,
    queue: Option<Queue>,
    /// [`BUSY`].
    busy: Duration,
    /// [`ANSWER`].
    answer: Duration,
}

impl Health {
    /// The checks of a job's process, which began to run some time ago. `was_up`: it has passed them already. One without
    /// checks must have run for `settle`: what crashes at start must not count as up.
    pub(crate) fn new(
        job: &Job,
        ip: IpAddr,
        pid: i64,
        ran: Duration,
        settle: Duration,
        was_up: bool,
    ) -> Self {
        let checked = |port: &Port| {
            let check = port.service.as_ref()?.check.clone()?;
            Some((port.port, check))
        };
        let checks: Arc<[_]> = job.config.ports.iter().filter_map(checked).collect();
        let timeouts = checks.iter().map(|(_, check)| match check.start_timeout {
            0 => START_TIMEOUT,
            nanos => Duration::from_nanos(nanos),
        });
        let start_timeout = timeouts.max().unwrap_or(START_TIMEOUT);
        // A daemon that was away saw nothing of the start, and one failed check is not to decide.
        let deadline = Instant::now() + start_timeout.saturating_sub(ran).max(start_timeout / 4);
        let pause = match was_up {
            true => STEADY,
            false if checks.is_empty() => settle.saturating_sub(ran),
            false => Duration::ZERO,
        };
        let too_late = EndReason::CheckNeverPassed;
        Self {
            checks,
            ip,
            pid,
            own: BTreeSet::new(),
            own_max: OWN,
            deadline,
            start_timeout,
            pause,
            was_up,
            has_begun: was_up,
            too_late,
            failures: 0,
            queue: None,
            busy: BUSY,
            answer: ANSWER,
        }
    }

    /// Waits for the next change. Without checks a job that has settled is up for ever.
    pub(crate) async fn changed(&mut self) -> Verdict {
        loop {
            if self.checks.is_empty() && self.was_up {
                std::future::pending::<()>().await;
            }
            sleep(self.pause).await;
            let failed = match self.failing().await {
                Some((Failed { late_at: Some(port), .. }, _)) if self.is_busy(port) => {
                    self.pause = SLOWEST;
                    continue;
                }
                failed => failed.map(|(failed, kill)| (failed.seen, kill)),
            };
            if let Some(verdict) = self.judge(failed) {
                return verdict;
            }
        }
    }

    fn judge(&mut self, failed: Option<(String, bool)>) -> Option<Verdict> {
        match failed {
            None => {
                self.failures = 0;
                self.queue = None;
                self.pause = STEADY;
                self.has_begun = true;
                (!std::mem::replace(&mut self.was_up, true)).then_some(Verdict::Up)
            }
            Some((seen, kill)) if self.was_up => {
                self.failures += 1;
                if self.failures < FAILURES {
                    self.pause = DOUBT;
                    return None;
                }
                self.was_up = false;
                // It was up once, so it has the time of a start to come up again before another takes its place.
                self.deadline = Instant::now() + self.start_timeout;
                self.too_late = EndReason::CheckFailed;
                self.pause = SLOWEST;
                Some(Verdict::Down { seen, kill })
            }
            Some((seen, _)) => {
                // By little: what is waited too long is a part of how long it took to come up.
                self.pause = (self.pause * 17 / 16).clamp(FIRST, SLOWEST);
                (Instant::now() >= self.deadline).then(|| self.too_late(&seen))
            }
        }
    }

    fn too_late(&self, seen: &str) -> Verdict {
        let limit = self.start_timeout;
        let said = match self.too_late {
            EndReason::CheckFailed => {
                format!("it failed its check for {limit:?} and was killed: {seen}")
            }
            _ => format!("it did not pass its check within {limit:?}: {seen}"),
        };
        Verdict::TooLate { reason: self.too_late, said }
    }

    /// Whether a process that is up and does not answer in time answers others: they wait for it, and it takes one of them
    /// now and then. It counts neither for nor against it then.
    fn is_busy(&mut self, port: u16) -> bool {
        let mut now = self.traffic(std::iter::once(port));
        now.without(&self.own);
        if now.waiting.is_empty() || !self.was_up {
            self.queue = None;
            return false;
        }
        let moment = Instant::now();
        let moved = match &self.queue {
            Some(queue) if now.taken.is_subset(&queue.taken) => queue.moved,
            _ => moment,
        };
        self.queue = Some(Queue { taken: now.taken, moved });
        moment - moved < self.busy
    }

    fn traffic(&self, ports: impl Iterator<Item = u16>) -> Traffic {
        let tables = ["tcp", "tcp6"].map(|name| self.table(name).unwrap_or_default());
        let mut traffic = Traffic::default();
        for port in ports {
            tables.iter().for_each(|table| traffic.add(table, port));
        }
        traffic
    }

    fn table(&self, name: &str) -> io::Result<String> {
        fs::read_to_string(format!("/proc/{}/net/{name}", self.pid))
    }

    /// The first check that fails: what it saw, and whether it wants the job killed.
    async fn failing(&mut self) -> Option<(Failed, bool)> {
        for (port, check) in self.checks.clone().iter() {
            let checked = match check.kind.as_str() {
                "http" => self.http(*port, check).await,
                _ => self.tcp(*port).await.map(drop),
            };
            if let Err(seen) = checked {
                return Some((seen, check.kill_down));
            }
        }
        None
    }

    async fn tcp(&mut self, port: u16) -> Result<TcpStream, Failed> {
        loop {
            match timeout(CONNECT, TcpStream::connect(SocketAddr::new(self.ip, port))).await {
                Ok(Ok(stream)) => {
                    self.remember(&stream);
                    return Ok(stream);
                }
                // Nothing is known of the job then, neither good nor bad.
                Ok(Err(err)) if is_ours(&err) => unknown(&err).await,
                Ok(Err(_)) => return Err(Failed::at_once(self.explain(port))),
                Err(_) => return Err(Failed { seen: self.explain(port), late_at: Some(port) }),
            }
        }
    }

    /// Notes that a connection is the checks' own, and forgets those that are over when they are many.
    fn remember(&mut self, stream: &TcpStream) {
        if self.own.len() >= self.own_max {
            let mut all = self.traffic(self.checks.iter().map(|(port, _)| *port));
            self.own = all.without(&self.own);
            self.own_max = OWN.max(self.own.len() * 2);
        }
        self.own.extend(stream.local_addr());
    }

    async fn http(&mut self, port: u16, check: &HealthCheck) -> Result<(), Failed> {
        let stream = self.tcp(port).await?;
        let start_path = check.start_path.as_deref().filter(|_| !self.has_begun);
        let path = start_path.or(check.path.as_deref()).unwrap_or("/");
        let url = format!("http://{}{path}", SocketAddr::new(self.ip, port));
        let status = match timeout(self.answer, get(stream, &url)).await {
            Ok(Some(status)) => status.as_u16(),
            Ok(None) => {
                return Err(Failed::at_once(format!("GET {path} got no valid HTTP answer")));
            }
            Err(_) => {
                let seen = format!("GET {path} was not answered within {:?}", self.answer);
                return Err(Failed { seen, late_at: Some(port) });
            }
        };
        let good = check.status.map_or(status < 500, |wanted| status == wanted);
        if good {
            return Ok(());
        }
        Err(Failed::at_once(format!("GET {path} was answered with status {status}")))
    }

    /// Why nothing answers, from the sockets of the job's own network where they can be seen.
    fn explain(&self, port: u16) -> String {
        match (self.pid > 0).then(|| self.table("tcp")) {
            Some(Ok(tcp)) => {
                let mut listening: BTreeSet<SocketAddr> = sockets::listening(&tcp);
                listening.extend(sockets::listening(&self.table("tcp6").unwrap_or_default()));
                sockets::explain(port, &listening)
            }
            _ => {
                format!("nothing answers on port {port}; make the process listen on 0.0.0.0:$PORT")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use api::id::JobId;
    use tokio::net::TcpListener;

    use super::*;

    fn health(port: u16, timeout: Duration) -> Health {
        health_by("tcp", port, timeout)
    }

    fn health_by(kind: &str, port: u16, timeout: Duration) -> Health {
        let job = serde_json::json!({
            "id": JobId::random(), "image": "x",
            "config": { "ports": [{ "port": port, "service": { "name": "a", "check": {
                "type": kind, "start_timeout": u64::try_from(timeout.as_nanos()).unwrap(),
            } } }] },
        });
        let job: Job = serde_json::from_value(job).unwrap();
        let ip = IpAddr::from([127, 0, 0, 1]);
        let own = std::process::id().into();
        Health::new(&job, ip, own, Duration::ZERO, Duration::ZERO, false)
    }

    #[tokio::test]
    async fn a_job_is_up_when_it_listens_and_down_when_it_does_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut health = health(port, Duration::from_secs(10));
        assert_eq!(health.changed().await, Verdict::Up);
        drop(listener);
        health.pause = DOUBT;
        let Verdict::Down { seen, kill: false } = health.changed().await else { panic!() };
        assert!(seen.contains(&port.to_string()), "{seen}");
    }

    /// A process whose queue is full, and one that fills it again whenever one of it is taken.
    struct Crowd {
        listener: TcpListener,
        waiting: Vec<TcpStream>,
        taken: Vec<TcpStream>,
    }

    impl Crowd {
        async fn gather() -> Self {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
            let listener = socket.listen(1).unwrap();
            let mut crowd = Self { listener, waiting: Vec::new(), taken: Vec::new() };
            // The kernel's queue is one longer than it was told.
            crowd.come().await;
            crowd.come().await;
            crowd
        }

        fn port(&self) -> u16 {
            self.listener.local_addr().unwrap().port()
        }

        async fn come(&mut self) {
            let addr = self.listener.local_addr().unwrap();
            self.waiting.push(TcpStream::connect(addr).await.unwrap());
        }

        async fn take(&mut self) {
            self.taken.push(self.listener.accept().await.unwrap().0);
        }
    }

    /// The verdict on a process whose accept queue is full, if there is one within the time; the process accepts a connection
    /// at the interval `takes`.
    async fn judged(busy: Duration, takes: Option<Duration>, within: Duration) -> Option<Verdict> {
        let mut crowd = Crowd::gather().await;
        let mut health = health(crowd.port(), Duration::from_secs(60));
        (health.was_up, health.pause, health.busy) = (true, DOUBT, busy);
        let goes_on = async {
            let mut tick = tokio::time::interval(takes.unwrap_or(Duration::MAX / 2));
            tick.tick().await;
            loop {
                tick.tick().await;
                crowd.take().await;
                crowd.come().await;
            }
        };
        tokio::select! {
            verdict = timeout(within, health.changed()) => verdict.ok(),
            () = goes_on => unreachable!("a crowd never ends"),
        }
    }

    #[tokio::test]
    async fn a_process_that_is_busy_with_others_is_not_down() {
        let every = Duration::from_millis(300);
        let (busy, hung) = tokio::join!(
            judged(Duration::from_secs(3), Some(every), Duration::from_secs(5)),
            judged(Duration::from_secs(1), None, Duration::from_secs(60)),
        );
        assert_eq!(busy, None, "it takes one after the other");
        assert!(matches!(hung, Some(Verdict::Down { .. })), "it takes nobody: {hung:?}");
    }

    #[tokio::test]
    async fn a_process_that_keeps_nobody_waiting_but_its_checks_is_down() {
        let hung = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = hung.local_addr().unwrap().port();
        let mut health = health_by("http", port, Duration::from_secs(600));
        (health.was_up, health.pause, health.busy) = (true, DOUBT, Duration::from_secs(600));
        health.answer = Duration::from_millis(200);
        let verdict = timeout(Duration::from_secs(60), health.changed()).await;
        assert!(matches!(verdict, Ok(Verdict::Down { .. })), "{verdict:?}");
        // One who waits with them, and gave up meanwhile.
        drop(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
        health.was_up = true;
        assert!(health.is_busy(port));
    }

    #[tokio::test]
    async fn the_connections_of_checks_that_are_over_are_forgotten() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut health = health(listener.local_addr().unwrap().port(), Duration::from_secs(60));
        health.own_max = 2;
        for _ in 0..5 {
            assert!(health.failing().await.is_none());
            drop(listener.accept().await.unwrap());
        }
        assert!(health.own.len() < 5, "{:?}", health.own);
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_without_checks_is_up_when_it_has_run_for_a_while() {
        let job = serde_json::json!({ "id": JobId::random(), "image": "x" });
        let job: Job = serde_json::from_value(job).unwrap();
        let (settle, ran) = (Duration::from_secs(2), Duration::from_millis(500));
        let ip = IpAddr::from([127, 0, 0, 1]);
        let mut health = Health::new(&job, ip, 0, ran, settle, false);
        let begun = Instant::now();
        assert_eq!(health.changed().await, Verdict::Up);
        assert_eq!(begun.elapsed(), settle - ran);
    }

    #[tokio::test]
    async fn a_job_that_never_listens_is_too_late_and_told_what_was_seen() {
        let mut health = health(1, Duration::from_millis(80));
        let Verdict::TooLate { reason, said } = health.changed().await else { panic!() };
        assert_eq!(reason, EndReason::CheckNeverPassed);
        assert!(said.contains("nothing listens on 0.0.0.0:1"), "{said}");
    }

    #[tokio::test]
    async fn a_job_that_was_up_and_does_not_come_up_again_is_too_late_as_well() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut health = health(listener.local_addr().unwrap().port(), Duration::from_millis(300));
        assert_eq!(health.changed().await, Verdict::Up);
        drop(listener);
        health.pause = DOUBT;
        assert!(matches!(health.changed().await, Verdict::Down { .. }));
        let Verdict::TooLate { reason, said } = health.changed().await else { panic!() };
        assert_eq!(reason, EndReason::CheckFailed);
        assert!(said.starts_with("it failed its check for 300ms"), "{said}");
    }
}
