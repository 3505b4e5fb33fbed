//! Everything the README promises, over HTTP, through the client.
#![expect(clippy::unwrap_used, reason = "helpers of tests too")]

use std::{fs, io, time::Duration};

use bytes::Bytes;
use daemon::Lifetime;
use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::{Client, Method, StatusCode};
use shelf::{Config, StartError};
use shelf_client::Shelf;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};

/// SHA-256 of "hello".
const HELLO: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

struct Running {
    lifetime: Lifetime,
    base: String,
    shelf: Shelf,
    dir: TempDir,
}

fn config(dir: &TempDir) -> Config {
    Config {
        listen: ([127, 0, 0, 1], 0).into(),
        key: "secret".into(),
        data_dir: dir.path().into(),
        disk_reserve: 0,
        folder_len_max: u64::MAX,
    }
}

async fn start_in(dir: TempDir, disk_reserve: u64) -> Running {
    start_with(dir, disk_reserve, u64::MAX).await
}

async fn start_with(dir: TempDir, disk_reserve: u64, folder_len_max: u64) -> Running {
    let lifetime = Lifetime::default();
    let config = Config { disk_reserve, folder_len_max, ..config(&dir) };
    let base = format!("http://{}", shelf::start(config, &lifetime).await.unwrap().addr);
    Running { lifetime, shelf: Shelf::new(base.as_str(), "secret"), base, dir }
}

async fn start() -> Running {
    start_in(TempDir::new().unwrap(), 0).await
}

impl Running {
    async fn restart(self) -> Self {
        self.lifetime.drain(Duration::from_secs(5)).await.unwrap();
        start_in(self.dir, 0).await
    }

    fn url(&self, method: &str, path: &str, limit: u64) -> String {
        self.shelf.signed_url(&self.base, method, path, limit, Duration::from_secs(60))
    }

    /// Files in `tmp`: uploads under way.
    fn unfinished(&self) -> usize {
        fs::read_dir(self.dir.path().join("tmp")).unwrap().count()
    }

    async fn paths(&self, prefix: &str) -> Vec<String> {
        self.shelf.list(prefix).await.unwrap().into_iter().map(|blob| blob.path).collect()
    }
}

#[expect(clippy::disallowed_methods, reason = "a plain client, as those with a signed URL use")]
fn http() -> Client {
    Client::new()
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting).await.expect(what);
}

#[tokio::test]
async fn what_is_put_can_be_had_listed_copied_and_deleted_and_outlives_a_restart() {
    let running = start().await;
    assert_eq!(running.shelf.put_bytes("/a/b.tgz", "hello").await.unwrap(), HELLO);
    assert_eq!(running.shelf.copy("/a/b.tgz", "/slugs/x.tgz").await.unwrap(), HELLO);
    assert_eq!(running.shelf.copy("/a/b.tgz", "/slugs/x.tgz").await.unwrap(), HELLO);
    assert_eq!(running.shelf.copy("/a/b.tgz", "/a/b.tgz").await.unwrap(), HELLO);
    assert_eq!(running.unfinished(), 0);
    running.shelf.put_bytes("/a", "").await.unwrap();
    let running = running.restart().await;
    assert_eq!(running.shelf.head("/a/b.tgz").await.unwrap(), Some((5, HELLO.into())));
    assert_eq!(running.shelf.head("/a").await.unwrap().unwrap().0, 0);
    assert_eq!(running.shelf.head("/c").await.unwrap(), None);
    assert_eq!(running.shelf.get_bytes("/slugs/x.tgz", 5).await.unwrap(), "hello");
    assert!(running.shelf.get_bytes("/slugs/x.tgz", 4).await.is_err());
    assert!(running.shelf.get("/nothing").await.unwrap_err().is_not_found());
    assert!(running.shelf.copy("/nothing", "/else").await.unwrap_err().is_not_found());
    assert_eq!(running.paths("").await.len(), 3);
    assert_eq!(running.paths("/a/").await, ["/a/b.tgz"]);
    assert_eq!(running.paths("/slugs/x").await, ["/slugs/x.tgz"]);
    assert!(running.paths("/../etc/").await.is_empty());
    running.shelf.delete_all("/a").await.unwrap();
    running.shelf.delete("/a/b.tgz").await.unwrap();
    assert_eq!(running.paths("").await, ["/slugs/x.tgz"]);
    assert!(!running.dir.path().join("blobs/a").exists(), "empty directories stay behind");
}

