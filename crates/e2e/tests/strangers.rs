//! No request reaches another app's process, whatever dies, moves and goes blind meanwhile.
#![expect(clippy::disallowed_methods, reason = "what is done to the cluster here has a pace")]

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use api::host::META_APP_NAME;
use e2e::{app::App, cluster, shell::sh, until};
use tokio::{task::JoinHandle, time::sleep};

/// Apps that could be taken for each other.
const APPS: usize = 3;
/// Requests of one kind under way to an app.
const AT_ONCE: usize = 4;
/// One in so many rounds kills a process.
const KILLED_EVERY: usize = 5;
/// The apps take turns in being replaced, so many in all: in the long run an app's addresses have then rested before its
/// next turn, and others get them. An app that is replaced without a pause gets its own back.
const TURNS: u32 = 12;
/// In so long every address of the host's network has been given to several apps.
const LONG: Duration = Duration::from_secs(600);

fn duration() -> Duration {
    let seconds = env::var("FLYNN_STRANGERS_SECONDS").ok().and_then(|said| said.parse().ok());
    Duration::from_secs(seconds.unwrap_or(20))
}

/// What came of the requests.
#[derive(Debug, Default)]
struct Answers {
    right: AtomicU64,
    /// Not answered with success: their process was killed, or there was none.
    failed: AtomicU64,
    /// The app that was asked, and the one that answered.
    wrong: Mutex<Vec<(String, String)>>,
}

async fn ask(app: String, pooled: bool, answers: Arc<Answers>, stop: Arc<AtomicBool>) {
    let client = cluster::http(pooled);
    let url = cluster::url(&app);
    while !stop.load(Ordering::Relaxed) {
        let answer = async {
            let answer = client.get(&url).send().await?.error_for_status()?;
            answer.json::<serde_json::Value>().await
        };
        match answer.await {
            Ok(said) if said["app"] == app.as_str() => {
                _ = answers.right.fetch_add(1, Ordering::Relaxed)
            }
            Ok(said) => {
                let mut wrong = answers.wrong.lock().expect("no holder panics");
                wrong.push((app.clone(), said["app"].to_string()));
            }
            Err(_) => {
                answers.failed.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

/// Who has had which address.
type Owners = BTreeMap<IpAddr, BTreeSet<String>>;

/// Replaces the apps' processes for ever: they are killed, and their number goes up and down.
async fn replace(apps: Vec<String>, owners: Arc<Mutex<Owners>>, stop: Arc<AtomicBool>) -> u64 {
    let (mut replaced, begun) = (0, Instant::now());
    for round in 0_usize.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let turn = begun.elapsed().as_millis() / (duration() / TURNS).as_millis();
        let app = &apps[usize::try_from(turn).unwrap_or_default() % apps.len()];
        // Refused while the routers' word is waited for: the next round asks again.
        sh(&format!("flynn -a {app} scale --no-wait web={}", 2 + round % 2 * 3));
        let Ok(jobs) = cluster::jobs().await else { continue };
        for job in &jobs {
            if let (Some(ip), Some(app)) = (job.internal_ip, job.job.metadata.get(META_APP_NAME)) {
                let mut owners = owners.lock().expect("no holder panics");
                owners.entry(ip).or_default().insert(app.clone());
            }
        }
        let of_app = |job: &&api::host::ActiveJob| {
            job.job.metadata.get(META_APP_NAME).is_some_and(|name| name == app)
                && job.status == api::host::Status::Running
        };
        // What crashes again and again is started ever later, and then nothing happens.
        if let Some(job) = jobs.iter().find(of_app).filter(|_| round % KILLED_EVERY == 0) {
            sh(&format!("docker kill {}", job.container_id));
        }
        replaced += 1;
        tokio::task::yield_now().await;
    }
    replaced
}

/// Cuts everybody off from discovery, for a while, again and again.
async fn blind(stop: Arc<AtomicBool>) -> u64 {
    let mut times = 0;
    while !stop.load(Ordering::Relaxed) {
        sh("docker kill -s STOP flynn-discoverd").ok();
        sleep(Duration::from_millis(rand::random_range(200..4000))).await;
        sh("docker kill -s CONT flynn-discoverd").ok();
        times += 1;
        sleep(Duration::from_millis(rand::random_range(200..4000))).await;
    }
    times
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_reaches_another_app() {
    let apps: Vec<App> = (0..APPS).map(|_| App::node("stranger")).collect();
    for app in &apps {
        app.push().ok();
    }
    let names: Vec<String> = apps.iter().map(|app| app.name.clone()).collect();
    let (answers, owners, stop) =
        (Arc::<Answers>::default(), Arc::<Mutex<Owners>>::default(), Arc::<AtomicBool>::default());
    let askers: Vec<JoinHandle<()>> = names
        .iter()
        .flat_map(|name| (0..2 * AT_ONCE).map(move |n| (name.clone(), n % 2 == 0)))
        .map(|(name, pooled)| tokio::spawn(ask(name, pooled, answers.clone(), stop.clone())))
        .collect();
    let replacing = tokio::spawn(replace(names, owners.clone(), stop.clone()));
    let blinding = tokio::spawn(blind(stop.clone()));
    let end = Instant::now() + duration();
    while Instant::now() < end && answers.wrong.lock().expect("no holder panics").is_empty() {
        sleep(Duration::from_millis(100)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let (replaced, blinded) = (replacing.await.unwrap(), blinding.await.unwrap());
    for asker in askers {
        asker.await.unwrap();
    }
    let shared = owners.lock().unwrap().values().filter(|owners| owners.len() > 1).count();
    let (right, failed) =
        (answers.right.load(Ordering::Relaxed), answers.failed.load(Ordering::Relaxed));
    println!(
        "answered by the right app: {right}, not answered: {failed}, rounds of replacing: {replaced}, times without \
         discovery: {blinded}, addresses that several apps had: {shared}"
    );
    let wrong = answers.wrong.lock().unwrap().clone();
    assert!(wrong.is_empty(), "asked and answered: {wrong:?}");
    assert!(right > 100 && replaced > 1 && blinded > 0, "hardly anything was tried");
    assert!(duration() < LONG || shared > 0, "no address was ever given to another app");
    for app in &apps {
        until("all to serve again", Duration::from_secs(60), async || app.get().await).await;
    }
}
