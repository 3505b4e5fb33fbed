//! Clients that are kept at one backend.

use std::{collections::BTreeMap, net::Ipv4Addr};

use api::route::NewRoute;
use axum::{http::HeaderMap, response::AppendHeaders};
use strowger_client::Strowger;

use crate::harness::{Backend, Harness, KEY, Wire, http_route, router_with, scripted};

/// A backend that answers with its name and the cookies it was sent, and sets one that it is told to.
async fn telling(name: &'static str) -> Backend {
    let told = async move |headers: HeaderMap| {
        let lines = headers.get_all("cookie").iter();
        let lines: Vec<_> = lines.map(|line| line.to_str().unwrap()).collect();
        let set = headers.get("x-set").cloned().map(|line| [("set-cookie", line)]);
        (set.map(AppendHeaders), format!("{name} {}", lines.join("|")))
    };
    Backend::answering(told).await
}

async fn with_three() -> (Harness, BTreeMap<&'static str, Backend>) {
    let harness = Harness::start().await;
    let mut backends = BTreeMap::new();
    for name in ["one", "two", "three"] {
        let backend = telling(name).await;
        harness.up("app", backend.addr).await;
        backends.insert(name, backend);
    }
    harness.client.create_route(&sticky("a.example", "")).await.unwrap();
    (harness, backends)
}

fn sticky(domain: &str, path: &str) -> NewRoute {
    let mut route = http_route(domain, "app");
    (route.route.sticky, route.route.path) = (Some(true), Some(path.into()));
    route
}

/// Answers with the cookie that was set, if one was, and where the request went.
async fn get(wire: &mut Wire, path: &str, lines: &str) -> (Option<String>, String) {
    wire.send(&format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n{lines}\r\n")).await;
    let (head, body) = wire.answer().await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    let cookie = head.lines().filter_map(|line| line.strip_prefix("set-cookie: ")).next_back();
    (cookie.map(str::to_owned), body)
}

/// What a browser sends for a cookie that was set.
fn pair(cookie: &str) -> &str {
    cookie.split(';').next().unwrap()
}

#[tokio::test]
async fn a_client_stays_where_it_was_and_moves_when_that_goes() {
    for is_withdrawn in [true, false] {
        let (harness, mut backends) = with_three().await;
        let mut wire = harness.connect().await;
        let (cookie, first) = get(&mut wire, "/", "").await;
        let cookie = cookie.unwrap();
        assert!(cookie.starts_with("_backend=f1-"), "{cookie}");
        assert!(cookie.ends_with("; path=/; httponly; samesite=lax"), "{cookie}");
        let lines = format!("Cookie: a=b; {}; c=d\r\n", pair(&cookie));
        for _ in 0..20 {
            let stayed = get(&mut wire, "/x", &lines).await;
            assert_eq!(stayed, (None, format!("{first}a=b; c=d")));
        }
        let gone = backends.remove(first.trim_end()).unwrap();
        if is_withdrawn {
            harness.synced(0, harness.discoverd.down("app", gone.addr)).await;
        } else {
            gone.stop().await;
        }
        let (moved, second) = get(&mut wire, "/", &lines).await;
        let moved = moved.expect("it is told where it is now");
        assert_ne!(second, format!("{first}a=b; c=d"));
        let lines = format!("Cookie: {}\r\n", pair(&moved));
        for _ in 0..10 {
            let stayed = get(&mut wire, "/", &lines).await;
            assert_eq!(stayed, (None, second.replace("a=b; c=d", "")));
        }
    }
}

#[tokio::test]
async fn what_no_router_made_names_no_backend_and_reaches_no_app() {
    let (harness, _) = with_three().await;
    let mut wire = harness.connect().await;
    let forged = format!("_backend=f1-{}", "0".repeat(32));
    for made_up in [&forged, "_backend=f1-", "_backend=f1-zz"] {
        let (cookie, body) = get(&mut wire, "/", &format!("Cookie: {made_up}\r\n")).await;
        assert!(cookie.is_some() && body.ends_with(' '), "{cookie:?} {body}");
    }
}

#[tokio::test]
async fn an_app_with_a_cookie_of_that_name_keeps_it_and_its_clients_are_kept() {
    let (harness, _) = with_three().await;
    let mut wire = harness.connect().await;
    let own = "x-set: _backend=mine\r\n";
    let (cookie, body) = get(&mut wire, "/", own).await;
    let cookie = cookie.unwrap();
    assert!(cookie.starts_with("_backend-flynn=f1-"), "{cookie}");
    let lines = format!("Cookie: _backend=mine; {}\r\n", pair(&cookie));
    for _ in 0..10 {
        let stayed = get(&mut wire, "/", &lines).await;
        assert_eq!(stayed, (None, format!("{body}_backend=mine")));
    }
    let (usual, body) = get(&mut wire, "/", "").await;
    let lines = format!("Cookie: {}\r\n{own}", pair(&usual.unwrap()));
    let (other, again) = get(&mut wire, "/", &lines).await;
    assert!(other.unwrap().starts_with("_backend-flynn=f1-"), "its own took the place of ours");
    assert_eq!(again, body);
}

#[tokio::test]
async fn all_routers_agree_also_while_their_key_is_changed() {
    let (harness, _) = with_three().await;
    let (cookie, body) = get(&mut harness.connect().await, "/", "").await;
    let mut lines = format!("Cookie: {}\r\n", pair(&cookie.unwrap()));
    for (keys, is_told_anew) in
        [(KEY.to_owned(), false), (format!("new,{KEY}"), true), ("new".to_owned(), false)]
    {
        let (router, _lifetime) =
            router_with(&harness.etcd.url(), &harness.discoverd.url, &keys).await;
        let key = keys.split(',').next().unwrap().to_owned();
        let client = Strowger::new(format!("http://{}", router.api[0]), Some(key));
        client.sync(api::route::Sync { routes: 1, services: 4, timeout_ms: 10_000 }).await.unwrap();
        let stream = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, router.http.port()));
        let mut wire = Wire(stream.await.unwrap(), Vec::new());
        for _ in 0..5 {
            let (told, again) = get(&mut wire, "/", &lines).await;
            assert_eq!((told.is_some(), &again), (is_told_anew, &body), "{keys}");
            if let Some(told) = told.filter(|_| keys.contains(',')) {
                lines = format!("Cookie: {}\r\n", pair(&told));
                break;
            }
        }
    }
}

