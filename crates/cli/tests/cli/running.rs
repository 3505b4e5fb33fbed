//! Processes, environment, releases, logs.

use api::controller::{JobState, LogLine};

use crate::scene::Scene;

#[test]
fn scale_shows_what_happens_and_returns_when_all_serve() {
    let scene = Scene::new();
    assert_eq!(scene.flynn(&["scale"]).ok().stdout, "web=1 worker=0\n");
    let outcome = scene.flynn(&["scale", "web=3", "worker=1"]).ok();
    assert_eq!(outcome.stdout, "");
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    assert_eq!(lines[0], "scaling web: 1 => 3, worker: 0 => 1");
    let up =
        |kind: &str| lines.iter().filter(|l| l.starts_with(kind) && l.ends_with("  up")).count();
    assert_eq!((up("web  "), up("worker  ")), (2, 1), "{outcome:?}");
    assert!(lines.last().unwrap().starts_with("scale completed in "), "{outcome:?}");
    assert_eq!(scene.flynn(&["scale"]).ok().stdout, "web=3 worker=1\n");
    let outcome = scene.flynn(&["scale", "web=1"]).ok();
    assert!(outcome.stderr.contains("  stopping\n"), "{outcome:?}");
    assert_eq!(scene.flynn(&["scale"]).ok().stdout, "web=1 worker=1\n");
}

#[test]
fn scale_says_on_which_hosts_and_takes_it_back() {
    let scene = Scene::new();
    scene.flynn(&["scale", "web=2,disk=ssd,zone=b"]).ok();
    assert_eq!(scene.flynn(&["scale"]).ok().stdout, "web=2,disk=ssd,zone=b worker=0\n");
    scene.flynn(&["scale", "web=1"]).ok();
    assert_eq!(scene.flynn(&["scale"]).ok().stdout, "web=1,disk=ssd,zone=b worker=0\n");
    scene.flynn(&["scale", "web=1,zone="]).ok();
    assert_eq!(scene.flynn(&["scale"]).ok().stdout, "web=1,disk=ssd worker=0\n");
    assert_eq!(scene.flynn(&["scale", "web=1,disk"]).code, Some(2));
}

#[test]
fn scale_refuses_what_the_release_does_not_have() {
    let scene = Scene::new();
    let err = scene.flynn(&["scale", "wbe=2"]).failed();
    assert!(err.contains("did you mean \"web\"?"), "{err}");
    assert_eq!(scene.flynn(&["scale", "web=-1"]).code, Some(2));
    assert_eq!(scene.flynn(&["scale", "web"]).code, Some(2));
    assert!(!scene.fake.world().requests.iter().any(|request| request.starts_with("PUT")));
}

#[test]
fn scale_looks_again_when_somebody_else_scaled_meanwhile() {
    let scene = Scene::new();
    scene.fake.world().meanwhile.scale = Some(("web".into(), 2));
    let outcome = scene.flynn(&["scale", "web=3"]).ok();
    assert!(outcome.stderr.contains("scaling web: 2 => 3\n"), "{outcome:?}");
    assert_eq!(scene.flynn(&["scale"]).ok().stdout, "web=3 worker=0\n");
}

#[test]
fn a_change_is_made_again_from_what_was_deployed_meanwhile() {
    let scene = Scene::new();
    scene.overtake();
    let outcome = scene.flynn(&["env-set", "OURS=2"]).ok();
    assert!(outcome.stderr.contains("Another change came first"), "{outcome:?}");
    assert_eq!(scene.flynn(&["env"]).ok().stdout, "OURS=2\nTHEIRS=1\n");
}