#[tokio::test]
async fn what_was_copied_after_a_listing_outlives_the_deletion_of_what_was_listed() {
    let running = start().await;
    for path in ["/a", "/b"] {
        running.shelf.put_bytes(path, "hello").await.unwrap();
    }
    let listed = running.shelf.list("/b").await.unwrap().remove(0);
    running.shelf.copy("/a", "/b").await.unwrap();
    running.shelf.delete_listed(&listed).await.unwrap();
    assert_eq!(running.shelf.get_bytes("/b", 5).await.unwrap(), "hello");
    let listed = running.shelf.list("/b").await.unwrap().remove(0);
    running.shelf.delete_listed(&listed).await.unwrap();
    assert_eq!(running.shelf.head("/b").await.unwrap(), None);
}

#[tokio::test]
async fn odd_things_in_the_data_directory_keep_nobody_waiting() {
    let running = start().await;
    fs::remove_dir_all(running.dir.path().join("tmp")).unwrap();
    running.shelf.put_bytes("/a", "hello").await.unwrap();
    fs::remove_dir_all(running.dir.path().join("tmp")).unwrap();
    running.shelf.copy("/a", "/b").await.unwrap();
    let pipe = running.dir.path().join("blobs/a%");
    fs::remove_file(&pipe).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    assert_eq!(running.paths("").await, ["/b"]);
    running.shelf.get("/a").await.unwrap_err();
}

#[tokio::test]
async fn files_and_streams_are_stored_whole() {
    let running = start().await;
    let file = running.dir.path().join("big");
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    fs::write(&file, &content).unwrap();
    let of_file = running.shelf.put_file("/file", &file).await.unwrap();
    let chunks: Vec<_> = content.chunks(1000).map(Bytes::copy_from_slice).map(Ok).collect();
    let of_stream = running.shelf.put_stream("/stream", stream::iter(chunks)).await.unwrap();
    assert_eq!(of_file, of_stream);
    let chunks = running.shelf.get("/file").await.unwrap().into_stream();
    assert_eq!(chunks.try_collect::<Vec<_>>().await.unwrap().concat(), content);
    let tail = running.shelf.get_from("/file", 2_999_000).await.unwrap().into_stream();
    assert_eq!(tail.try_collect::<Vec<_>>().await.unwrap().concat(), content[2_999_000..]);
}

#[tokio::test]
async fn ranges_and_tags_are_answered_as_http_says() {
    let running = start().await;
    running.shelf.put_bytes("/a", "hello").await.unwrap();
    let get = |name: &'static str, value: String| {
        let request = http().get(format!("{}/a", running.base)).basic_auth("", Some("secret"));
        async move { request.header(name, value).send().await.unwrap() }
    };
    let part = get("range", "bytes=1-3".into()).await;
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.headers()["content-range"], "bytes 1-3/5");
    assert_eq!(part.text().await.unwrap(), "ell");
    let beyond = get("range", "bytes=5-".into()).await;
    assert_eq!(beyond.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(beyond.headers()["content-range"], "bytes */5");
    let head = http().head(format!("{}/a", running.base)).basic_auth("", Some("secret"));
    let head = head.header("range", "bytes=1-3").send().await.unwrap();
    assert_eq!(
        (head.status(), &head.headers()["content-length"]),
        (StatusCode::OK, &"5".parse().unwrap())
    );
    let put = http().put(format!("{}/a", running.base)).basic_auth("", Some("secret"));
    let put = put.header("content-range", "bytes 1-3/5").body("xxx").send().await.unwrap();
    assert_eq!(put.status(), StatusCode::BAD_REQUEST);
    assert_eq!(running.shelf.get_bytes("/a", 5).await.unwrap(), "hello");
    let known = get("if-none-match", format!("\"{HELLO}\"")).await;
    assert_eq!(known.status(), StatusCode::NOT_MODIFIED);
    assert_eq!(known.headers()["etag"], format!("\"{HELLO}\""));
}

