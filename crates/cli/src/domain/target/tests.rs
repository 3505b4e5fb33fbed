use proptest::prelude::*;

use super::*;
use crate::domain::flynnrc::new_server;

fn rc() -> Flynnrc {
    let text = "[[server]]\nName = \"one\"\nGitHost = \"one.com\"\nURL = \"https://one.com\"\nKey = \"k\"\n\
        [[server]]\nName = \"two\"\nGitHost = \"localhost:2222\"\nURL = \"http://two.com\"\nKey = \"k\"\n";
    Flynnrc::parse(text).unwrap()
}

fn remotes(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|&(name, url)| (name.to_owned(), url.to_owned())).collect()
}

fn chosen(wishes: &Wishes<'_>) -> Result<(String, String), TargetError> {
    app(wishes, &rc()).map(|(server, app)| (server.name.clone(), app))
}

fn is(server: &str, app: &str) -> Result<(String, String), TargetError> {
    Ok((server.into(), app.into()))
}

const HUB: (&str, &str) = ("origin", "git@github.com:me/app.git");
const FLYNN: (&str, &str) = ("flynn", "ssh://git@localhost:2222/app.git");
const STAGE: (&str, &str) = ("stage", "ssh://git@one.com/app-stage.git");

#[test]
fn the_only_flynn_remote_names_the_app_and_its_host_picks_the_server() {
    let one = remotes(&[HUB, FLYNN]);
    assert_eq!(chosen(&Wishes { remotes: &one, ..Wishes::default() }), is("two", "app"));
}

#[test]
fn an_app_that_is_said_wins_and_may_be_a_remote() {
    let both = remotes(&[HUB, FLYNN, STAGE]);
    let wishes = Wishes { remotes: &both, env_app: Some("other"), ..Wishes::default() };
    assert_eq!(chosen(&wishes), is("one", "other"));
    assert_eq!(chosen(&Wishes { app: Some("stage"), ..wishes.clone() }), is("one", "app-stage"));
    assert_eq!(chosen(&Wishes { app: Some("flynn"), ..wishes.clone() }), is("two", "app"));
    assert_eq!(chosen(&Wishes { app: Some("app"), ..wishes.clone() }), is("two", "app"));
    let elsewhere = Wishes { app: Some("app"), cluster: Some("one"), ..wishes };
    assert_eq!(chosen(&elsewhere), is("one", "app"));
}

#[test]
fn several_remotes_need_a_word() {
    let both = remotes(&[FLYNN, STAGE]);
    let wishes = Wishes { remotes: &both, ..Wishes::default() };
    assert_eq!(
        chosen(&wishes),
        Err(TargetError::Ambiguous("flynn = app, stage = app-stage".into()))
    );
    let config = Wishes { flynn_remote: Some("stage"), ..wishes.clone() };
    assert_eq!(chosen(&config), is("one", "app-stage"));
    let bad = Wishes { flynn_remote: Some("gone"), ..wishes };
    assert_eq!(chosen(&bad), Err(TargetError::BadFlynnRemote("gone".into())));
}

#[test]
fn nothing_said_and_no_remote_is_an_error_that_says_what_to_do() {
    assert_eq!(chosen(&Wishes::default()), Err(TargetError::NoApp));
    assert_eq!(app(&Wishes::default(), &Flynnrc::default()), Err(TargetError::NoServer));
}

#[test]
fn the_server_is_the_one_said_then_the_default_then_the_first() {
    let name = |wishes: &Wishes<'_>, rc: &Flynnrc| server(wishes, rc).unwrap().name.clone();
    let rc = rc();
    assert_eq!(name(&Wishes::default(), &rc), "one");
    assert_eq!(name(&Wishes::default(), &rc.with_default("two").unwrap()), "two");
    let env = Wishes { env_server: Some("two"), ..Wishes::default() };
    assert_eq!(name(&env, &rc), "two");
    assert_eq!(name(&Wishes { cluster: Some("one"), ..env }, &rc), "one");
    let unknown = Wishes { cluster: Some("three"), ..Wishes::default() };
    assert!(server(&unknown, &rc).is_err());
}

#[test]
fn git_urls_are_understood_in_their_forms() {
    let servers = rc().servers;
    for (url, app) in [
        ("ssh://git@one.com/a.git", Some("a")),
        ("ssh://git@ONE.com:22/a.git", Some("a")),
        ("ssh://git@one.com/a", Some("a")),
        ("git@one.com:a.git", Some("a")),
        ("ssh://git@one.com:2222/a.git", None),
        ("ssh://git@localhost/a.git", None),
        ("ssh://git@one.com/me/a.git", None),
        ("https://one.com/a.git", None),
        ("ssh://git@one.com/.git", None),
    ] {
        assert_eq!(app_of_url(&servers, url).map(|(_, app)| app).as_deref(), app, "{url}");
    }
}

#[test]
fn only_push_urls_of_a_listing_count() {
    let listing = "flynn\tssh://git@h/a.git (fetch)\nflynn\tssh://git@h/b.git (push)\nx\n";
    assert_eq!(push_urls(listing), remotes(&[("flynn", "ssh://git@h/b.git")]));
}

proptest! {
    #[test]
    fn a_server_knows_its_own_git_urls(app in "[a-z0-9]{1,5}(-[a-z0-9]{1,5}){0,2}", port: u16) {
        let server = new_server("n", &format!("h.com:{port}"), "https://h.com", "k", None).unwrap();
        let url = server.git_url(&app);
        let servers = [server];
        prop_assert_eq!(app_of_url(&servers, &url).map(|(_, app)| app), Some(app));
    }

    #[test]
    fn parsing_never_panics(text in "(ssh://|git@|one.com|:|/|.git|\t| \\(push\\)|.){0,12}") {
        let _ = app_of_url(&rc().servers, &text);
        let _ = push_urls(&text);
    }
}
