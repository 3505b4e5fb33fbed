//! The static server, over HTTP.

#![expect(clippy::unwrap_used, reason = "a test may fail that way")]

use std::future::IntoFuture;

use reqwest::{Client, StatusCode, header, redirect::Policy};

struct Site {
    base: String,
    http: Client,
    _dir: tempfile::TempDir,
}

async fn site() -> Site {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("public");
    std::fs::create_dir_all(root.join("docs")).unwrap();
    for (name, text) in [
        ("public/index.html", "<h1>home</h1>"),
        ("public/docs/index.html", "docs"),
        ("public/a b.css", "0123456789"),
        ("public/.env", "SECRET=1"),
        ("secret", "secret"),
    ] {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    std::os::unix::fs::symlink("../secret", root.join("link")).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let router = slugrunner::site::router(root.canonicalize().unwrap());
    #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
    tokio::spawn(axum::serve(listener, router).into_future());
    let http = Client::builder().redirect(Policy::none()).no_proxy().build().unwrap();
    Site { base, http, _dir: dir }
}

impl Site {
    async fn get(&self, path: &str, headers: &[(header::HeaderName, &str)]) -> reqwest::Response {
        let mut request = self.http.get(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        request.send().await.unwrap()
    }
}

#[tokio::test]
async fn pages_have_a_type_and_a_tag_and_are_not_sent_twice() {
    let site = site().await;
    let page = site.get("/", &[]).await;
    assert_eq!(page.headers()[header::CONTENT_TYPE], "text/html; charset=utf-8");
    assert_eq!(page.headers()[header::CONTENT_LENGTH], "13");
    let tag = page.headers()[header::ETAG].to_str().unwrap().to_owned();
    let modified = page.headers()[header::LAST_MODIFIED].to_str().unwrap().to_owned();
    assert_eq!(page.text().await.unwrap(), "<h1>home</h1>");
    for (name, value) in [(header::IF_NONE_MATCH, &tag), (header::IF_MODIFIED_SINCE, &modified)] {
        assert_eq!(
            site.get("/index.html", &[(name, value)]).await.status(),
            StatusCode::NOT_MODIFIED
        );
    }
}

#[tokio::test]
async fn directories_redirect_and_what_is_hidden_or_outside_is_not_found() {
    let site = site().await;
    let redirected = site.get("/docs?x=1", &[]).await;
    assert_eq!(redirected.status(), StatusCode::MOVED_PERMANENTLY);
    assert_eq!(redirected.headers()[header::LOCATION], "/docs/?x=1");
    assert_eq!(site.get("/docs/", &[]).await.text().await.unwrap(), "docs");
    for path in ["/.env", "/link", "/%2e%2e/secret", "/index.html/", "/nothing"] {
        assert_eq!(site.get(path, &[]).await.status(), StatusCode::NOT_FOUND, "{path}");
    }
    let posted = site.http.post(&site.base).send().await.unwrap();
    assert_eq!(posted.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn parts_are_sent_and_head_sends_none() {
    let site = site().await;
    let part = site.get("/a%20b.css", &[(header::RANGE, "bytes=3-5")]).await;
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.headers()[header::CONTENT_RANGE], "bytes 3-5/10");
    assert_eq!(part.text().await.unwrap(), "345");
    let outside = site.get("/a%20b.css", &[(header::RANGE, "bytes=10-")]).await;
    assert_eq!(outside.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    let head = site.http.head(format!("{}/a%20b.css", site.base)).send().await.unwrap();
    assert_eq!(head.headers()[header::CONTENT_LENGTH], "10");
    assert_eq!(head.bytes().await.unwrap().len(), 0);
}