#[tokio::test]
async fn without_a_key_nothing_is_said() {
    let running = start().await;
    for method in [Method::GET, Method::PUT, Method::DELETE] {
        for (path, key) in [("/a", ""), ("/", ""), ("/a", "wrong"), ("/a?sig=00", "")] {
            let url = format!("{}{path}", running.base);
            let request = http().request(method.clone(), url).basic_auth("", Some(key)).body("x");
            let status = request.send().await.unwrap().status();
            let no_such = path == "/" && method != Method::GET;
            assert!(status == StatusCode::UNAUTHORIZED || no_such, "{method} {path}: {status}");
        }
    }
    let ping = http().get(format!("{}/ping", running.base)).send().await.unwrap();
    assert_eq!(ping.status(), StatusCode::OK);
}

#[tokio::test]
async fn paths_that_lead_out_are_refused_as_they_stand() {
    let running = start().await;
    fs::write(running.dir.path().join("outside%"), "x").unwrap();
    for path in ["/../outside", "/%2e%2e/outside", "/a/..%2foutside", "/.hidden", "/a//b", "//etc"]
    {
        let addr = running.base.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let head = format!(
            "DELETE {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400"), "{path}: {answer}");
        assert!(answer.contains("validation_error"), "{path}: {answer}");
    }
    assert!(running.dir.path().join("outside%").exists());
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_what_was_there_and_nothing_else() {
    let running = start().await;
    running.shelf.put_bytes("/a", "old").await.unwrap();
    let addr = running.base.strip_prefix("http://").unwrap();
    for framing in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let head = format!(
            "PUT /a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\n{framing}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(b"5\r\nhello\r\n").await.unwrap();
        until("the upload is under way", || running.unfinished() == 1).await;
        drop(stream);
        until("the upload is forgotten", || running.unfinished() == 0).await;
    }
    assert_eq!(running.shelf.get_bytes("/a", 100).await.unwrap(), "old");
    assert_eq!(running.paths("").await, ["/a"]);
    let broken = stream::iter([Ok(Bytes::from("new")), Err(io::Error::other("gone"))]);
    assert!(running.shelf.put_stream("/a", broken).await.is_err());
    assert_eq!(running.shelf.get_bytes("/a", 100).await.unwrap(), "old");
}

#[tokio::test]
async fn of_two_uploads_to_one_path_each_is_whole_and_the_one_that_ended_last_stays() {
    let running = start().await;
    let upload = || {
        let (pieces, queue) = mpsc::channel::<io::Result<Bytes>>(1);
        (pieces, stream::unfold(queue, async |mut queue| Some((queue.recv().await?, queue))))
    };
    let ((late, late_body), (early, early_body)) = (upload(), upload());
    let order = async {
        for (pieces, piece) in [(&late, "la"), (&early, "ear"), (&late, "te"), (&early, "ly")] {
            pieces.send(Ok(piece.into())).await.unwrap();
        }
        until("both are under way", || running.unfinished() == 2).await;
        drop(early);
        until("one has ended", || running.unfinished() == 1).await;
        assert_eq!(running.shelf.get_bytes("/a", 100).await.unwrap(), "early");
        drop(late);
    };
    let shelf = &running.shelf;
    let puts = (shelf.put_stream("/a", late_body), shelf.put_stream("/a", early_body));
    let (late, early, ()) = tokio::join!(puts.0, puts.1, order);
    assert_ne!(late.unwrap(), early.unwrap());
    assert_eq!(running.shelf.get_bytes("/a", 100).await.unwrap(), "late");
}

