//! Whether a job works, by asking it.

use std::{
    collections::BTreeSet,
    error::Error,
    fs, io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use api::host::{EndReason, HealthCheck, Job, Port};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use tracing::warn;

use crate::domain::sockets::{self, Traffic};

/// Longest time a connection within the host may take.
const CONNECT: Duration = Duration::from_secs(1);
/// Longest time an http check may take.
const ANSWER: Duration = Duration::from_secs(5);
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
    checks: Vec<(u16, HealthCheck)>,
    ip: IpAddr,
    pid: i64,
    http: reqwest::Client,
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
}

impl Health {
    /// The checks of a job's process, which began to run some time ago. `was_up`: it has passed them already. One without
    /// checks must have run for `settle`: what crashes at start must not count as up.
    pub(crate) fn new(
        job: &Job,
        ip: IpAddr,
        pid: i64,
        http: reqwest::Client,
        ran: Duration,
        settle: Duration,
        was_up: bool,
    ) -> Self {
        let checked = |port: &Port| {
            let check = port.service.as_ref()?.check.clone()?;
            Some((port.port, check))
        };
        let checks: Vec<(u16, HealthCheck)> = job.config.ports.iter().filter_map(checked).collect();
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
            http,
            deadline,
            start_timeout,
            pause,
            was_up,
            has_begun: was_up,
            too_late,
            failures: 0,
            queue: None,
            busy: BUSY,
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
        let mut now = Traffic::default();
        for table in ["tcp", "tcp6"] {
            now.add(&self.table(table).unwrap_or_default(), port);
        }
        if now.waiting == 0 || !self.was_up {
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

    fn table(&self, name: &str) -> io::Result<String> {
        fs::read_to_string(format!("/proc/{}/net/{name}", self.pid))
    }

    /// The first check that fails: what it saw, and whether it wants the job killed.
    async fn failing(&self) -> Option<(Failed, bool)> {
        for (port, check) in &self.checks {
            let checked = match check.kind.as_str() {
                "http" => self.http(*port, check).await,
                _ => self.tcp(*port).await,
            };
            if let Err(seen) = checked {
                return Some((seen, check.kill_down));
            }
        }
        None
    }

    async fn tcp(&self, port: u16) -> Result<(), Failed> {
        loop {
            match timeout(CONNECT, TcpStream::connect(SocketAddr::new(self.ip, port))).await {
                Ok(Ok(_)) => return Ok(()),
                // Nothing is known of the job then, neither good nor bad.
                Ok(Err(err)) if is_ours(&err) => unknown(&err).await,
                Ok(Err(_)) => return Err(Failed::at_once(self.explain(port))),
                Err(_) => return Err(Failed { seen: self.explain(port), late_at: Some(port) }),
            }
        }
    }

    async fn http(&self, port: u16, check: &HealthCheck) -> Result<(), Failed> {
        self.tcp(port).await?;
        let start_path = check.start_path.as_deref().filter(|_| !self.has_begun);
        let path = start_path.or(check.path.as_deref()).unwrap_or("/");
        let url = format!("http://{}{path}", SocketAddr::new(self.ip, port));
        let answer = loop {
            match self.http.get(&url).timeout(ANSWER).send().await {
                Err(err) if err.is_connect() && is_ours(&err) => unknown(&err).await,
                answer => break answer,
            }
        };
        let status = match answer {
            Ok(answer) => answer.status().as_u16(),
            Err(err) if err.is_timeout() => {
                let seen = format!("GET {path} was not answered within {ANSWER:?}");
                return Err(Failed { seen, late_at: Some(port) });
            }
            Err(_) => {
                return Err(Failed::at_once(format!("GET {path} got no valid HTTP answer")));
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

/// Whether a connection failed for want of something on our side, as open files, and not for what it should lead to.
fn is_ours(err: &(dyn Error + 'static)) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable,
        TimedOut,
    };
    let found = std::iter::successors(Some(err), |&err| err.source())
        .find_map(|err| err.downcast_ref::<io::Error>());
    let theirs = |kind| {
        matches!(
            kind,
            ConnectionAborted
                | ConnectionRefused
                | ConnectionReset
                | HostUnreachable
                | NetworkUnreachable
                | TimedOut
        )
    };
    found.is_some_and(|err| err.raw_os_error().is_some() && !theirs(err.kind()))
}

/// A check that could not be made is made again.
async fn unknown(err: &(dyn Error + Send + Sync + 'static)) {
    warn!(error = err as &dyn Error, "a job cannot be checked; trying again");
    sleep(SLOWEST).await;
}

/// The HTTP client of checks.
pub(crate) fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .connect_timeout(Duration::from_secs(2))
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        // A check must see what a new connection sees.
        .pool_max_idle_per_host(0)
        .build()
        .expect("the options of the HTTP client are valid")
}

#[cfg(test)]
mod tests {
    use api::id::JobId;
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn what_is_full_on_our_side_is_no_failed_check() {
        let is_ours = |errno| is_ours(&io::Error::from_raw_os_error(errno));
        // Too many open files, of the process and of the system; no buffers; no free port.
        assert!([24, 23, 105, 99].into_iter().all(is_ours));
        // Refused, reset, no route, timed out.
        assert!(![111, 104, 113, 110].into_iter().any(is_ours));
    }

    fn health(port: u16, timeout: Duration) -> Health {
        let job = serde_json::json!({
            "id": JobId::random(), "image": "x",
            "config": { "ports": [{ "port": port, "service": { "name": "a", "check": {
                "type": "tcp", "start_timeout": u64::try_from(timeout.as_nanos()).unwrap(),
            } } }] },
        });
        let job: Job = serde_json::from_value(job).unwrap();
        let ip = IpAddr::from([127, 0, 0, 1]);
        let http = reqwest::Client::builder().build().unwrap();
        Health::new(
            &job,
            ip,
            std::process::id().into(),
            http,
            Duration::ZERO,
            Duration::ZERO,
            false,
        )
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

    /// What the checks of a process with a full queue say, which takes somebody every so often.
    async fn judged(busy: Duration, takes: Option<Duration>) -> Option<Verdict> {
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
            verdict = timeout(Duration::from_secs(5), health.changed()) => verdict.ok(),
            () = goes_on => unreachable!("a crowd never ends"),
        }
    }

    #[tokio::test]
    async fn a_process_that_is_busy_with_others_is_not_down() {
        let every = Duration::from_millis(300);
        let (busy, hung) = tokio::join!(
            judged(Duration::from_secs(3), Some(every)),
            judged(Duration::from_secs(1), None),
        );
        assert_eq!(busy, None, "it takes one after the other");
        assert!(matches!(hung, Some(Verdict::Down { .. })), "it takes nobody: {hung:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_without_checks_is_up_when_it_has_run_for_a_while() {
        let job = serde_json::json!({ "id": JobId::random(), "image": "x" });
        let job: Job = serde_json::from_value(job).unwrap();
        let http = reqwest::Client::builder().build().unwrap();
        let (settle, ran) = (Duration::from_secs(2), Duration::from_millis(500));
        let ip = IpAddr::from([127, 0, 0, 1]);
        let mut health = Health::new(&job, ip, 0, http, ran, settle, false);
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
