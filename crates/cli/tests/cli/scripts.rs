//! What `script/up` prints and remembers, as far as people type it or would lose something by it.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use serde_json::json;

use crate::person::{Outcome, Person};

const UP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../script/up");
const PIN: &str = "n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=";

/// An operator with a folder for the data of a host.
struct Operator(Person);

impl Operator {
    fn new() -> Self {
        let operator = Self(Person::new());
        fs::create_dir_all(operator.data().join("bootstrap")).unwrap();
        operator
    }

    fn data(&self) -> std::path::PathBuf {
        self.0.path().join("data")
    }

    /// A line of bash that can call the steps of `script/up`, of which none is taken by itself.
    fn line(&self, line: &str, env: &[(&str, &str)]) -> Outcome {
        let mut command = self.0.command("bash");
        command.args(["-c", &format!(". {UP}\n{line}")]).env("FLYNN_DATA_DIR", self.data());
        let output = command.envs(env.iter().copied()).output().unwrap();
        Outcome {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Leaves what bootstrap leaves of a cluster that it set up.
    fn set_up_cluster(&self) {
        let state = json!({
            "controller-cert": { "done": true, "result": { "pin": PIN } },
            "controller-key": { "done": true, "result": { "data": "0123456789abcdef" } },
        });
        fs::write(self.data().join("bootstrap/state.json"), state.to_string()).unwrap();
    }
}

#[test]
fn the_line_for_developers_adds_the_cluster_to_their_cli() {
    let operator = Operator::new();
    operator.set_up_cluster();
    let usual = [("CLUSTER_DOMAIN", "demo.example.com")];
    let other = [usual[0], ("HTTPS_PORT", "8443"), ("GIT_PORT", "2223")];
    let address = "https://controller.demo.example.com";
    for (env, url, git) in [
        (&usual[..], address.to_owned(), "demo.example.com:2222"),
        (&other, format!("{address}:8443"), "demo.example.com:2223"),
    ] {
        let closing = operator.line("closing", env).ok().stdout;
        let line = closing.lines().find(|line| line.contains("flynn server-add")).unwrap();
        let developer = Person::new();
        let cli = Path::new(env!("CARGO_BIN_EXE_flynn")).parent().unwrap();
        let typed = format!("PATH={}:$PATH; {line}", cli.display());
        let typed = developer.command("sh").args(["-c", &typed]).output().unwrap();
        assert!(typed.status.success(), "{line}: {typed:?}");
        let rc = developer.rc();
        for known in [
            format!("URL = \"{url}\""),
            format!("GitHost = \"{git}\""),
            format!("TLSPin = \"{PIN}\""),
            "Key = \"0123456789abcdef\"".to_owned(),
        ] {
            assert!(rc.lines().any(|line| line == known), "{known} is not in\n{rc}");
        }
    }
}

#[test]
fn a_host_has_joined_if_it_is_one_of_several_and_bootstrap_ran_on_another() {
    let operator = Operator::new();
    let host = operator.0.path().join("flynn-host");
    let has_joined = |hosts: &str| {
        fs::write(&host, format!("#!/bin/sh\n{hosts}\n")).unwrap();
        fs::set_permissions(&host, fs::Permissions::from_mode(0o755)).unwrap();
        let line = "bin=$HOME; if has_joined; then echo yes; else echo no; fi";
        let said = operator.line(line, &[]).ok();
        assert_eq!(said.stderr, "", "{hosts}");
        said.stdout.trim() == "yes"
    };
    let (one, three) = (r#"echo '[{"id":"a"}]'"#, r#"echo '[{"id":"a"},{"id":"b"},{"id":"c"}]'"#);
    assert!(has_joined(three));
    assert!(!has_joined(one), "it is the first host of a cluster that is yet to be set up");
    assert!(!has_joined("echo it is away >&2; exit 1"), "nobody says that there are others");
    operator.set_up_cluster();
    assert!(!has_joined(three), "the cluster was set up here");
}

#[test]
fn what_was_chosen_once_is_chosen_for_good() {
    let operator = Operator::new();
    let shown = "echo $CLUSTER_DOMAIN $HTTP_PORT $HTTPS_PORT $GIT_PORT";
    let first = operator.line(shown, &[]).ok().stdout;
    assert_eq!(first, "localhost 80 443 2222\n", "nothing is kept, and nothing chosen");
    let chosen = [("CLUSTER_DOMAIN", "demo.example.com"), ("HTTP_PORT", "8080")];
    operator.line("keep_choices", &chosen).ok();
    let kept = "demo.example.com 8080 443 2222\n";
    assert_eq!(operator.line(shown, &[]).ok().stdout, kept);
    assert_eq!(operator.line(shown, &chosen).ok().stdout, kept, "the same may be said again");
    let refused = operator.line(shown, &[("HTTP_PORT", "81")]).failed();
    for said in ["HTTP_PORT=8080", "cannot be changed to 81", "FLYNN_DATA_DIR"] {
        assert!(refused.contains(said), "{said}: {refused}");
    }
    // It is kept once: by whom the cluster was set up.
    operator.line("HTTP_PORT=81 keep_choices", &[]).ok();
    assert_eq!(operator.line(shown, &[]).ok().stdout, kept);
}
