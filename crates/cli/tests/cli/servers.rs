//! `~/.flynnrc`, which server, which app, and what is said when something about them is wrong.

use std::os::unix::fs::PermissionsExt;

use crate::{fake::Fake, person::Person};

#[test]
fn a_server_is_remembered_as_in_2014_and_only_its_owner_can_read_it() {
    let person = Person::new();
    let pin = "n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=";
    let args = ["server-add", "-g", "git.demo.com", "-p", pin, "demo", "https://demo.com", "KEY"];
    let outcome = person.flynn(&args).ok();
    assert_eq!(
        (outcome.stdout.as_str(), outcome.stderr.as_str()),
        ("", "Server \"demo\" added.\n")
    );
    let rc = person.rc();
    for line in [
        "[[server]]",
        "Name = \"demo\"",
        "GitHost = \"git.demo.com\"",
        "URL = \"https://demo.com\"",
        "Key = \"KEY\"",
        &format!("TLSPin = \"{pin}\""),
    ] {
        assert!(rc.contains(line), "{line} is not in\n{rc}");
    }
    let mode = std::fs::metadata(person.path().join(".flynnrc")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let leftover = std::fs::read_dir(person.path()).unwrap().count();
    assert_eq!(leftover, 1, "a temporary file was left");
}

#[test]
fn the_later_spelling_takes_a_domain() {
    let person = Person::new();
    person.flynn(&["cluster", "add", "-d", "d", "demo.com", "KEY"]).ok();
    let rc = person.rc();
    assert!(rc.contains("URL = \"https://controller.demo.com\""), "{rc}");
    assert!(rc.contains("GitHost = \"demo.com:2222\""), "{rc}");
    let listing = person.flynn(&["cluster"]).ok().stdout;
    assert_eq!(
        listing,
        "NAME  URL                          GIT HOST\n\
         d     https://controller.demo.com  demo.com:2222  default\n"
    );
    assert!(!person.flynn(&["cluster", "--json"]).ok().stdout.contains("KEY"));
    person.flynn(&["cluster", "remove", "d"]).ok();
    assert!(!person.rc().contains("demo.com"));
}

#[test]
fn the_same_server_twice_is_refused_unless_forced() {
    let person = Person::new();
    person.flynn(&["server-add", "demo", "https://demo.com", "OLD"]).ok();
    let err = person.flynn(&["server-add", "demo", "https://demo.com", "NEW"]).failed();
    assert!(err.contains("the same name already"), "{err}");
    person.flynn(&["server-add", "-f", "demo", "https://demo.com", "NEW"]).ok();
    assert!(person.rc().contains("NEW") && !person.rc().contains("OLD"));
}

#[test]
fn without_a_server_the_line_to_type_is_said() {
    let err = Person::new().flynn(&["apps"]).failed();
    assert!(err.contains("flynn server-add"), "{err}");
}

#[test]
fn a_broken_file_is_named() {
    let person = Person::new();
    std::fs::write(person.path().join(".flynnrc"), "[[server]\n").unwrap();
    let err = person.flynn(&["apps"]).failed();
    assert!(err.contains(".flynnrc cannot be used"), "{err}");
}

#[test]
fn a_wrong_key_points_to_the_file() {
    let fake = Fake::start();
    let person = Person::new();
    person.flynn(&["server-add", "local", &fake.url, "wrong"]).ok();
    let err = person.flynn(&["apps"]).failed();
    assert!(err.contains("refuses the key") && err.contains("~/.flynnrc"), "{err}");
}

#[test]
fn a_controller_that_is_not_there_is_named() {
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let person = Person::new();
    let url = format!("http://controller.localhost:{}", unused.port());
    person.flynn(&["server-add", "local", &url, "key"]).ok();
    let err = person.flynn(&["apps"]).failed();
    assert!(err.contains(&format!("{url} cannot be reached")), "{err}");
    assert!(err.contains("Connection refused"), "{err}");
}

#[test]
fn the_app_is_the_one_said_else_the_one_of_the_git_remote() {
    let fake = Fake::start();
    fake.world().deployed_app("myapp");
    fake.world().deployed_app("other");
    let person = Person::of(&fake);
    let err = person.flynn(&["ps"]).failed();
    assert!(err.contains("no app is given"), "{err}");
    let asked = |args: &[&str], env: &[(&str, &str)]| {
        fake.world().requests.clear();
        person.flynn_with(args, env, "").ok();
        let asked = fake.world().requests[0].clone();
        asked.split('?').next().unwrap().to_owned()
    };
    assert_eq!(asked(&["ps", "-a", "other"], &[]), "GET /apps/other/jobs");
    assert_eq!(asked(&["-a", "other", "ps", "-a"], &[]), "GET /apps/other/jobs");
    assert_eq!(asked(&["ps"], &[("FLYNN_APP", "other")]), "GET /apps/other/jobs");
    person.git(&["init", "-q"]);
    person.git(&["remote", "add", "flynn", "ssh://git@localhost:2222/myapp.git"]);
    assert_eq!(asked(&["ps"], &[]), "GET /apps/myapp/jobs");
    assert_eq!(asked(&["ps"], &[("FLYNN_APP", "other")]), "GET /apps/other/jobs");
    person.git(&["remote", "add", "stage", "ssh://git@localhost:2222/other.git"]);
    let err = person.flynn(&["ps"]).failed();
    assert!(err.contains("flynn = myapp, stage = other"), "{err}");
    assert_eq!(asked(&["ps", "-a", "stage"], &[]), "GET /apps/other/jobs");
    person.git(&["config", "flynn.remote", "stage"]);
    assert_eq!(asked(&["ps"], &[]), "GET /apps/other/jobs");
}

#[test]
fn the_remote_s_host_picks_the_server() {
    let (one, two) = (Fake::start(), Fake::start());
    two.world().deployed_app("myapp");
    let person = Person::of(&one);
    person.flynn(&["server-add", "-g", "two.localhost", "two", &two.url, "key"]).ok();
    person.git(&["init", "-q"]);
    person.git(&["remote", "add", "flynn", "ssh://git@two.localhost/myapp.git"]);
    assert!(person.flynn(&["ps"]).ok().stdout.contains("web"));
    assert!(one.world().requests.is_empty());
    person.flynn(&["-c", "two", "-a", "myapp", "ps"]).ok();
    person.flynn_with(&["-a", "myapp", "ps"], &[("FLYNN_SERVER", "two")], "").ok();
    let err = person.flynn(&["-c", "three", "apps"]).failed();
    assert!(err.contains("no server \"three\""), "{err}");
}

#[test]
fn a_slip_in_a_command_is_understood_and_exits_with_2() {
    let person = Person::new();
    let outcome = person.flynn(&["scael", "web=1"]);
    assert_eq!(outcome.code, Some(2));
    assert!(outcome.stderr.contains("'scale'"), "{outcome:?}");
    let outcome = person.flynn(&[]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(2), ""));
    assert!(outcome.stderr.contains("Usage: flynn"), "{outcome:?}");
    assert_eq!(person.flynn(&["help", "nonsense"]).code, Some(2));
}

