//! The platform's own parts are deployed by its own commands, with good settings and with bad ones.

use std::time::Duration;

use e2e::{app::App, load::Load, shell::sh, until};

/// The apps that the cluster stands on.
const PARTS: [&str; 6] =
    ["scheduler", "gitreceived", "strowger", "shelf", "controller", "postgres"];

/// Settings with which a part cannot do its work; the process type they are of, if they are of one.
const BAD: [(&str, &[&str]); 5] = [
    ("scheduler", &["CONTROLLER_KEY=wrong"]),
    ("controller", &["PGPASSWORD=wrong"]),
    ("postgres", &["-t", "postgres", "PG_BIN=/nowhere"]),
    ("gitreceived", &["CONTROLLER_KEY=wrong"]),
    // This one is not even begun: it would lock the others out.
    ("shelf", &["SHELF_KEY=wrong"]),
];

/// What must work afterwards: a write, a build and a start.
async fn works(app: &App, version: &str) {
    app.commit(version);
    until("a push to work", Duration::from_secs(60), async || {
        let pushed = app.push();
        if pushed.status == 0 { Ok(()) } else { Err(pushed) }
    })
    .await;
    assert_eq!(app.get().await.expect("it answers")["version"], version);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_part_is_deployed_with_a_good_setting_and_all_works() {
    let app = App::node("parts");
    app.push().ok();
    let load = Load::start(&app.name);
    for part in PARTS {
        sh(&format!("flynn -a {part} env-set STORY={part}")).ok();
        let env = sh(&format!("flynn -a {part} env-get STORY")).ok();
        assert_eq!(env.trim(), part);
        println!("{part} was deployed after {:?}", load.age());
    }
    works(&app, "2").await;
    let outcome = load.stop().await;
    println!("{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_with_a_bad_setting_goes_back_by_itself_and_all_works() {
    let app = App::node("badparts");
    app.push().ok();
    for (part, setting) in BAD {
        let said = sh(&format!("flynn -a {part} env-set {}", setting.join(" ")));
        let told = said.refused();
        println!("{part}: {told}");
        works(&app, &format!("{part}-is-back")).await;
    }
}
