//! The platform's own parts are deployed by its own commands, with good settings and with bad ones.

use std::time::Duration;

use e2e::{app::App, load::Load, shell::sh};

/// The apps that the cluster stands on, but the router.
const PARTS: [&str; 5] = ["scheduler", "gitreceived", "shelf", "controller", "postgres"];

/// Settings with which a part cannot do its work; the process type they are of, if they are of one.
const BAD: [(&str, &[&str]); 5] = [
    ("scheduler", &["CONTROLLER_KEY=wrong"]),
    ("controller", &["PGPASSWORD=wrong"]),
    ("postgres", &["-t", "postgres", "PG_BIN=/nowhere"]),
    ("gitreceived", &["CONTROLLER_KEY=wrong"]),
    // This one is not even begun: it would lock the others out.
    ("shelf", &["SHELF_KEY=wrong"]),
];

/// Where there is one router, its port refuses until it has drained and the next one has started.
const ROUTER_AWAY: Duration = Duration::from_secs(20);

/// What must work at once: a write, a build and a start.
async fn works(app: &App, version: &str) {
    app.commit(version);
    app.push().ok();
    assert_eq!(app.get().await.expect("it answers")["version"], version);
}

fn deploy(part: &str, word: &str) {
    sh(&format!("flynn -a {part} env-set STORY={word}")).ok();
    assert_eq!(sh(&format!("flynn -a {part} env-get STORY")).ok().trim(), word);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_part_is_deployed_with_a_good_setting_and_all_works() {
    let app = App::node("parts");
    app.push().ok();
    let load = Load::start(&app.name);
    for part in PARTS {
        deploy(part, &app.name);
        println!("{part} was deployed after {:?}", load.age());
        works(&app, part).await;
    }
    load.stop().await.unharmed();

    let load = Load::start(&app.name);
    deploy("strowger", &app.name);
    works(&app, "strowger").await;
    let outcome = load.stop().await;
    println!("the router was away for {:?}", outcome.harmed());
    outcome.harmed_for_at_most(ROUTER_AWAY);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_with_a_bad_setting_goes_back_by_itself_and_all_works() {
    let app = App::node("badparts");
    app.push().ok();
    for (part, setting) in BAD {
        // One that only waits for what never comes is given up by the clock.
        sh(&format!("flynn -a {part} deployment-timeout 30")).ok();
        let said = sh(&format!("flynn -a {part} env-set {}", setting.join(" ")));
        let told = said.refused();
        println!("{part}: {told}");
        works(&app, &format!("{part}-is-back")).await;
        sh(&format!("flynn -a {part} deployment-timeout 120")).ok();
    }
}
