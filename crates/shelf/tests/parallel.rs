//! Many at once: what they cannot take from each other, and what they cannot have together.
#![expect(clippy::unwrap_used, reason = "helpers of tests too")]

use std::{fs, io, path::Path, time::Duration};

use bytes::Bytes;
use daemon::Lifetime;
use futures_util::{Stream, future::join_all, stream};
use shelf::Config;
use shelf_client::Shelf;
use tempfile::TempDir;
use tokio::sync::mpsc;

async fn start(dir: &Path, folder_len_max: u64) -> Shelf {
    let config = Config {
        listen: ([127, 0, 0, 1], 0).into(),
        key: "secret".into(),
        data_dir: dir.into(),
        disk_reserve: 0,
        folder_len_max,
    };
    let running = shelf::start(config, &Lifetime::default()).await.unwrap();
    Shelf::new(format!("http://{}", running.addr).as_str(), "secret")
}

/// A body that ends when its sender goes.
fn body()
-> (mpsc::Sender<io::Result<Bytes>>, impl Stream<Item = io::Result<Bytes>> + Send + 'static) {
    let (pieces, queue) = mpsc::channel(1);
    (pieces, stream::unfold(queue, async |mut queue| Some((queue.recv().await?, queue))))
}

/// Waits until `count` uploads are under way.
async fn under_way(dir: &Path, count: usize) {
    let waiting = async {
        while fs::read_dir(dir.join("tmp")).unwrap().count() != count {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("all are under way");
}

#[test]
fn uploads_that_take_long_keep_no_one_from_reading() {
    const UPLOADS: usize = 12;
    // As many as there would be of 512 threads.
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.max_blocking_threads(4).enable_all().build().unwrap();
    runtime.block_on(async {
        let dir = TempDir::new().unwrap();
        let shelf = start(dir.path(), u64::MAX).await;
        shelf.put_bytes("/a", "hello").await.unwrap();
        let (senders, bodies): (Vec<_>, Vec<_>) = (0..UPLOADS).map(|_| body()).unzip();
        let reading = async {
            for sender in &senders {
                sender.send(Ok("half".into())).await.unwrap();
            }
            under_way(dir.path(), UPLOADS).await;
            let read = tokio::time::timeout(Duration::from_secs(5), shelf.get_bytes("/a", 5));
            assert_eq!(read.await.expect("reading waits").unwrap(), "hello");
            drop(senders);
        };
        let paths: Vec<String> = (0..UPLOADS).map(|n| format!("/slow/{n}")).collect();
        let puts = paths.iter().zip(bodies).map(|(path, body)| shelf.put_stream(path, body));
        let (puts, ()) = tokio::join!(join_all(puts), reading);
        assert!(puts.into_iter().all(|put| put.is_ok()));
    });
}

#[tokio::test]
async fn uploads_and_copies_have_the_room_of_a_folder_together() {
    let dir = TempDir::new().unwrap();
    let shelf = start(dir.path(), 1 << 20).await;
    let piece = Bytes::from(vec![b'x'; 600 << 10]);
    let ((one, one_body), (two, two_body)) = (body(), body());
    let sending = async {
        for sender in [one, two] {
            sender.send(Ok(piece.slice(..10))).await.unwrap();
            sender.send(Ok(piece.clone())).await.unwrap();
        }
    };
    let puts = (
        shelf.put_stream("/repos/a/1.pack", one_body),
        shelf.put_stream("/repos/a/2.pack", two_body),
    );
    let begun = async {
        under_way(dir.path(), 2).await;
        sending.await;
    };
    let (one, two, ()) = tokio::join!(puts.0, puts.1, begun);
    assert_eq!([&one, &two].into_iter().filter(|put| put.is_ok()).count(), 1, "{one:?} {two:?}");
    shelf.put_bytes("/repos/b/1.pack", piece).await.unwrap();
    let full = shelf.copy("/repos/b/1.pack", "/repos/a/3.pack").await.unwrap_err();
    assert!(full.to_string().contains("/repos/a/"), "{full}");
    shelf.copy("/repos/b/1.pack", "/repos/b/1.pack").await.unwrap();
    assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
}
