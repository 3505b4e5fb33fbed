//! Attached jobs.

use std::{sync::Arc, time::Duration};

use api::{
    host::{
        ATTACH_LOGS, ATTACH_STDERR, ATTACH_STDIN, ATTACH_STDOUT, ATTACH_STREAM, AttachRequest,
        Status,
    },
    id::JobId,
};
use api_client::Upgraded;
use attach::{Frame, FrameCodec, State, Stream, read_state};
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::time::timeout;
use tokio_util::codec::Framed;

use crate::support::{Fixture, LIMIT, is, shell, shell_with};

const OUTPUT: u8 = ATTACH_STDOUT | ATTACH_STDERR | ATTACH_STREAM;

struct Attached(Framed<Upgraded, FrameCodec>);

impl Attached {
    async fn ask(host: &Fixture, id: JobId, flags: u8) -> (State, Upgraded) {
        let request = AttachRequest { job_id: id, flags, height: 24, width: 80, lines: None };
        let mut connection = host.client().attach(&request).await.unwrap();
        let state = timeout(LIMIT, read_state(&mut connection)).await.unwrap().unwrap();
        (state, connection)
    }

    async fn to(host: &Fixture, id: JobId, flags: u8) -> Self {
        let (mut state, mut connection) = Self::ask(host, id, flags).await;
        while state == State::Waiting {
            state = timeout(LIMIT, read_state(&mut connection)).await.unwrap().unwrap();
        }
        assert_eq!(state, State::Attached);
        Self(Framed::new(connection, FrameCodec))
    }

    async fn say(&mut self, frame: Frame) {
        self.0.send(frame).await.unwrap();
    }

    async fn type_in(&mut self, text: &str) {
        let bytes = text.as_bytes().to_vec().into();
        self.say(Frame::Data { stream: Stream::Stdin, bytes }).await;
    }

    /// Output until it holds a text.
    async fn until(&mut self, text: &str) -> String {
        let mut seen = String::new();
        while !seen.contains(text) {
            match timeout(LIMIT, self.0.next()).await.unwrap_or_else(|_| panic!("only {seen:?}")) {
                Some(Ok(Frame::Data { bytes, .. })) => seen += std::str::from_utf8(&bytes).unwrap(),
                other => panic!("{other:?} after {seen:?}"),
            }
        }
        seen
    }

