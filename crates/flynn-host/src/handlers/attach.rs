use std::{io, sync::Arc, time::Duration};

use api::{
    error::ErrorCode,
    host::{
        ATTACH_LOGS, ATTACH_STDERR, ATTACH_STDIN, ATTACH_STDOUT, ATTACH_STREAM, ActiveJob,
        AttachRequest, Status,
    },
};
use attach::{Frame, FrameCodec, FrameError, PROTOCOL, State as Said, Stream, pending};
use axum::{
    body::Body as AnyBody,
    extract::{FromRequest, Request, State},
    response::Response,
};
use bytes::Bytes;
use daemon::{
    ApiError, Body,
    relay::{linger, until_lost},
    upgraded::Client,
};
use futures_util::{SinkExt, StreamExt};
use http::{StatusCode, header};
use hyper::upgrade::OnUpgrade;
use tokio::{
    io::{AsyncRead, AsyncWriteExt, ReadHalf, WriteHalf},
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};
use tokio_util::codec::{FramedRead, FramedWrite};
use tracing::debug;

use crate::{
    domain::mux::Out,
    host::Host,
    jobs::{
        output::{Output, Subscription, Told},
        registry::log_folder,
    },
    logs::Reader,
    routes::App,
};

/// How long an attacher may wait for a job that is not known yet.
const UNKNOWN: Duration = Duration::from_secs(60);
/// How long for one whose image is being made.
const STARTING: Duration = Duration::from_secs(900);
/// Told to the processes of a terminal that is gone.
const SIGHUP: u32 = 1;
/// A terminal may not take its size in the first moment.
const RESIZES: u32 = 5;

/// A signal or the size of a window, and whom to tell when it was obeyed.
type Order = (Frame, oneshot::Sender<()>);

type Frames = FramedWrite<WriteHalf<Client>, FrameCodec>;

/// Attaches the connection to a job's streams.
pub(crate) async fn attach(
    State(app): State<App>,
    mut request: Request,
) -> Result<Response, ApiError> {
    let upgrade = request.extensions_mut().remove::<OnUpgrade>();
    let asked = request.headers().get(header::UPGRADE).is_some_and(|name| name == PROTOCOL);
    let (Some(upgrade), true) = (upgrade, asked) else {
        let message = format!("attaching needs `Connection: Upgrade` and `Upgrade: {PROTOCOL}`");
        return Err(ApiError::new(ErrorCode::ValidationError, message));
    };
    let Body(wanted) = Body::<AttachRequest>::from_request(request, &()).await?;
    let host = app.host.clone();
    app.host.lifetime.spawn_request(async move {
        let client = upgrade.await.map_err(io::Error::other).and_then(Client::new);
        let ended = match client {
            Ok(client) => session(&host, wanted, client).await,
            Err(err) => Err(FrameError::Io(err)),
        };
        if let Err(err) = ended {
            debug!(error = %err, "an attached connection ended early");
        }
    });
    let response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, PROTOCOL)
        .body(AnyBody::empty());
    Ok(response.expect("the response is well formed"))
}

async fn session(
    host: &Arc<Host>,
    wanted: AttachRequest,
    connection: Client,
) -> Result<(), FrameError> {
    let line = connection.line();
    let (read, mut write) = tokio::io::split(connection);
    let id = wanted.job_id;
    let mut waited = false;
    let Some(output) = known(host, &wanted, &mut write, &mut waited).await? else {
        let why = format!("no job {id} came to this host within {UNKNOWN:?}");
        return say(&mut write, Said::Error(why)).await;
    };
    let has = |flag: u8| wanted.flags & flag != 0;
    let mut subscription = output.subscribe(has(ATTACH_STDIN));
    let active = match started(host, &wanted, &mut write, waited).await? {
        Ok(active) => active,
        Err(why) => return say(&mut write, Said::Error(why)).await,
    };
    say(&mut write, Said::Attached).await?;
    let mut frames = FramedWrite::new(write, FrameCodec);
    let tty = active.job.config.tty;
    if has(ATTACH_LOGS) && !subscription.whole {
        send_log(host, &wanted, &subscription, tty, &mut frames).await?;
    }
    if !has(ATTACH_STREAM) && active.status.is_active() {
        return frames.close().await;
    }
    let stdin = subscription.stdin.take();
    let holds_stdin = stdin.is_some();
    let input = take_input(host, &wanted, tty, read, stdin);
    let sent = send_output(&wanted, subscription, &mut frames);
    tokio::pin!(input, sent);
    let mut is_lost = false;
    tokio::select! {
        sent = &mut sent => {
            // What the client is still sending, or how slowly it reads, must not cost it the last words.
            linger(input, line).await;
            return sent;
        }
        () = &mut input => {}
        () = until_lost(line) => is_lost = true,
    }
    // Nothing more will be said to the job, but it may have much to say. Its terminal, though, is gone.
    if holds_stdin && tty {
        signal(host, &wanted, SIGHUP).await;
    }
    if is_lost {
        return Ok(());
    }
    tokio::select! {
        sent = sent => {
            linger(std::future::ready(()), line).await;
            sent
        }
        // The job is not to wait for it.
        () = until_lost(line) => Ok(()),
    }
}

