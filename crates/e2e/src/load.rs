//! Traffic while other things happen.

use std::{
    io::Read,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::{task::JoinHandle, time::MissedTickBehavior};

use crate::{cluster, shell::sh};

/// Failures kept for the message.
const KEPT: usize = 10;

/// `wrk -t1 -c32` over keep-alive connections, and a client that opens a connection a request and posts 10 KiB, 50 a
/// second.
pub struct Load {
    wrk: Child,
    stop: Arc<AtomicBool>,
    poster: JoinHandle<()>,
    posted: Arc<AtomicU32>,
    failures: Arc<Mutex<Vec<String>>>,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// What wrk printed.
    pub wrk: String,
    /// Posts answered.
    pub posted: u32,
    /// Posts not answered with success.
    pub failures: Vec<String>,
}

impl Outcome {
    /// # Panics
    /// When a request failed.
    #[track_caller]
    pub fn unharmed(&self) {
        assert!(self.wrk.contains("Requests/sec"), "wrk did not report: {}", self.wrk);
        assert!(!self.wrk.contains("Non-2xx"), "{self:#?}");
        assert!(!self.wrk.contains("Socket errors"), "{self:#?}");
        assert!(self.failures.is_empty(), "{self:#?}");
        assert!(self.posted > 50, "hardly anything was posted: {self:#?}");
    }
}

impl Load {
    /// Starts both against an app.
    ///
    /// # Panics
    /// When wrk cannot be started.
    pub fn start(app: &str) -> Self {
        let host = format!("{app}.{}", cluster::domain());
        let wrk = Command::new("wrk")
            .args(["-t1", "-c32", "-d600s", "--timeout", "20s", "-H", &format!("Host: {host}")])
            .arg(format!("http://127.0.0.1:{}/", cluster::http_port()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("wrk is installed by script/test");
        let (stop, posted) = (Arc::<AtomicBool>::default(), Arc::<AtomicU32>::default());
        let failures = Arc::<Mutex<Vec<String>>>::default();
        let poster =
            tokio::spawn(post(cluster::url(app), stop.clone(), posted.clone(), failures.clone()));
        Self { wrk, stop, poster, posted, failures }
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
    url: String,
    stop: Arc<AtomicBool>,
    posted: Arc<AtomicU32>,
    failures: Arc<Mutex<Vec<String>>>,
) {
    let body = "x".repeat(10 << 10);
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let client = cluster::http(false);
    let mut under_way = tokio::task::JoinSet::new();
    while !stop.load(Ordering::Relaxed) {
        tick.tick().await;
        let (posted, failures) = (posted.clone(), failures.clone());
        let request = client.post(&url).body(body.clone());
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
                        failures.push(failure);
                    }
                }
            }
        });
        while under_way.try_join_next().is_some() {}
    }
    while under_way.join_next().await.is_some() {}
}
