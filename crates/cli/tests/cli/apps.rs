//! Apps, routes, keys.

use crate::{fake::Fake, person::Person};

const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ8Tna0kXQbGVVnbHjqjPkiF5c2yvdZpGrKTfZZbr4iM me@here";

#[test]
fn create_makes_the_app_and_its_git_remote() {
    let fake = Fake::start();
    let person = Person::of(&fake);
    person.git(&["init", "-q"]);
    let outcome = person.flynn(&["create", "myapp"]).ok();
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("", "Created myapp\n"));
    let url = person.git(&["config", "remote.flynn.url"]);
    assert_eq!(url, "ssh://git@localhost:2222/myapp.git\n");
    let info = person.flynn(&["info"]).ok().stdout;
    assert!(info.contains("Git URL:  ssh://git@localhost:2222/myapp.git\n"), "{info}");
}

#[test]
fn create_draws_a_name_and_outside_a_repository_says_what_to_type() {
    let fake = Fake::start();
    let outcome = Person::of(&fake).flynn(&["create"]).ok();
    assert!(outcome.stderr.starts_with("Created quiet-river-42\n"), "{outcome:?}");
    assert!(
        outcome.stderr.contains("git remote add flynn ssh://git@localhost:2222/quiet-river-42.git"),
        "{outcome:?}"
    );
}

#[test]
fn create_does_not_take_a_remote_that_points_elsewhere() {
    let fake = Fake::start();
    let person = Person::of(&fake);
    person.git(&["init", "-q"]);
    person.git(&["remote", "add", "flynn", "ssh://git@elsewhere/x.git"]);
    let err = person.flynn(&["create", "myapp"]).failed();
    assert!(err.contains("elsewhere") && err.contains("`-y` replaces it"), "{err}");
    assert!(fake.world().apps.is_empty());
    person.flynn(&["create", "-r", "second", "myapp"]).ok();
    person.flynn(&["create", "-y", "third"]).ok();
    let urls = person.git(&["remote", "-v"]);
    assert!(urls.contains("second\tssh://git@localhost:2222/myapp.git"), "{urls}");
    assert!(urls.contains("flynn\tssh://git@localhost:2222/third.git"), "{urls}");
}

#[test]
fn a_name_that_is_taken_is_refused_and_the_repository_left_alone() {
    let fake = Fake::start();
    fake.world().add_app("myapp");
    let person = Person::of(&fake);
    person.git(&["init", "-q"]);
    let err = person.flynn(&["create", "myapp"]).failed();
    assert!(err.contains("an app of that name exists"), "{err}");
    assert_eq!(person.git(&["remote"]), "");
}

#[test]
fn delete_asks_for_the_name_and_takes_the_remote_away() {
    let fake = Fake::start();
    let person = Person::of(&fake);
    person.git(&["init", "-q"]);
    person.flynn(&["create", "myapp"]).ok();
    let err = person.flynn(&["delete"]).failed();
    assert!(err.contains("say -y"), "{err}");
    let outcome = person.flynn(&["delete", "-y"]).ok();
    assert!(outcome.stderr.starts_with("Deleted myapp\n"), "{outcome:?}");
    assert_eq!(person.git(&["remote"]), "");
    assert!(fake.world().apps.is_empty());
}

#[test]
fn apps_are_listed_and_one_that_is_not_there_is_named() {
    let fake = Fake::start();
    let id = fake.world().add_app("myapp");
    let person = Person::of(&fake);
    let listing = person.flynn(&["apps"]).ok().stdout;
    assert_eq!(listing, format!("ID                                NAME\n{id}  myapp\n"));
    let json: Vec<api::controller::App> =
        serde_json::from_str(&person.flynn(&["apps", "--json"]).ok().stdout).unwrap();
    assert_eq!(json[0].name, "myapp");
    for command in [&["ps"][..], &["log"], &["scale"], &["env"], &["routes"], &["run", "x"]] {
        let args = [&["-a", "nosuch"], command].concat();
        let outcome = person.flynn(&args);
        if command != ["routes"] && command != ["log"] {
            let err = outcome.failed();
            assert!(
                err.contains("no app \"nosuch\"") && err.contains("flynn create nosuch"),
                "{err}"
            );
        }
    }
}

#[test]
fn routes_are_added_listed_and_removed() {
    let fake = Fake::start();
    fake.world().deployed_app("myapp");
    let person = Person::of(&fake);
    let app = |args: &[&str]| person.flynn(&[&["-a", "myapp"], args].concat());
    let id = app(&["route-add-http", "WWW.example.com"]).ok().stdout;
    assert!(id.starts_with("http/"), "{id}");
    app(&["route", "add", "http", "-s", "other", "two.com"]).ok();
    let listing = app(&["routes"]).ok().stdout;
    let lines: Vec<&str> = listing.lines().collect();
    assert_eq!(lines[0], "ROUTE                 SERVICE    ID");
    assert_eq!(lines[1], format!("http:www.example.com  myapp-web  {}", id.trim()));
    assert!(lines[2].starts_with("http:two.com          other      http/"), "{listing}");
    let removed = app(&["route-remove", id.trim()]).ok().stdout;
    assert_eq!(removed, format!("Route {} removed.\n", id.trim()));
    assert_eq!(fake.world().routes.len(), 1);
    let err = app(&["route-remove", "http/none"]).failed();
    assert!(err.contains("`flynn routes` lists them"), "{err}");
    assert_eq!(app(&["route-add-http", "a b"]).code, Some(2));
    assert_eq!(app(&["route-add-http", "-c", "f", "a.b"]).code, Some(2));
}

