//! The apps that the cluster stands on, deployed by its own commands.

use crate::app::App;

/// Those that are deployed under load with one host. The router is the last: what is attached through it ends with it.
pub const PARTS: [&str; 6] =
    ["scheduler", "gitreceived", "shelf", "controller", "postgres", "strowger"];

/// Settings with which a part cannot do its work; the process type they are of, if they are of one.
pub const BAD: [(&str, &[&str]); 6] = [
    ("scheduler", &["CONTROLLER_KEY=wrong"]),
    ("controller", &["PGPASSWORD=wrong"]),
    ("postgres", &["-t", "postgres", "PG_BIN=/nowhere"]),
    ("gitreceived", &["CONTROLLER_KEY=wrong"]),
    ("strowger", &["ETCD=http://127.0.0.1:1"]),
    // This one is not even begun: it would lock the others out.
    ("shelf", &["SHELF_KEY=wrong"]),
];

/// Deploys a part with a setting that changes nothing.
///
/// # Panics
/// When it does not.
pub fn deploy_well(app: &App, part: &str) {
    let setting = format!("STORY={}", app.name);
    app.flynn(&["-a", part, "env-set", &setting]).ok();
    assert_eq!(app.flynn(&["-a", part, "env-get", "STORY"]).ok().trim(), app.name);
}

/// Deploys a part with a setting with which it cannot work. Answers how that was told.
///
/// # Panics
/// When it does not.
pub fn deploy_badly(app: &App, part: &str, setting: &[&str]) -> String {
    // One that only waits for what never comes is given up by the clock.
    app.flynn(&["-a", part, "deployment-timeout", "20"]).ok();
    let said = app.flynn(&[&["-a", part, "env-set"], setting].concat());
    app.flynn(&["-a", part, "deployment-timeout", "120"]).ok();
    said.refused()
}

/// A write, a build and a start, at once.
///
/// # Panics
/// When they fail.
pub async fn works(app: &App, version: &str) {
    app.commit(version);
    app.push().ok();
    assert_eq!(app.get().await.expect("it answers")["version"], version);
}