#[test]
fn a_deployment_is_cancelled_and_its_settings_are_shown_and_changed() {
    let scene = Scene::new();
    let err = scene.flynn(&["deployment-cancel"]).failed();
    assert!(err.contains("nothing of myapp is being deployed"), "{err}");
    let id = {
        let mut world = scene.fake.world();
        world.deployments[0].status = api::controller::DeploymentStatus::Pending;
        world.deployments[0].id
    };
    let outcome = scene.flynn(&["deployment", "cancel"]).ok();
    assert_eq!(outcome.stderr, format!("Deployment {id} will not begin.\n"));
    assert_eq!(scene.flynn(&["deployment-strategy"]).ok().stdout, "one-by-one\n");
    let outcome = scene.flynn(&["deployment", "strategy", "in-batches"]).ok();
    assert_eq!(outcome.stdout, "in-batches\n");
    assert_eq!(scene.flynn(&["deployment", "strategy", "slowly"]).code, Some(2));
    assert_eq!(scene.flynn(&["deployment", "timeout", "30"]).ok().stdout, "30\n");
    assert_eq!(scene.flynn(&["deployment", "batch-size", "4"]).ok().stdout, "4\n");
    let outcome = scene.flynn(&["deployment-batch-size", "0"]).ok();
    assert_eq!(outcome.stdout, "as many as there are hosts\n");
}

#[test]
fn scale_says_why_jobs_do_not_stay_up() {
    let scene = Scene::new();
    scene.fake.world().crash = Some("it exited with status 1 after 0.2 s".into());
    let err = scene.flynn(&["scale", "web=2"]).failed();
    assert!(err.contains("crashed: it exited with status 1 after 0.2 s"), "{err}");
    assert!(err.contains("web does not stay up: it crashed 3 times"), "{err}");
    scene.flynn(&["scale", "--no-wait", "web=3"]).ok();
}

#[test]
fn ps_lists_what_lives_and_a_crash_loop_shows_as_such() {
    let scene = Scene::new();
    let (app, release, up) = {
        let mut world = scene.fake.world();
        let (app, release) = (world.apps[0].id, world.releases[0].id);
        let up = world.jobs[0].id.clone();
        world.add_job(app, release, "worker", JobState::Down);
        let id = world.add_job(app, release, "worker", JobState::Pending);
        let job = world.jobs.iter_mut().find(|job| job.id == id).unwrap();
        job.restarts = 5;
        job.host_error = Some("the last one exited with status 1".into());
        job.run_at = Some(jiff::Timestamp::now() + jiff::SignedDuration::from_secs(30));
        (app, release, up)
    };
    let text = scene.flynn(&["ps"]).ok().stdout;
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("ID") && lines[0].contains("TYPE    STATE    CREATED"), "{text}");
    assert!(lines[1].starts_with(&format!("{up}  web     up       ")), "{text}");
    assert!(lines[1].ends_with(&release.to_string()), "{text}");
    assert!(lines[2].contains("  worker  pending  "), "{text}");
    assert!(lines[3].starts_with("  started again 5 times after crashes, next try in 2"), "{text}");
    assert!(lines[3].ends_with(": the last one exited with status 1"), "{text}");
    assert_eq!(lines.len(), 4);
    assert_eq!(scene.flynn(&["ps", "-a"]).ok().stdout.lines().count(), 5);
    assert_eq!(scene.flynn(&["ps", "-q", "-t", "web"]).ok().stdout, format!("{up}\n"));
    scene.fake.world().add_job(app, release, "", JobState::Up);
    let text = scene.flynn(&["ps"]).ok().stdout;
    assert!(text.lines().next().unwrap().ends_with("  COMMAND"), "{text}");
}

#[test]
fn kill_takes_the_beginning_of_an_id() {
    let scene = Scene::new();
    let id = scene.fake.world().jobs[0].id.clone();
    let outcome = scene.flynn(&["kill", &id["host-1-".len()..][..8]]).ok();
    assert_eq!(outcome.stderr, format!("Job {id} killed.\n"));
    let err = scene.flynn(&["kill", "ffffffff"]).failed();
    assert!(err.contains("`flynn ps -a` lists them"), "{err}");
}