#[test]
fn info_names_the_domain_that_was_there_first() {
    let fake = Fake::start();
    fake.world().deployed_app("myapp");
    let person = Person::of(&fake);
    let app = |args: &[&str]| person.flynn(&[&["-a", "myapp"], args].concat());
    for domain in ["z.example.com", "a.example.com", "m.example.com"] {
        app(&["route-add-http", domain]).ok();
    }
    // The newest first, as the controller lists them.
    fake.world().routes.reverse();
    let port = fake.url.rsplit_once(':').unwrap().1;
    let info = app(&["info"]).ok().stdout;
    assert!(info.contains(&format!("Web URL:  http://z.example.com:{port}\n")), "{info}");
    let json: serde_json::Value =
        serde_json::from_str(&app(&["info", "--json"]).ok().stdout).unwrap();
    assert_eq!(json["web_url"], format!("http://z.example.com:{port}"));
}

#[test]
fn a_certificate_and_its_key_are_taken_from_files_or_stdin() {
    let fake = Fake::start();
    fake.world().deployed_app("myapp");
    let person = Person::of(&fake);
    let block = |kind| format!("-----BEGIN {kind}-----\nAAAA\n-----END {kind}-----\n");
    let (cert, key) = (block("CERTIFICATE"), block("RSA PRIVATE KEY"));
    let both = format!("{key}{cert}");
    let args = ["-a", "myapp", "route-add-http", "-c", "-", "-k", "-", "a.com"];
    person.flynn_with(&args, &[], &both).ok();
    std::fs::write(person.path().join("cert.pem"), &cert).unwrap();
    std::fs::write(person.path().join("key.pem"), &key).unwrap();
    let args = ["-a", "myapp", "route-add-http", "-c", "cert.pem", "-k", "key.pem", "b.com"];
    person.flynn(&args).ok();
    for route in &fake.world().routes {
        assert_eq!(route.tls_cert.as_deref(), Some(cert.as_str()));
        assert_eq!(route.tls_key.as_deref(), Some(key.as_str()));
    }
    let args = ["-a", "myapp", "route-add-http", "-c", "key.pem", "-k", "key.pem", "c.com"];
    let err = person.flynn(&args).failed();
    assert!(err.contains("holds no certificate"), "{err}");
    assert!(person.flynn(&["-a", "myapp", "routes"]).ok().stdout.contains("https:a.com"));
}

#[test]
fn keys_come_from_a_file_stdin_or_the_usual_place() {
    let fake = Fake::start();
    let person = Person::of(&fake);
    let err = person.flynn(&["key-add"]).failed();
    assert!(err.contains("ssh-keygen -t ed25519"), "{err}");
    std::fs::create_dir(person.path().join(".ssh")).unwrap();
    std::fs::write(person.path().join(".ssh/id_ed25519.pub"), KEY).unwrap();
    let outcome = person.flynn(&["key-add"]).ok();
    let fingerprint = "00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:01";
    assert_eq!(outcome.stderr, format!("Key {fingerprint} added.\n"));
    let listing = person.flynn(&["keys"]).ok().stdout;
    assert_eq!(listing, format!("{fingerprint}  me@here\n"));
    let two = format!(
        "{KEY}\n{}\n",
        KEY.replace("AAAAC3NzaC1lZDI1NTE5AAAAI", "AAAAC3NzaC1lZDI1NTE5AAAAJ")
    );
    let outcome = person.flynn_with(&["key-add", "-"], &[], &two).ok();
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    assert!(lines[0].ends_with(" added."), "a known key keeps no other out: {lines:?}");
    assert_eq!(lines[1], format!("Key {fingerprint} is there already."));
    person.flynn(&["key-remove", fingerprint]).ok();
    let err = person.flynn(&["key-remove", fingerprint]).failed();
    assert!(err.contains("no key has that fingerprint"), "{err}");
    assert_eq!(person.flynn(&["key-remove", "abc"]).code, Some(2));
}

#[test]
fn a_key_is_bound_to_the_apps_that_are_named() {
    let fake = Fake::start();
    let person = Person::of(&fake);
    for app in ["one", "two"] {
        fake.world().add_app(app);
    }
    std::fs::write(person.path().join("key.pub"), KEY).unwrap();
    let words = ["key-add", "key.pub", "--app", "one", "--app", "two", "--json"];
    let added = person.flynn(&words).ok().stdout;
    let added: Vec<api::controller::Key> = serde_json::from_str(&added).unwrap();
    assert_eq!(added[0].apps.len(), 2);
    let listed = person.flynn(&["keys"]).ok().stdout;
    assert!(listed.trim_end().ends_with("one two"), "{listed}");
    person.flynn(&["key-add", "key.pub", "--app", "two", "--app", "one"]).ok();
    for apps in [&["--app", "one"][..], &[]] {
        let refused = person.flynn(&[&["key-add", "key.pub"], apps].concat()).failed();
        assert!(refused.contains("may push to other apps"), "it is not bound so: {refused}");
    }
    let fingerprint = added[0].fingerprint.clone();
    person.flynn(&["key-remove", &fingerprint]).ok();
    // Named before the command it counts, too.
    person.flynn(&["-a", "two", "key", "add", "key.pub"]).ok();
    assert_eq!(fake.world().keys[0].apps.len(), 1);
}

#[test]
fn a_private_key_never_leaves() {
    let fake = Fake::start();
    let person = Person::of(&fake);
    let key = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n";
    std::fs::write(person.path().join("id"), key).unwrap();
    let err = person.flynn(&["key-add", "id"]).failed();
    assert!(err.contains("PRIVATE") && err.contains(".pub"), "{err}");
    assert!(fake.world().requests.is_empty());
}
