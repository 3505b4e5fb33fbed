//! Uploads to stores that are slow, away, full, or lose their answer.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use slugbuilder::{
    BuildError,
    pack::{Packed, list, pack_to_disk},
    transfer::Store,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Nothing moves for this long: dead.
const STALL: Duration = Duration::from_millis(400);
/// How a store answers a request that was read to its end.
const STORED: &str = "200 OK\r\ncontent-length: 0\r\n\r\n";

/// An archive that does not fit into the buffers of a connection.
async fn archive(bytes: usize) -> Arc<Packed> {
    let (root, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // It must not become smaller by packing.
    let mut state = 1u64;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    });
    fs::write(root.path().join("noise"), noise.take(bytes).collect::<Vec<_>>()).unwrap();
    let items = list(root.path(), |_, _| false).unwrap();
    let packed = pack_to_disk(root.path(), &items, Some(1), scratch.path(), u64::MAX).await;
    Arc::new(packed.unwrap().unwrap())
}

/// Reads one PUT as slowly as `pace` says after each piece; how many bytes its body had.
async fn read_put(connection: &mut TcpStream, pace: Duration) -> u64 {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        if connection.read(&mut byte).await.unwrap() == 0 {
            return 0;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let length = head.split("content-length: ").nth(1).unwrap().lines().next().unwrap();
    let length: u64 = length.parse().unwrap();
    let (mut read, mut piece) = (0, vec![0; 128 << 10]);
    let mut pace = tokio::time::interval(pace.max(Duration::from_nanos(1)));
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while read < length {
        match connection.read(&mut piece).await {
            Ok(0) | Err(_) => break,
            Ok(some) => read += some as u64,
        }
        pace.tick().await;
    }
    read
}

fn store() -> Store {
    Store::with_times(Duration::from_millis(10), STALL)
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/slug", listener.local_addr().unwrap());
    (listener, url)
}

#[tokio::test]
async fn an_upload_may_take_longer_than_any_silence_while_bytes_flow() {
    let (listener, url) = listen().await;
    let packed = archive(12 << 20).await;
    let slow = async {
        let (mut connection, _) = listener.accept().await.unwrap();
        let read = read_put(&mut connection, Duration::from_millis(20)).await;
        connection.write_all(format!("HTTP/1.1 {STORED}").as_bytes()).await.unwrap();
        read
    };
    let begun = Instant::now();
    let (put, read) = tokio::join!(async { store().put("slug", &url, &packed).await }, slow);
    put.unwrap();
    assert_eq!(read, packed.is.size);
    assert!(begun.elapsed() > 2 * STALL, "it was too fast to show anything");
}

#[tokio::test]
async fn an_upload_on_which_nothing_moves_is_given_up_and_tried_again() {
    let (listener, url) = listen().await;
    let packed = archive(12 << 20).await;
    let second_reads = async {
        // The first one is taken and never read.
        let silent = listener.accept().await.unwrap();
        let (mut connection, _) = listener.accept().await.unwrap();
        let read = read_put(&mut connection, Duration::ZERO).await;
        connection.write_all(format!("HTTP/1.1 {STORED}").as_bytes()).await.unwrap();
        drop(silent);
        read
    };
    let (put, read) =
        tokio::join!(async { store().put("slug", &url, &packed).await }, second_reads);
    put.unwrap();
    assert_eq!(read, packed.is.size, "the second try is not of the whole archive");
}

#[tokio::test]
async fn of_a_refusal_that_does_not_end_the_beginning_is_read() {
    let (listener, url) = listen().await;
    let packed = archive(1000).await;
    let endless = async {
        let (mut connection, _) = listener.accept().await.unwrap();
        read_put(&mut connection, Duration::ZERO).await;
        let head = "HTTP/1.1 403 Forbidden\r\nconnection: close\r\n\r\n";
        connection.write_all(head.as_bytes()).await.unwrap();
        while connection.write_all(&[b'x'; 1000]).await.is_ok() {}
    };
    let (put, ()) = tokio::join!(async { store().put("slug", &url, &packed).await }, endless);
    let err = put.unwrap_err();
    let is_cut = |body: &str| body == "x".repeat(500);
    assert!(
        matches!(&err, BuildError::Status { status: 403, body, .. } if is_cut(body)),
        "{err:?}"
    );
}

/// Answers each request with the next of the answers, the last one again and again; how many there were.
async fn answering(listener: TcpListener, answers: &[&str], seen: &AtomicUsize) {
    loop {
        let (mut connection, _) = listener.accept().await.unwrap();
        read_put(&mut connection, Duration::ZERO).await;
        let answer = answers[seen.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1)];
        if !answer.is_empty() {
            let _ = connection.write_all(format!("HTTP/1.1 {answer}").as_bytes()).await;
        }
    }
}

async fn put_to(answers: &[&str]) -> (Result<(), BuildError>, usize) {
    let (listener, url) = listen().await;
    let packed = archive(1000).await;
    let (store, seen) = (store(), AtomicUsize::new(0));
    let put = tokio::select! {
        put = store.put("slug", &url, &packed) => put,
        () = answering(listener, answers, &seen) => unreachable!("it answers for ever"),
    };
    (put, seen.into_inner())
}

const AWAY: &str = "503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
const SPENT: &str = "401 Unauthorized\r\nconnection: close\r\ncontent-length: 4\r\n\r\nused";

#[tokio::test]
async fn a_store_that_is_started_anew_is_waited_for() {
    let (put, tries) = put_to(&[AWAY, "", AWAY, STORED]).await;
    put.unwrap();
    assert_eq!(tries, 4);
    // Nobody listens at all at first.
    let (listener, url) = listen().await;
    drop(listener);
    let packed = archive(1000).await;
    let store = store();
    let refused = store.put("slug", &url, &packed).await.unwrap_err();
    assert!(matches!(refused, BuildError::Transfer { .. }), "{refused:?}");
}

#[tokio::test]
async fn what_does_not_pass_is_said_at_once_and_the_rest_after_some_tries() {
    let full = "503 Service Unavailable\r\nconnection: close\r\ncontent-length: 69\r\n\r\n\
                {\"code\":\"service_unavailable\",\"message\":\"the disk is full\",\"retry\":false}";
    let full = full.replace("69", &full.split("\r\n\r\n").nth(1).unwrap().len().to_string());
    let (put, tries) = put_to(&[&full]).await;
    assert!(put.unwrap_err().report().contains("the disk is full"));
    assert_eq!(tries, 1);
    let (put, tries) = put_to(&[SPENT]).await;
    assert!(put.unwrap_err().report().contains("401"));
    assert_eq!(tries, 1);
    let (put, tries) = put_to(&[AWAY]).await;
    assert!(put.unwrap_err().report().contains("503"));
    assert!((2..=20).contains(&tries), "{tries}");
}

#[tokio::test]
async fn an_upload_whose_answer_was_lost_is_stored() {
    let (put, tries) = put_to(&["", SPENT]).await;
    put.unwrap();
    assert_eq!(tries, 2);
}