#[test]
fn kill_goes_on_past_what_is_dead_already() {
    let scene = Scene::new();
    let (dead, gone, up) = {
        let mut world = scene.fake.world();
        let (app, release) = (world.apps[0].id, world.releases[0].id);
        let up = world.jobs[0].id.clone();
        let dead = world.add_job(app, release, "worker", JobState::Down);
        (dead, world.add_job(app, release, "worker", JobState::Up), up)
    };
    // It ends while its host is asked.
    scene.fake.world().meanwhile.end = Some(gone.clone());
    let outcome = scene.flynn(&["kill", &dead, &gone, &up]).ok();
    let said =
        format!("Job {dead} had ended already.\nJob {gone} had ended already.\nJob {up} killed.\n");
    assert_eq!(outcome.stderr, said);
}

#[test]
fn scale_says_as_json_what_is_and_what_it_made_of_it() {
    let scene = Scene::new();
    let json = |args: &[&str]| -> serde_json::Value {
        serde_json::from_str(&scene.flynn(args).ok().stdout).unwrap()
    };
    let made = json(&["scale", "web=2,disk=ssd", "--json"]);
    assert_eq!(made["old_processes"]["web"], 1);
    assert_eq!(made["new_processes"]["web"], 2);
    let now = json(&["scale", "--json"]);
    assert_eq!(now["processes"], serde_json::json!({ "web": 2, "worker": 0 }));
    assert_eq!(now["tags"], serde_json::json!({ "web": { "disk": "ssd" } }));
    assert_eq!(scene.flynn(&["scale", "web=2", "web=3"]).code, Some(2));
}

#[test]
fn setting_a_variable_makes_a_release_and_deploys_it() {
    let scene = Scene::new();
    let before = scene.fake.world().apps[0].release;
    let outcome = scene.flynn(&["env-set", "A=1", "B=x=y"]).ok();
    let after = scene.fake.world().apps[0].release;
    assert_ne!(before, after);
    let made = format!("Created release {}.\n", after.unwrap());
    assert!(outcome.stderr.starts_with(&made), "{outcome:?}");
    assert!(outcome.stderr.contains("deployed in "), "{outcome:?}");
    assert_eq!(scene.flynn(&["env"]).ok().stdout, "A=1\nB=x=y\n");
    assert_eq!(scene.flynn(&["env", "get", "B"]).ok().stdout, "x=y\n");
    scene.flynn(&["env", "unset", "B"]).ok();
    assert_eq!(scene.flynn(&["env", "--json"]).ok().stdout, "{\n  \"A\": \"1\"\n}\n");
    let err = scene.flynn(&["env-get", "B"]).failed();
    assert!(err.contains("B is not set"), "{err}");
    let outcome = scene.flynn(&["env-set", "A=1"]).ok();
    assert_eq!(outcome.stderr, "Nothing changes: it is so already.\n");
    scene.flynn(&["env-set", "-t", "web", "A=2"]).ok();
    assert_eq!(scene.flynn(&["env-get", "-t", "web", "A"]).ok().stdout, "2\n");
    assert_eq!(scene.flynn(&["env-get", "A"]).ok().stdout, "1\n");
}

#[test]
fn a_deployment_that_fails_says_why() {
    let scene = Scene::new();
    scene.fake.world().crash = Some("web exited with status 1".into());
    let err = scene.flynn(&["env-set", "A=1"]).failed();
    assert!(err.contains("could not be deployed; the one before serves as before."), "{err}");
    assert!(err.contains("web exited with status 1"), "{err}");
}

#[test]
fn a_rollback_deploys_what_served_before() {
    let scene = Scene::new();
    let err = scene.flynn(&["rollback"]).failed();
    assert!(err.contains("`flynn releases` lists all"), "{err}");
    let first = scene.fake.world().apps[0].release.unwrap();
    scene.flynn(&["env-set", "A=1"]).ok();
    let second = scene.fake.world().apps[0].release.unwrap();
    let outcome = scene.flynn(&["rollback"]).ok();
    assert!(
        outcome.stderr.starts_with(&format!("Rolling back from release {second} to {first}.\n")),
        "{outcome:?}"
    );
    assert_eq!(scene.fake.world().apps[0].release, Some(first));
    scene.flynn(&["release", "rollback", &second.to_string()]).ok();
    assert_eq!(scene.fake.world().apps[0].release, Some(second));
    let listing = scene.flynn(&["releases"]).ok().stdout;
    assert!(listing.lines().nth(1).unwrap().ends_with("current"), "{listing}");
    assert_eq!(scene.flynn(&["deployments"]).ok().stdout.lines().count(), 5);
}