/// Waits for the job to be known, having said so.
async fn known(
    host: &Host,
    wanted: &AttachRequest,
    write: &mut WriteHalf<Client>,
    waited: &mut bool,
) -> Result<Option<Arc<Output>>, FrameError> {
    let mut arrivals = host.registry.arrivals();
    if let Some(output) = host.registry.output(wanted.job_id) {
        return Ok(Some(output));
    }
    *waited = true;
    say(write, Said::Waiting).await?;
    let arrival = async {
        loop {
            if let Some(output) = host.registry.output(wanted.job_id) {
                return output;
            }
            if arrivals.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    Ok(timeout(UNKNOWN, arrival).await.ok())
}

/// Waits until the job's process was started, or says why it was not.
async fn started(
    host: &Host,
    wanted: &AttachRequest,
    write: &mut WriteHalf<Client>,
    waited: bool,
) -> Result<Result<ActiveJob, String>, FrameError> {
    let mut events = host.registry.subscribe().events;
    let mut waited = waited;
    let started = async {
        loop {
            let Some(active) = host.registry.job(wanted.job_id) else {
                return Ok(Err("the job is forgotten".to_owned()));
            };
            if active.started_at.is_some() {
                return Ok(Ok(active));
            }
            if !active.status.is_active() {
                let why = active.error.unwrap_or_else(|| "it was told to stop".into());
                return Ok(Err(format!("the job was not started: {why}")));
            }
            if !std::mem::replace(&mut waited, true) {
                say(write, Said::Waiting).await?;
            }
            let of_it = |event: &api::host::Event| {
                event.job.as_ref().is_some_and(|job| job.job.id == wanted.job_id)
            };
            while events.recv().await.is_ok_and(|event| !of_it(&event)) {}
        }
    };
    let late = || Ok(Err(format!("the job was not started within {STARTING:?}")));
    timeout(STARTING, started).await.unwrap_or_else(|_| late())
}

async fn say(write: &mut WriteHalf<Client>, said: Said) -> Result<(), FrameError> {
    write.write_all(&said.to_bytes()).await?;
    Ok(write.flush().await?)
}

fn stream_of(out: Out) -> Stream {
    match out {
        Out::Stdout => Stream::Stdout,
        Out::Stderr => Stream::Stderr,
    }
}

fn wants(wanted: &AttachRequest, out: Out) -> bool {
    let flag = match out {
        Out::Stdout => ATTACH_STDOUT,
        Out::Stderr => ATTACH_STDERR,
    };
    wanted.flags & flag != 0
}

/// What was logged before the subscription.
async fn send_log(
    host: &Host,
    wanted: &AttachRequest,
    subscription: &Subscription,
    tty: bool,
    frames: &mut Frames,
) -> Result<(), FrameError> {
    let folder = log_folder(&host.folders.logs(), wanted.job_id);
    let until = subscription.last_line;
    let first = match wanted.lines {
        None => 1,
        Some(lines) => {
            let folder = folder.clone();
            let last = blocking(move || crate::logs::last_line(&folder)).await?;
            last.min(until).saturating_sub(lines.into()) + 1
        }
    };
    let end = if tty { "\r\n" } else { "\n" };
    let mut reader = Reader::new(&folder, first);
    loop {
        let (read, records) = blocking(move || {
            let mut reader = reader;
            let records = reader.read()?;
            Ok((reader, records))
        })
        .await?;
        reader = read;
        if records.is_empty() {
            return Ok(());
        }
        for record in records {
            if record.number > until {
                return Ok(());
            }
            if wants(wanted, record.out()) {
                let bytes = Bytes::from(record.text.clone() + end);
                frames.feed(Frame::Data { stream: stream_of(record.out()), bytes }).await?;
            }
        }
        frames.flush().await?;
    }
}

async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, FrameError> {
    let done = tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?;
    Ok(done?)
}

/// Output as it comes, and the exit status.
async fn send_output(
    wanted: &AttachRequest,
    subscription: Subscription,
    frames: &mut Frames,
) -> Result<(), FrameError> {
    let Subscription { before, told: mut more, .. } = subscription;
    let all = ATTACH_LOGS | ATTACH_STDIN;
    let before = before.into_iter().filter(|_| wanted.flags & all != 0);
    for (out, bytes) in before.filter(|(out, _)| wants(wanted, *out)) {
        frames.feed(Frame::Data { stream: stream_of(out), bytes }).await?;
    }
    frames.flush().await?;
    while let Some(told) = more.recv().await {
        match told {
            Told::Data(out, bytes) if wants(wanted, out) && !bytes.is_empty() => {
                frames.send(Frame::Data { stream: stream_of(out), bytes }).await?;
            }
            Told::Data(..) => {}
            Told::Exit(status) => {
                for out in [Out::Stdout, Out::Stderr].into_iter().filter(|o| wants(wanted, *o)) {
                    frames.feed(Frame::eof(stream_of(out))).await?;
                }
                frames.send(Frame::Exit(u32::try_from(status).unwrap_or(255))).await?;
                break;
            }
        }
    }
    frames.close().await
}

/// What the client says, until it says no more.
async fn take_input(
    host: &Arc<Host>,
    wanted: &AttachRequest,
    tty: bool,
    read: ReadHalf<Client>,
    stdin: Option<mpsc::Sender<Bytes>>,
) {
    if tty && wanted.height > 0 && wanted.width > 0 {
        resize(host, wanted, wanted.height, wanted.width).await;
    }
    let (told, mut orders) = mpsc::channel::<Order>(1);
    let obeyed = async {
        while let Some((frame, done)) = orders.recv().await {
            match frame {
                Frame::Signal(number) => signal(host, wanted, number).await,
                Frame::Resize { height, width } => resize(host, wanted, height, width).await,
                Frame::Data { .. } | Frame::Exit(_) => {}
            }
            let _ = done.send(());
        }
    };
    tokio::join!(read_on(read, stdin, told), obeyed);
}

/// Gives the job what is for its stdin, and tells of all else. A job that takes nothing keeps no signals from it, up to
/// 1 MiB. What comes after a signal or a size is read when that was obeyed: a program that is typed to
/// finds its terminal as its user does.
async fn read_on(
    read: impl AsyncRead + Unpin,
    stdin: Option<mpsc::Sender<Bytes>>,
    told: mpsc::Sender<Order>,
) {
    let (queue, mut queued) = pending::<Bytes>();
    let given = async move {
        let Some(job) = stdin else { return };
        while let Some((bytes, _place)) = queued.recv().await {
            if job.send(bytes).await.is_err() {
                return;
            }
        }
    };
    let heard = async move {
        let mut queue = Some(queue);
        let mut frames = FramedRead::new(read, FrameCodec);
        while let Some(Ok(frame)) = frames.next().await {
            match frame {
                Frame::Data { stream: Stream::Stdin, bytes } if bytes.is_empty() => queue = None,
                Frame::Data { stream: Stream::Stdin, bytes } => {
                    let Some(pending) = &queue else { continue };
                    let len = bytes.len();
                    // A job that takes no more may still be told something.
                    let _ = pending.send(bytes, len).await;
                }
                frame => {
                    let (done, obeyed) = oneshot::channel();
                    if told.send((frame, done)).await.is_ok() {
                        let _ = obeyed.await;
                    }
                }
            }
        }
    };
    tokio::join!(given, heard);
}

async fn signal(host: &Arc<Host>, wanted: &AttachRequest, number: u32) {
    if let Err(err) = crate::jobs::orders::signal(host, wanted.job_id, number).await {
        debug!(error = %err, "a signal of an attached client was not delivered");
    }
}

async fn resize(host: &Host, wanted: &AttachRequest, height: u16, width: u16) {
    let Some(active) = host.registry.job(wanted.job_id) else { return };
    if !matches!(active.status, Status::Starting | Status::Running | Status::Stopping) {
        return;
    }
    for _ in 0..RESIZES {
        match host.engine.resize(&active.container_id, height, width).await {
            Ok(()) => return,
            Err(err) => debug!(error = %err, "resizing the terminal is tried again"),
        }
        sleep(Duration::from_millis(50)).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    #[tokio::test]
    async fn a_signal_gets_to_a_job_that_does_not_read_its_stdin() {
        let (client, of_client) = duplex(1000);
        let (stdin, _deaf) = mpsc::channel(1);
        let (told, mut heard) = mpsc::channel(1);
        let said = async {
            let mut frames = FramedWrite::new(client, FrameCodec);
            for _ in 0..16 {
                let bytes = vec![b'x'; 32 << 10].into();
                frames.send(Frame::Data { stream: Stream::Stdin, bytes }).await.unwrap();
            }
            frames.send(Frame::Signal(15)).await.unwrap();
            let (frame, _done) = heard.recv().await.unwrap();
            assert_eq!(frame, Frame::Signal(15));
        };
        tokio::select! {
            () = read_on(of_client, Some(stdin), told) => panic!("the client is there"),
            said = timeout(testkit::LIMIT, said) => said.expect("it is told of the signal"),
        }
    }
}