#[tokio::test]
async fn over_https_and_http_2_the_cookie_is_secure_and_of_its_path() {
    let (harness, _) = with_three().await;
    harness.client.create_route(&sticky("a.example", "/shop")).await.unwrap();
    let https = (Ipv4Addr::LOCALHOST, harness.router.https.port()).into();
    let browser = reqwest::Client::builder()
        .tls_danger_accept_invalid_certs(true)
        .resolve("a.example", https)
        .build()
        .unwrap();
    let url = format!("https://a.example:{}/shop/x", https.port());
    let answer = browser.get(&url).send().await.unwrap();
    assert_eq!(answer.version(), reqwest::Version::HTTP_2);
    let cookie = answer.headers()["set-cookie"].to_str().unwrap().to_owned();
    assert!(cookie.ends_with("; Path=/shop; HttpOnly; SameSite=Lax; Secure"), "{cookie}");
    let body = answer.text().await.unwrap();
    for _ in 0..10 {
        let request = browser.get(&url).header("cookie", "a=b").header("cookie", pair(&cookie));
        let answer = request.send().await.unwrap();
        assert!(!answer.headers().contains_key("set-cookie"));
        assert_eq!(answer.text().await.unwrap(), format!("{body}a=b"));
    }
}

#[tokio::test]
async fn what_switches_protocols_stays_too() {
    let harness = Harness::start().await;
    for name in ["one", "two", "three"] {
        let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: shout";
        let backend = scripted(move |_, mut wire: Wire| async move {
            let head = wire.head().await;
            wire.send(&format!("{switch}\r\nX-Name: {name}\r\n\r\n")).await;
            assert!(!head.contains("_backend"), "{head}");
            wire.until_end().await;
        });
        harness.up("app", backend.await).await;
    }
    harness.client.create_route(&sticky("a.example", "")).await.unwrap();
    let switched = async |cookie: &str| {
        let mut wire = harness.connect().await;
        let switch = "Connection: Upgrade\r\nUpgrade: shout";
        wire.send(&format!("GET / HTTP/1.1\r\nHost: a.example\r\n{switch}\r\n{cookie}\r\n")).await;
        let head = wire.head().await.to_ascii_lowercase();
        let line = |name| head.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        (line("set-cookie: "), line("x-name: "), wire)
    };
    let (cookie, name, _open) = switched("").await;
    let cookie = format!("Cookie: {}\r\n", pair(&cookie.unwrap()));
    for _ in 0..10 {
        let (again, there, _open) = switched(&cookie).await;
        assert_eq!((again, &there), (None, &name));
    }
}

#[tokio::test]
async fn a_tcp_route_keeps_nobody() {
    let harness = Harness::start().await;
    let mut route = crate::harness::tcp_route(0, "app");
    route.route.sticky = Some(true);
    let err = harness.client.create_route(&route).await.unwrap_err();
    assert!(err.to_string().contains("sticky"), "{err}");
}