#[test]
fn a_rollback_that_is_overtaken_undoes_nobody_else_s_change() {
    let scene = Scene::new();
    scene.flynn(&["env-set", "A=1"]).ok();
    let theirs = scene.overtake();
    let err = scene.flynn(&["rollback"]).failed();
    assert!(err.contains(&format!("release {theirs} was deployed meanwhile")), "{err}");
    assert_eq!(scene.fake.world().apps[0].release, Some(theirs));
}

#[test]
fn a_deployment_that_a_deletion_ends_says_that_alone() {
    let scene = Scene::new();
    scene.fake.world().meanwhile.delete = true;
    let err = scene.flynn(&["env-set", "A=1"]).failed();
    let last = err.lines().last().unwrap();
    assert!(last.ends_with("was not deployed: the app was deleted"), "{err}");
    assert!(!err.contains("serves as before"), "{err}");
}

fn line(job: &str, kind: &str, stream: &str, msg: &str) -> LogLine {
    LogLine {
        host_id: "host-1".into(),
        job_id: job.into(),
        process_type: kind.into(),
        stream: stream.into(),
        msg: msg.into(),
        timestamp: "2026-11-23T12:00:00Z".parse().unwrap(),
    }
}

#[test]
fn a_log_has_its_jobs_named_and_a_single_job_s_lines_are_as_written() {
    let scene = Scene::new();
    let id = {
        let mut world = scene.fake.world();
        let id = world.jobs[0].id.clone();
        world.log = vec![
            line(&id, "web", "stdout", "one"),
            line(&id, "web", "stderr", "two"),
            line("host-1-00000000000000000000000000000000", "", "stdout", "three"),
        ];
        id
    };
    let short = &id["host-1-".len()..][..8];
    let text = scene.flynn(&["log"]).ok().stdout;
    assert_eq!(
        text.lines().next().unwrap(),
        format!("2026-11-23T12:00:00.000000Z app[web.{short}]: one")
    );
    assert!(text.ends_with("app[run.00000000]: three\n"), "{text}");
    assert_eq!(scene.flynn(&["log", &id]).ok().stdout, "one\ntwo\n");
    assert_eq!(scene.flynn(&["log", "-j", short]).ok().stdout, "one\ntwo\n");
    let split = scene.flynn(&["log", "-s", short]).ok();
    assert_eq!((split.stdout.as_str(), split.stderr.as_str()), ("one\n", "two\n"));
    assert_eq!(scene.flynn(&["log", "-n", "1", "-r"]).ok().stdout, "three\n");
    assert_eq!(scene.flynn(&["log", "-t", "run", "-r"]).ok().stdout, "three\n");
    scene.fake.world().jobs[0].state = JobState::Down;
    assert_eq!(scene.flynn(&["log", "-f", short]).ok().stdout, "one\ntwo\n");
}

#[test]
fn an_environment_can_be_set_before_the_first_push() {
    let scene = Scene::new();
    scene.fake.world().add_app("empty");
    scene.person.flynn(&["-a", "empty", "env-set", "A=1"]).ok();
    assert_eq!(scene.person.flynn(&["-a", "empty", "env"]).ok().stdout, "A=1\n");
    for args in [&["run", "x"][..], &["scale", "web=1"]] {
        let err = scene.person.flynn(&[&["-a", "empty"], args].concat()).failed();
        assert!(err.contains("git push") || err.contains("it has: none"), "{err}");
    }
}
