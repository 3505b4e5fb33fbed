//! Traffic while other things happen.

use std::{
    io::Read,
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{task::JoinHandle, time::MissedTickBehavior};

use crate::{cluster, shell::sh};

/// Connections of wrk, as its option says.
const CONNECTIONS: u32 = 32;
/// Pauses between the requests of a connection.
const PAUSE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/pause.lua");
/// Failures kept for the message.
const KEPT: usize = 2000;

/// `wrk -t1 -c32` over keep-alive connections, less than 2,000 requests a second, and a client that opens a connection a
/// request and posts 10 KiB, 50 a second. As much as two cores can would leave nothing for what is done under it.
pub struct Load {
    wrk: Child,
    stop: Arc<AtomicBool>,
    poster: JoinHandle<()>,
    posted: Arc<AtomicU32>,
    failures: Arc<Mutex<Vec<(Duration, String)>>>,
    begun: Instant,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// What wrk printed.
    pub wrk: String,
    /// Posts answered.
    pub posted: u32,
    /// Posts not answered with success, with the age of the load when they began.
    pub failures: Vec<(Duration, String)>,
}

impl Outcome {
    /// # Panics
    /// When a request failed.
    #[track_caller]
    pub fn unharmed(&self) {
        self.reported();
        assert!(!self.wrk.contains("Non-2xx"), "{self:#?}");
        assert!(!self.wrk.contains("Socket errors"), "{self:#?}");
        assert!(self.failures.is_empty(), "{self:#?}");
    }

    /// # Panics
    /// When other requests failed than those under way at the `processes` that were killed when the load was `died` old,
    /// or when one failed more than `noticed` after that. The processes do not die at the same instant: a connection that
    /// lost its request to one of them may lose the next one to another.
    #[track_caller]
    pub fn harmed_only_at(&self, died: Duration, noticed: Duration, processes: usize) {
        self.reported();
        let number = |words: &[&str]| {
            let line = self.wrk.lines().find(|line| words.iter().all(|word| line.contains(word)));
            let numbers =
                line.into_iter().flat_map(|line| line.split(|c: char| !c.is_ascii_digit()));
            numbers.filter_map(|n| n.parse::<u32>().ok()).collect::<Vec<_>>()
        };
        // "Non-2xx or 3xx responses: 4" and "Socket errors: connect 0, read 0, write 0, timeout 0".
        let refused = number(&["Non-2xx"]).into_iter().skip(2).sum::<u32>();
        let broken = number(&["Socket errors"]).into_iter().sum::<u32>();
        let under_way = CONNECTIONS as usize * processes;
        assert!(
            (refused + broken) as usize <= under_way,
            "more failed than was under way: {self:#?}"
        );
        let late = |(at, _): &&(Duration, String)| {
            *at + Duration::from_secs(1) < died || *at > died + noticed
        };
        let late: Vec<_> = self.failures.iter().filter(late).collect();
        assert!(late.is_empty(), "died at {died:?}; {late:#?} of {self:#?}");
    }

    #[track_caller]
    fn reported(&self) {
        assert!(self.wrk.contains("Requests/sec"), "wrk did not report: {}", self.wrk);
        assert!(self.posted > 50, "hardly anything was posted: {self:#?}");
    }
}

impl Load {
    /// Starts both against an app on this machine.
    pub fn start(app: &str) -> Self {
        Self::at(([127, 0, 0, 1], cluster::http_port()).into(), app)
    }

    /// Starts both against an app by the router at an address.
    ///
    /// # Panics
    /// When wrk cannot be started.
    pub fn at(addr: SocketAddr, app: &str) -> Self {
        let host = format!("{app}.{}", cluster::domain());
        let wrk = Command::new("wrk")
            .args(["-t1", "-c32", "-d600s", "--timeout", "20s", "-H", &format!("Host: {host}")])
            .args(["-s", PAUSE, &format!("http://{addr}/")])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("wrk is installed by script/test");
        let (stop, posted) = (Arc::<AtomicBool>::default(), Arc::<AtomicU32>::default());
        let failures = Arc::<Mutex<Vec<_>>>::default();
        let begun = Instant::now();
        let client = cluster::http_at(addr, false);
        let url = format!("http://{host}:{}/", addr.port());
        let poster =
            tokio::spawn(post(client, url, begun, stop.clone(), posted.clone(), failures.clone()));
        Self { wrk, stop, poster, posted, failures, begun }
    }

    /// How long it has been running: failures say when they began.
    pub fn age(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Stops both and says what came of it.
    ///
    /// # Panics
    /// When wrk's report cannot be read.
    pub async fn stop(mut self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        self.poster.await.expect("the poster does not panic");
        // wrk reports when it is interrupted.
        sh(&format!("kill -INT {}", self.wrk.id())).ok();
        let mut wrk = String::new();
        let mut out = self.wrk.stdout.take().expect("its output is piped");
        out.read_to_string(&mut wrk).expect("wrk writes text");
        let _ = self.wrk.wait();
        let failures = self.failures.lock().expect("no holder panics").clone();
        Outcome { wrk, posted: self.posted.load(Ordering::Relaxed), failures }
    }
}

async fn post(
    client: reqwest::Client,
    url: String,
    begun: Instant,
    stop: Arc<AtomicBool>,
    posted: Arc<AtomicU32>,
    failures: Arc<Mutex<Vec<(Duration, String)>>>,
) {
    let body = "x".repeat(10 << 10);
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut under_way = tokio::task::JoinSet::new();
    while !stop.load(Ordering::Relaxed) {
        tick.tick().await;
        let (posted, failures) = (posted.clone(), failures.clone());
        let request = client.post(&url).body(body.clone());
        let at = begun.elapsed();
        under_way.spawn(async move {
            let failed = match request.send().await {
                Ok(answer) if answer.status().is_success() => match answer.text().await {
                    Ok(text) if text.contains("\"size\":10240") => None,
                    other => Some(format!("{other:?}")),
                },
                Ok(answer) => Some(format!("{} {:?}", answer.status(), answer.text().await)),
                Err(err) => Some(format!("{err:?}")),
            };
            match failed {
                None => _ = posted.fetch_add(1, Ordering::Relaxed),
                Some(failure) => {
                    let mut failures = failures.lock().expect("no holder panics");
                    if failures.len() < KEPT {
                        failures.push((at, failure));
                    }
                }
            }
        });
        while under_way.try_join_next().is_some() {}
    }
    while under_way.join_next().await.is_some() {}
}
