use proptest::prelude::*;

use super::*;

const OF_2014: &str = "# mine\n[[server]]\nName = \"demo\"\nGitHost = \"lxr.flynnhub.com\"\n\
    URL = \"https://lxr.flynnhub.com\"\nKey = \"secret\"\nColour = \"red\"\n";

fn local(name: &str) -> Server {
    new_server(name, "localhost:2222", "http://controller.localhost", "k", None).unwrap()
}

#[test]
fn a_file_of_2014_is_read() {
    let rc = Flynnrc::parse(OF_2014).unwrap();
    assert_eq!(rc.servers[0].git_url("x"), "ssh://git@lxr.flynnhub.com/x.git");
    assert_eq!(rc.servers[0].base(), "https://lxr.flynnhub.com");
    assert_eq!(rc.servers[0].key, "secret");
}

#[test]
fn a_later_cluster_is_read() {
    let rc = "default = \"d\"\n[[cluster]]\nName = \"d\"\nKey = \"k\"\nTLSPin = \"\"\n\
        ControllerURL = \"https://controller.d.com\"\nGitURL = \"ssh://git@d.com:2222\"\n";
    let rc = Flynnrc::parse(rc).unwrap();
    assert_eq!(rc.default.as_deref(), Some("d"));
    assert_eq!(rc.servers[0].git_url("x"), "ssh://git@d.com:2222/x.git");
    assert_eq!(rc.servers[0].base(), "https://controller.d.com");
}

#[test]
fn adding_a_server_leaves_the_rest_of_the_file_as_it_was() {
    let rc = Flynnrc::parse(OF_2014).unwrap();
    let text = rc.with_server(&local("local")).unwrap();
    assert!(text.starts_with(OF_2014), "{text}");
    assert_eq!(Flynnrc::parse(&text).unwrap().servers[1], local("local"));
}

#[test]
fn removing_a_server_leaves_what_is_unknown_in_the_others() {
    let rc = Flynnrc::parse(OF_2014).unwrap();
    let rc = Flynnrc::parse(&rc.with_server(&local("local")).unwrap()).unwrap();
    let rc = rc.with_default("local").unwrap();
    assert_eq!(rc.default.as_deref(), Some("local"));
    let rc = rc.without_server("local").unwrap();
    assert_eq!(rc.servers.len(), 1);
    assert_eq!(rc.default, None);
    assert!(rc.text().contains("Colour = \"red\""), "{}", rc.text());
    assert_eq!(rc.without_server("other").unwrap_err(), FlynnrcError::NoSuchServer("other".into()));
}

#[test]
fn a_server_can_follow_the_last_one_that_was_removed_and_a_list_in_brackets() {
    let one = Flynnrc::parse(&Flynnrc::default().with_server(&local("a")).unwrap()).unwrap();
    let none = one.without_server("a").unwrap();
    for rc in [none, Flynnrc::parse("server = []\n").unwrap()] {
        let rc = Flynnrc::parse(&rc.with_server(&local("b")).unwrap()).unwrap();
        assert_eq!(rc.servers, [local("b")]);
    }
}

#[test]
fn the_same_name_url_or_git_host_twice_is_refused() {
    let rc = Flynnrc::parse(&Flynnrc::default().with_server(&local("a")).unwrap()).unwrap();
    let mut b = local("b");
    let duplicate = |field| Err(FlynnrcError::Duplicate { server: "a".into(), field });
    assert_eq!(rc.with_server(&local("a")), duplicate("name"));
    assert_eq!(rc.with_server(&b), duplicate("URL"));
    b.url = "http://elsewhere".parse().unwrap();
    assert_eq!(rc.with_server(&b), duplicate("git host"));
}

#[test]
fn what_cannot_work_is_refused() {
    let pin = Pin::of(b"x").to_string();
    for (host, url, pin) in [
        ("h", "ftp://x", None),
        ("h", "x", None),
        ("h", "http://x", Some(pin.as_str())),
        ("h", "https://x", Some("short")),
        ("", "https://x", None),
        ("-oProxyCommand=evil", "https://x", None),
        ("a b", "https://x", None),
        ("a/b", "https://x", None),
        ("h:99999", "https://x", None),
    ] {
        assert!(new_server("n", host, url, "k", pin).is_err(), "{host} {url} {pin:?}");
    }
    for host in ["h", "h:22", "[::1]:2222", "10.0.0.1"] {
        assert!(new_server("n", host, "https://x", "k", Some(&pin)).is_ok(), "{host}");
    }
}

proptest! {
    #[test]
    fn a_server_reads_back_whatever_its_name_and_key(name in ".{1,12}", key in ".{0,12}", port: u16, pinned: bool) {
        let pin = pinned.then(|| Pin::of(b"x").to_string());
        let server = new_server(&name, &format!("h:{port}"), "https://c.h:8443", &key, pin.as_deref()).unwrap();
        let first = Flynnrc::parse(&Flynnrc::default().with_server(&server).unwrap()).unwrap();
        prop_assert_eq!(&first.servers, std::slice::from_ref(&server));
        let text = Flynnrc::parse(OF_2014).unwrap().with_server(&server);
        prop_assume!(name != "demo");
        prop_assert_eq!(&Flynnrc::parse(&text.unwrap()).unwrap().servers[1], &server);
    }

    #[test]
    fn parsing_never_panics(text in "(\\[\\[server\\]\\]|\n|Name|URL|Key|GitHost| = |\"[a-z:/]{0,9}\"|.){0,20}") {
        let _ = Flynnrc::parse(&text);
    }
}
