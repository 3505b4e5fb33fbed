//! Connections of HTTP/2 whose clients pause, go or give up.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};

use bytes::Bytes;
use futures_util::{StreamExt, future::join_all, stream};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::client::conn::http2::{Builder, handshake};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, copy_bidirectional, duplex},
    sync::mpsc,
    time::interval,
};

use super::*;
use crate::backend::{BodyError, RequestBody};

impl Resettable for DuplexStream {
    fn reset_when_closed(&self) {}

    fn end_when_closed(&self) {}
}

/// What is needed to serve a client.
fn context() -> Arc<Context> {
    let client = Client::new(IpAddr::V4(Ipv4Addr::LOCALHOST), true, HeaderValue::from(443));
    let (live, lifetime) = (Arc::default(), daemon::Lifetime::default());
    Arc::new(Context::new(live, client, None, lifetime, None))
}

/// The end of an HTTP/2 connection; a duplex has no clock but the test's.
fn serving() -> (DuplexStream, impl Future<Output = ()>) {
    let (theirs, ours) = duplex(HEAD_MAX);
    (theirs, two(ours, context()))
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_idle_for_long_is_told_of_an_end() {
    for asked in ["", "GET / HTTP/1.1\r\nHo", "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (ours, _) = listener.accept().await.unwrap();
        client.write_all(asked.as_bytes()).await.unwrap();
        ours.readable().await.unwrap();
        let closed = async {
            client.read_to_end(&mut Vec::new()).await.unwrap();
            drop(client);
        };
        timeout(10 * HEAD_TIMEOUT, async { tokio::join!(one(ours, context()), closed) })
            .await
            .unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_client_asks_for_just_after_the_stop_is_answered_and_is_the_last() {
    const ASKED: &[u8] = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";
    for asks_again in [true, false] {
        let ((mut client, ours), context) = (duplex(HEAD_MAX), context());
        let live = context.live.clone();
        let asking = async {
            let mut heads = Vec::new();
            client.write_all(ASKED).await.unwrap();
            client.read_buf(&mut heads).await.unwrap();
            live.stop();
            let begun = Instant::now();
            if asks_again {
                stand_still(STOP_DELAY / 2).await;
                client.write_all(ASKED).await.unwrap();
            }
            client.read_to_end(&mut heads).await.unwrap();
            (String::from_utf8(heads).unwrap(), begun.elapsed())
        };
        let ((heads, took), ()) = tokio::join!(asking, one(ours, context));
        let closes = heads.matches("connection: close").count();
        let answers = heads.matches("HTTP/1.1 503").count();
        assert_eq!((answers, closes), if asks_again { (2, 1) } else { (1, 0) }, "{heads}");
        assert_eq!(took, if asks_again { STOP_DELAY / 2 } else { STOP_DELAY });
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_of_http_2_that_says_nothing_is_closed() {
    let (mut client, served) = serving();
    let begun = Instant::now();
    let closed = async {
        client.read_to_end(&mut Vec::new()).await.unwrap();
        drop(client);
    };
    timeout(10 * HEAD_TIMEOUT, async { tokio::join!(served, closed) }).await.unwrap();
    assert_eq!(begun.elapsed(), HEAD_TIMEOUT + PARTING_DELAY);
}

#[tokio::test(start_paused = true)]
async fn a_client_of_http_2_that_asks_for_nothing_more_is_closed() {
    let (client, served) = serving();
    let begun = Instant::now();
    let asking = async {
        let shaken = handshake(TokioExecutor::new(), TokioIo::new(client)).await;
        let (mut send, connection) = shaken.unwrap();
        let request = Request::get("https://a.example/").body(Empty::<Bytes>::new());
        let (answer, _) = tokio::join!(send.send_request(request.unwrap()), connection);
        assert_eq!(answer.unwrap().status(), 503, "no routes are known");
    };
    timeout(10 * HEAD_TIMEOUT, async { tokio::join!(served, asking) }).await.unwrap();
    assert!(begun.elapsed() >= HEAD_TIMEOUT, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn all_that_came_of_an_answer_that_breaks_off_reaches_a_client_that_pauses() {
    const LEN: usize = 100_000;
    // The stream has no room for all of it.
    let (mut client, ours) = duplex(1000);
    let live = Live::default();
    let answer = async |_| {
        let pieces = [Ok(Bytes::from(vec![b'x'; LEN])), Err(std::io::Error::other("broken"))];
        let body = StreamBody::new(stream::iter(pieces).map(|piece| piece.map(Frame::data)));
        Ok(Response::new(body))
    };
    let reading = async {
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        stand_still(Duration::from_secs(30)).await;
        let mut all = Vec::new();
        client.read_to_end(&mut all).await.unwrap();
        all.into_iter().filter(|byte| *byte == b'x').count()
    };
    let (len, ()) = tokio::join!(reading, serve_one(ours, &live, None, answer));
    assert_eq!(len, LEN);
}

/// A body of `count` pieces of `size` bytes. `taken` counts the pieces that were read of it.
fn pieces(
    count: usize,
    size: usize,
    taken: &Arc<AtomicUsize>,
) -> impl Body<Data = Bytes, Error = Infallible> + Send + Unpin + use<> {
    let (piece, taken) = (Bytes::from(vec![b'x'; size]), taken.clone());
    StreamBody::new(stream::iter(0..count).map(move |_| {
        taken.fetch_add(1, SeqCst);
        Ok(Frame::data(piece.clone()))
    }))
}

/// Lets this time pass while everything stands still.
async fn stand_still(time: Duration) {
    timeout(time, pending::<()>()).await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn little_is_held_for_a_client_that_pauses_and_it_gets_all_of_its_answer() {
    const PIECE: usize = 16 << 10;
    const AT_ONCE: usize = 10;
    let (count, taken) = (200, Arc::new(AtomicUsize::new(0)));
    let ((client, mut near), (mut far, ours)) = (duplex(HEAD_MAX), duplex(HEAD_MAX));
    let live = Live::default();
    let answer = taken.clone();
    let served = serve_two(ours, &live, None, move |_| {
        let body = pieces(count, PIECE, &answer);
        async { Ok(Response::new(body)) }
    });
    let asking = async {
        let shaken = Builder::new(TokioExecutor::new())
            .initial_stream_window_size(1 << 24)
            .initial_connection_window_size(1 << 24)
            .handshake(TokioIo::new(client))
            .await;
        let (mut send, connection) = shaken.unwrap();
        let network = copy_bidirectional(&mut near, &mut far);
        let mut passing = pin!(async { tokio::join!(connection, network) });
        let request = || Request::get("https://a.example/").body(Empty::<Bytes>::new());
        let answers = (0..AT_ONCE).map(|_| send.send_request(request().unwrap()));
        let answers = tokio::select! {
            answers = join_all(answers) => answers,
            _ = &mut passing => panic!("the connection ended"),
        };
        stand_still(10 * HEAD_TIMEOUT).await;
        // The network holds some of it, and the client.
        let held = taken.load(SeqCst) * PIECE;
        let limit = AT_ONCE * (SEND_BUFFER + 2 * PIECE) + 4 * HEAD_MAX;
        assert!(held <= limit, "{held} bytes are held, not {limit}");
        let bodies = answers.into_iter().map(|answer| answer.unwrap().into_body().collect());
        let bodies = tokio::select! {
            bodies = join_all(bodies) => bodies,
            _ = &mut passing => panic!("the connection ended"),
        };
        for body in bodies {
            assert_eq!(body.unwrap().to_bytes().len(), count * PIECE);
        }
    };
    tokio::select! {
        () = asking => {}
        () = served => panic!("the connection ended"),
    }
}

#[tokio::test(start_paused = true)]
async fn many_small_pieces_wait_until_they_are_taken() {
    let (count, sent) = (20_000, Arc::new(AtomicUsize::new(0)));
    let (client, ours) = duplex(HEAD_MAX);
    let live = Live::default();
    let served = serve_two(ours, &live, None, |request| async {
        stand_still(Duration::from_secs(1)).await;
        let body = request.into_body().collect().await.unwrap().to_bytes();
        Ok(Response::new(body.len().to_string()))
    });
    let asking = async {
        let shaken = handshake(TokioExecutor::new(), TokioIo::new(client)).await;
        let (mut send, connection) = shaken.unwrap();
        let request = Request::post("https://a.example/").body(pieces(count, 50, &sent));
        let answer = async {
            let answer = send.send_request(request.unwrap()).await.unwrap();
            drop(send);
            answer.into_body().collect().await.unwrap().to_bytes()
        };
        let (answer, _) = tokio::join!(answer, connection);
        assert_eq!(answer, (count * 50).to_string());
    };
    tokio::join!(served, asking);
}
// RFC 9113, 6: types of frames and their flags.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// That of h2 when it says goodbye.
const LAST_PING: [u8; 8] = [0x0b, 0x7b, 0xa2, 0xf0, 0x8b, 0x9b, 0xfe, 0x54];

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    [&[0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream][..], payload].concat()
}

/// What a client says first: its settings, and the head of a POST.
fn opening(settings: &[u8], flags: u8) -> Vec<u8> {
    let head = b"\x83\x87\x84\x41\x09a.example";
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let settings = frame(SETTINGS, 0, 0, settings);
    [preface, settings, frame(HEADERS, END_HEADERS | flags, 1, head)].concat()
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_its_client_gives_up_is_not_taken_for_whole() {
    let data = |flags, data: &[u8]| frame(DATA, flags, 1, data);
    let trailers = frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x00\x05x-sum\x011");
    for (flags, frames, whole) in [
        (0, [data(0, b"part"), frame(RST_STREAM, 0, 1, &[0; 4])], None),
        (0, [data(0, b"part"), frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])], None),
        (0, [data(0, b"wh"), data(END_STREAM, b"ole")], Some("whole")),
        (0, [data(0, b"whole"), data(END_STREAM, b"")], Some("whole")),
        (0, [data(0, b"whole"), trailers], Some("whole")),
        (END_STREAM, [vec![], vec![]], Some("")),
    ] {
        let (mut client, ours) = duplex(HEAD_MAX);
        let (live, (tell, mut told)) = (Live::default(), mpsc::channel(1));
        let served = serve_two(ours, &live, None, |request| {
            let (parts, body) = request.into_parts();
            let (body, tell) = (RequestBody::new(body, parts.version), tell.clone());
            async move {
                let body = body.collect().await.map(|body| body.to_bytes());
                tell.send(body).await.unwrap();
                Ok(Response::new(Empty::<Bytes>::new()))
            }
        });
        client.write_all(&[opening(&[], flags), frames.concat()].concat()).await.unwrap();
        let body = tokio::select! {
            body = told.recv() => body.unwrap(),
            () = served => panic!("the connection ended"),
        };
        assert_eq!(body.ok().as_deref(), whole.map(str::as_bytes));
    }
}

#[tokio::test]
async fn a_client_that_is_slow_gets_all_of_its_answer_when_the_daemon_stops() {
    const LEN: usize = 400_000;
    let (socket, listener) = (TcpSocket::new_v4().unwrap(), Listener::bind(0).unwrap());
    socket.set_recv_buffer_size(4 << 10).unwrap();
    let connected = socket.connect((Ipv4Addr::LOCALHOST, listener.addr().port()).into());
    let (client, (ours, _)) = tokio::join!(connected, listener.accept());
    let (mut client, line, live) = (client.unwrap(), Line::of(&ours), Live::default());
    let served = serve_two(ours, &live, line, |_| async {
        Ok(Response::new(Full::new(Bytes::from(vec![b'x'; LEN]))))
    });
    let asking = async {
        // INITIAL_WINDOW_SIZE.
        let window = [0, 4, 0, 16, 0, 0];
        client.write_all(&opening(&window, END_STREAM)).await.unwrap();
        client.write_all(&frame(WINDOW_UPDATE, 0, 0, &[0, 16, 0, 0])).await.unwrap();
        client.read_exact(&mut [0; 9]).await.unwrap();
        live.stop();
        let mut ticks = interval(Duration::from_millis(10));
        for _ in 0..30 {
            ticks.tick().await;
            client.write_all(&frame(PING, ACK, 0, &LAST_PING)).await.unwrap();
        }
        let mut heard = Vec::new();
        let _ = client.read_to_end(&mut heard).await;
        let count = heard.iter().filter(|byte| **byte == b'x').count();
        assert!(count >= LEN, "{count}");
        drop(client);
    };
    timeout(testkit::LIMIT, async { tokio::join!(served, asking) }).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_upload_of_which_nearly_nothing_comes_is_ended_and_a_stream_is_not() {
    for (framing, piece, is_slow) in
        [("Content-Length: 100000", "x", true), ("Transfer-Encoding: chunked", "1\r\nx\r\n", false)]
    {
        let (mut client, ours) = duplex(HEAD_MAX);
        let (live, (tell, mut told)) = (Live::default(), mpsc::channel(1));
        let served = serve_one(ours, &live, None, |request| {
            let (parts, body) = request.into_parts();
            let (body, tell) = (RequestBody::new(body, parts.version), tell.clone());
            async move {
                tell.send(body.collect().await.map(drop)).await.unwrap();
                Ok(Response::new(Empty::<Bytes>::new()))
            }
        });
        let sending = async {
            let head = format!("POST / HTTP/1.1\r\nHost: a.example\r\n{framing}\r\n\r\n");
            client.write_all(head.as_bytes()).await.unwrap();
            loop {
                stand_still(Duration::from_secs(5)).await;
                client.write_all(piece.as_bytes()).await.unwrap();
            }
        };
        let ended = tokio::select! {
            ended = timeout(3 * HEAD_TIMEOUT, told.recv()) => ended.ok().flatten(),
            () = served => panic!("the connection ended"),
            () = sending => unreachable!("it goes on and on"),
        };
        match is_slow {
            true => assert!(matches!(ended, Some(Err(BodyError::Slow))), "{ended:?}"),
            false => assert!(ended.is_none(), "{ended:?}"),
        }
    }
}