#[tokio::test]
async fn a_copy_is_of_one_blob_whatever_takes_its_place_meanwhile() {
    let running = start().await;
    let shelf = &running.shelf;
    shelf.put_bytes("/from", "first").await.unwrap();
    let puts = stream::iter(0..600).map(|n| shelf.put_bytes("/from", format!("{n}")));
    let puts = puts.buffer_unordered(4).try_collect::<Vec<_>>();
    let copies = stream::iter(0..600).map(async |n| {
        let to = format!("/to/{n}");
        let told = shelf.copy("/from", &to).await.unwrap();
        assert_eq!(shelf.head(&to).await.unwrap().unwrap().1, told);
    });
    let (put, _) = tokio::join!(puts, copies.buffer_unordered(4).collect::<Vec<()>>());
    put.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_second_shelf_takes_the_directory_only_when_the_first_has_ended() {
    let running = start().await;
    fs::write(running.dir.path().join("tmp/under-way"), "half").unwrap();
    let second = Lifetime::default();
    let refused = shelf::start(config(&running.dir), &second).await.unwrap_err();
    assert!(matches!(refused, StartError::Used { .. }), "{refused}");
    assert_eq!(running.unfinished(), 1, "what is uploaded to the first stays");
    let Running { lifetime, dir, .. } = running;
    let (first, started) =
        tokio::join!(lifetime.drain(Duration::from_secs(5)), shelf::start(config(&dir), &second));
    first.unwrap();
    started.unwrap();
    assert!(!dir.path().join("tmp/under-way").exists(), "the second has it for itself");
    second.end();
}

#[tokio::test]
async fn what_a_killed_shelf_left_unfinished_is_removed_at_its_next_start() {
    let running = start().await;
    fs::write(running.dir.path().join("tmp/left"), "half").unwrap();
    fs::write(running.dir.path().join("blobs/torn%"), "no trailer").unwrap();
    let running = running.restart().await;
    assert_eq!(running.unfinished(), 0);
    assert!(running.paths("").await.is_empty());
    let torn = running.shelf.get("/torn").await.unwrap_err();
    assert!(torn.to_string().contains("damaged"), "{torn}");
}

#[tokio::test]
async fn a_signed_url_does_one_thing_once() {
    let running = start().await;
    let url = running.url("PUT", "/builds/1/slug.tgz", 5);
    let put = |url: &str, body: &'static str| http().put(url).body(body).send();
    let too_large = put(&url, "hello!").await.unwrap();
    assert_eq!(too_large.status(), StatusCode::BAD_REQUEST);
    assert!(too_large.text().await.unwrap().contains("5 bytes"));
    let elsewhere = url.replace("/builds/1/", "/builds/2/");
    assert_eq!(put(&elsewhere, "hello").await.unwrap().status(), StatusCode::UNAUTHORIZED);
    let larger = url.replace("limit=5", "limit=50");
    assert_eq!(put(&larger, "hello").await.unwrap().status(), StatusCode::UNAUTHORIZED);
    assert_eq!(http().get(&url).send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    let copying = http().put(&url).header("Blobstore-Copy-From", "/secret").send().await.unwrap();
    assert_eq!(copying.status(), StatusCode::UNAUTHORIZED);
    // None of that spent it; this does.
    let stored = put(&url, "hello").await.unwrap();
    assert_eq!(stored.status(), StatusCode::OK);
    assert_eq!(stored.headers()["etag"], format!("\"{HELLO}\""));
    assert_eq!(put(&url, "evil!").await.unwrap().status(), StatusCode::UNAUTHORIZED);
    let get = running.url("GET", "/builds/1/slug.tgz", 0);
    assert_eq!(http().get(&get).send().await.unwrap().text().await.unwrap(), "hello");
    // Its end may not have arrived.
    assert_eq!(http().get(&get).send().await.unwrap().text().await.unwrap(), "hello");
    let cache = running.url("GET", "/cache/none.tgz", 0);
    assert_eq!(http().get(&cache).send().await.unwrap().status(), StatusCode::NOT_FOUND);
    let late = running.shelf.signed_url(&running.base, "GET", "/a", 0, Duration::ZERO);
    let late = http().get(&late).send().await.unwrap();
    assert!(late.text().await.unwrap().contains("expired"));
    let stranger = Shelf::new(running.base.as_str(), "other");
    let forged = stranger.signed_url(&running.base, "GET", "/a", 0, Duration::from_secs(60));
    assert_eq!(http().get(&forged).send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_full_disk_refuses_what_is_new_and_still_deletes() {
    let running = start().await;
    running.shelf.put_bytes("/a", "hello").await.unwrap();
    running.lifetime.drain(Duration::from_secs(5)).await.unwrap();
    let full = start_in(running.dir, u64::MAX).await;
    let refused = full.shelf.put_bytes("/b", "hello").await.unwrap_err().to_string();
    assert!(refused.contains("disk is full"), "{refused}");
    assert_eq!(full.shelf.get_bytes("/a", 5).await.unwrap(), "hello");
    full.shelf.delete("/a").await.unwrap();
    assert!(full.paths("").await.is_empty());
}

#[tokio::test]
async fn many_at_once_never_mix() {
    let running = start().await;
    let puts = stream::iter(0..200_u32).map(|n| {
        let shelf = running.shelf.clone();
        async move {
            let path = format!("/d{}/e{}/same", n % 5, n % 3);
            shelf.put_bytes(&path, format!("{n:04}").repeat(5000)).await.unwrap();
            let got = shelf.get_bytes(&path, 20_000).await;
            if n % 2 == 0 {
                shelf.delete(&path).await.unwrap();
            }
            if let Ok(got) = got {
                assert!(got.chunks(4).all(|four| four == &got[..4]), "two uploads mixed");
            }
        }
    });
    puts.buffer_unordered(16).collect::<Vec<()>>().await;
    assert_eq!(running.unfinished(), 0);
}

#[tokio::test]
async fn a_flipped_bit_is_served_to_nobody_as_the_blob() {
    let running = start().await;
    running.shelf.put_bytes("/flip", "hello").await.unwrap();
    let mut files = fs::read_dir(running.dir.path().join("blobs")).unwrap();
    let file = files.next().unwrap().unwrap().path();
    let mut bytes = fs::read(&file).unwrap();
    bytes[0] ^= 1;
    fs::write(&file, bytes).unwrap();
    let read = running.shelf.get_bytes("/flip", 100).await;
    assert!(read.is_err(), "{read:?}");
}

#[tokio::test]
async fn a_listed_blob_that_was_stored_again_is_not_deleted() {
    let running = start().await;
    running.shelf.put_bytes("/slugs/a", "hello").await.unwrap();
    let listed = running.shelf.list("/slugs/").await.unwrap();
    running.shelf.put_bytes("/slugs/a", "again").await.unwrap();
    running.shelf.delete_listed(&listed[0]).await.unwrap();
    assert_eq!(running.paths("/slugs/").await, ["/slugs/a"]);
    let listed = running.shelf.list("/slugs/").await.unwrap();
    running.shelf.delete_listed(&listed[0]).await.unwrap();
    assert!(running.paths("/slugs/").await.is_empty());
}

#[tokio::test]
async fn while_keys_change_clients_use_the_first_and_shelf_takes_all() {
    let dir = TempDir::new().unwrap();
    let lifetime = Lifetime::default();
    let config = Config {
        listen: ([127, 0, 0, 1], 0).into(),
        key: "new,old".into(),
        data_dir: dir.path().into(),
        disk_reserve: 0,
        folder_len_max: u64::MAX,
    };
    let base = format!("http://{}", shelf::start(config, &lifetime).await.unwrap().addr);
    for key in ["new", "old", "new,old"] {
        let shelf = Shelf::new(base.as_str(), key);
        shelf.put_bytes("/a", "hello").await.expect(key);
        let url = shelf.signed_url(&base, "GET", "/a", 0, Duration::from_secs(60));
        assert_eq!(http().get(url).send().await.unwrap().status(), StatusCode::OK, "{key}");
    }
}

#[tokio::test]
async fn a_shelf_whose_directory_is_not_the_one_it_opened_says_so() {
    let running = start().await;
    let status = async || {
        let answer = http().get(format!("{}/.well-known/status", running.base)).send().await;
        answer.unwrap().status()
    };
    assert_eq!(status().await, StatusCode::OK);
    // What is found out is good for a second, so another shelf is asked what has changed.
    let other = start().await;
    fs::rename(other.dir.path().join("lock"), other.dir.path().join("elsewhere")).unwrap();
    fs::write(other.dir.path().join("lock"), "").unwrap();
    let answer = http().get(format!("{}/.well-known/status", other.base)).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test]
async fn the_folder_of_one_app_has_an_end_and_the_others_go_on() {
    let running = start_with(TempDir::new().unwrap(), 0, 1 << 20).await;
    let piece = |n: usize| Bytes::from(vec![b'x'; n]);
    let shelf = &running.shelf;
    shelf.put_bytes("/repos/a/1.pack", piece(600 << 10)).await.unwrap();
    shelf.put_bytes("/repos/a/2.pack", piece(300 << 10)).await.unwrap();
    let full = shelf.put_bytes("/repos/a/3.pack", piece(200 << 10)).await.unwrap_err();
    assert!(full.to_string().contains("/repos/a/"), "{full}");
    shelf
        .put_bytes("/repos/a/1.pack", piece(700 << 10))
        .await
        .expect("it takes the place of another");
    for other in ["/repos/b/3.pack", "/slugs/3.tgz"] {
        shelf.put_bytes(other, piece(200 << 10)).await.unwrap();
    }
    shelf.delete("/repos/a/1.pack").await.unwrap();
    shelf.put_bytes("/repos/a/3.pack", piece(200 << 10)).await.unwrap();
}