    /// Everything to the end: stdout, stderr, exit status.
    async fn rest(mut self) -> (String, String, Option<u32>) {
        let (mut out, mut err) = (String::new(), String::new());
        loop {
            match timeout(LIMIT, self.0.next()).await.unwrap_or_else(|_| panic!("only {out:?}")) {
                Some(Ok(Frame::Data { stream: Stream::Stderr, bytes })) => {
                    err += std::str::from_utf8(&bytes).unwrap();
                }
                Some(Ok(Frame::Data { bytes, .. })) => out += std::str::from_utf8(&bytes).unwrap(),
                Some(Ok(Frame::Exit(status))) => return (out, err, Some(status)),
                None => return (out, err, None),
                other => panic!("{other:?} after {out:?}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stdin_goes_in_and_output_and_status_come_out() {
    let host = Fixture::start().await;
    let job = shell_with("cat; echo bye >&2; exit 7", json!({ "stdin": true }));
    host.client().put_job(&job).await.unwrap();
    let mut attached = Attached::to(&host, job.id, OUTPUT | ATTACH_STDIN).await;
    let big = "0123456789abcdef".repeat(20_000);
    attached.type_in(&big).await;
    attached.type_in("\nlast\n").await;
    attached.say(Frame::eof(Stream::Stdin)).await;
    let (out, err, status) = attached.rest().await;
    assert_eq!(out.len(), big.len() + 6);
    assert!(out.ends_with("\nlast\n"));
    assert_eq!((err.as_str(), status), ("bye\n", Some(7)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_that_is_not_root_opens_its_output_by_name() {
    let host = Fixture::start().await;
    let line = "[ $(id -u) != 0 ] && echo out >/dev/stdout && echo err >/dev/stderr && echo fine";
    let job = shell(line);
    host.run(&job, crate::support::ended).await;
    let mut lines = host.log(job.id, None, false).await;
    lines.sort();
    let logged = [("stderr", "err"), ("stdout", "fine"), ("stdout", "out")];
    assert_eq!(lines, logged.map(|(stream, line)| (stream.to_owned(), line.to_owned())));
    for (tty, heard) in [(false, ("out\nfine\n", "err\n")), (true, ("out\r\nerr\r\nfine\r\n", ""))]
    {
        let job = shell_with(line, json!({ "stdin": true, "tty": tty }));
        host.client().put_job(&job).await.unwrap();
        let attached = Attached::to(&host, job.id, OUTPUT | ATTACH_STDIN).await;
        let (out, err, status) = attached.rest().await;
        assert_eq!(((out.as_str(), err.as_str()), status), (heard, Some(0)), "tty: {tty}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attacher_may_come_before_its_job_and_misses_nothing() {
    let host = Arc::new(Fixture::start().await);
    let job = shell("echo first; echo second");
    let (state, connection) = Attached::ask(&host, job.id, OUTPUT).await;
    assert_eq!(state, State::Waiting);
    host.client().put_job(&job).await.unwrap();
    let mut connection = connection;
    let mut state = State::Waiting;
    while state == State::Waiting {
        state = timeout(LIMIT, read_state(&mut connection)).await.unwrap().unwrap();
    }
    assert_eq!(state, State::Attached);
    let (out, _, status) = Attached(Framed::new(connection, FrameCodec)).rest().await;
    assert_eq!((out.as_str(), status), ("first\nsecond\n", Some(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_cannot_start_tells_its_attacher_why() {
    let host = Fixture::start().await;
    let mut job = shell("true");
    job.image = "flynn/nowhere".into();
    host.client().put_job(&job).await.unwrap();
    let (mut state, mut connection) = Attached::ask(&host, job.id, OUTPUT).await;
    while state == State::Waiting {
        state = timeout(LIMIT, read_state(&mut connection)).await.unwrap().unwrap();
    }
    assert!(matches!(&state, State::Error(why) if why.contains("flynn/nowhere")), "{state:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_has_a_size_takes_signals_and_passes_bytes_as_they_are() {
    let host = Fixture::start().await;
    let line = "trap 'echo got-int; got=1' INT; stty -echo; stty size; printf '\\001\\000\\000\\000\\000\\000\\377\\377|'; \
                read a; stty size; while [ -z \"$got\" ]; do sleep 0.1; done; exit 5";
    let job = shell_with(line, json!({ "stdin": true, "tty": true }));
    host.client().put_job(&job).await.unwrap();
    let mut attached = Attached::to(&host, job.id, OUTPUT | ATTACH_STDIN).await;
    let mut seen = Vec::new();
    while !seen.ends_with(b"|") {
        match timeout(LIMIT, attached.0.next()).await.unwrap() {
            Some(Ok(Frame::Data { bytes, .. })) => seen.extend_from_slice(&bytes),
            other => panic!("{other:?} after {seen:?}"),
        }
    }
    // What bollard would take for the head of a frame.
    assert!(seen.ends_with(b"\x01\0\0\0\0\0\xff\xff|"), "{seen:?}");
    attached.say(Frame::Resize { height: 40, width: 100 }).await;
    attached.type_in("\n").await;
    attached.until("40 100").await;
    attached.say(Frame::Signal(2)).await;
    attached.until("got-int").await;
    assert_eq!(attached.rest().await.2, Some(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_and_what_follows_are_one() {
    let host = Fixture::start().await;
    let job = shell("for n in 1 2 3; do echo $n; done; sleep 5; echo 4; printf 5");
    host.run(&job, is(Status::Running)).await;
    let attached = Attached::to(&host, job.id, OUTPUT | ATTACH_LOGS).await;
    let (out, _, status) = attached.rest().await;
    assert_eq!((out.as_str(), status), ("1\n2\n3\n4\n5", Some(0)));
    let later = Attached::to(&host, job.id, OUTPUT | ATTACH_LOGS).await;
    assert_eq!(later.rest().await, ("1\n2\n3\n4\n5\n".into(), String::new(), Some(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_nothing_holds_nobody_up() {
    let host = Fixture::start().await;
    let job = shell(
        "sleep 1; yes 0123456789012345678901234567890123456789 | head -c 60000000; echo done",
    );
    host.client().put_job(&job).await.unwrap();
    let idle = Attached::to(&host, job.id, OUTPUT).await;
    let ended = host.wait(job.id, crate::support::ended).await;
    assert_eq!(ended.status, Status::Done);
    let last = host.log(job.id, Some(1), true).await;
    assert!(last[0].1.ends_with("done"), "{last:?}");
    drop(idle);
    tokio::time::timeout(Duration::from_secs(5), host.client().status()).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_that_goes_away_hangs_up() {
    let host = Fixture::start().await;
    let line = "trap 'exit 1' HUP; echo ready; while :; do sleep 1; done";
    let job = shell_with(line, json!({ "stdin": true, "tty": true }));
    host.client().put_job(&job).await.unwrap();
    let mut attached = Attached::to(&host, job.id, OUTPUT | ATTACH_STDIN).await;
    attached.until("ready").await;
    drop(attached);
    host.wait(job.id, crate::support::ended).await;
}