#[test]
fn help_explains_every_command_in_both_spellings() {
    let person = Person::new();
    let overview = person.flynn(&["help"]).ok().stdout;
    assert!(overview.contains("route-add-http") && overview.contains("FLYNNRC"), "{overview}");
    let commands = person.flynn(&["help", "commands"]).ok().stdout;
    assert!(commands.contains("flynn env-set [OPTIONS] <NAME=VALUE>..."), "{commands}");
    let one = person.flynn(&["help", "route", "add", "http"]).ok().stdout;
    assert!(one.contains("--tls-cert"), "{one}");
    let json = person.flynn(&["help", "--json"]).ok().stdout;
    let map: std::collections::BTreeMap<String, String> = serde_json::from_str(&json).unwrap();
    for name in map.keys() {
        person.flynn(&["help", name]).ok();
        person.flynn(&[name, "--help"]).ok();
    }
    assert_eq!(person.flynn(&["version"]).ok().stdout, format!("{}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn force_replaces_whatever_is_in_the_way() {
    let person = Person::new();
    person.flynn(&["server-add", "old", "https://demo.com", "OLD"]).ok();
    person.flynn(&["server-add", "-g", "git.com", "other", "https://other.com", "OTHER"]).ok();
    person.flynn(&["server-add", "-f", "other", "https://demo.com", "NEW"]).ok();
    let rc = person.rc();
    assert!(!rc.contains("OLD") && !rc.contains("OTHER") && rc.contains("NEW"), "{rc}");
}
