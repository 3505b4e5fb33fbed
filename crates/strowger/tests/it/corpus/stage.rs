//! A backend that records what reaches it, and clients that say what a case has.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
    time::{Instant, timeout_at},
};

use super::{
    case::{Case, Outcome, escape},
    message::{Kind, Message, Not, read},
};
use crate::harness::{Wire, scripted};

/// What the backend says where a case has nothing else: it has no content, whatever was asked.
const PLAIN: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";
/// Sent after each case: it shows where the router takes the next request to begin.
const PROBE: &[u8] = b"GET /probe HTTP/1.1\r\nHost: a.test\r\n\r\n";
/// What of it reaches the backend.
const PROBED: &str = "<< GET /probe HTTP/1.1";
/// A request to this path is answered with a switch of protocols.
const SWITCH: &str = "/switch ";
/// How a connection ends that can be used again.
const OPEN: &str = "open";
/// Begins what the router says of an answer that it does not pass on.
const OURS: &[u8] = b"502 Bad Gateway\n\n";
/// Begins the line of what came after that.
const SWITCHED: &str = "<^ ";

/// What reached the backend during one case.
#[derive(Debug, Clone, Default)]
struct Record(Arc<(Mutex<Recorded>, Notify)>);

#[derive(Debug, Default)]
struct Recorded {
    messages: Vec<Vec<String>>,
    is_cut: bool,
}

/// The backend.
#[derive(Debug, Clone)]
pub struct Backend {
    pub addr: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    record: Record,
    /// The answer to the next request, and whether the connection ends with it.
    answer: Option<(Vec<u8>, bool)>,
}

/// Whether a header is one that the proxy adds itself.
pub type IsOwn = fn(&str, &str) -> bool;

impl Backend {
    /// A backend that records all but what `is_own`.
    pub async fn start(is_own: IsOwn) -> Self {
        let state: Arc<Mutex<State>> = Arc::default();
        let shared = state.clone();
        let addr = scripted(move |_, wire| serve(wire, shared.clone(), is_own)).await;
        Self { addr, state }
    }

    fn begin(&self, answer: Option<(Vec<u8>, bool)>) -> Record {
        let mut state = self.state.lock().unwrap();
        state.answer = answer;
        state.record = Record::default();
        state.record.clone()
    }
}

async fn serve(mut wire: Wire, state: Arc<Mutex<State>>, is_own: IsOwn) {
    loop {
        while wire.1.is_empty() {
            if !more(&mut wire.0, &mut wire.1).await {
                return;
            }
        }
        let record = state.lock().unwrap().record.clone();
        let mut message = loop {
            match read(&wire.1, Kind::Request) {
                Ok(message) => break message,
                Err(Not::Yet) if more(&mut wire.0, &mut wire.1).await => {}
                Err(Not::Yet) => return record.change(|recorded| recorded.is_cut = true),
                Err(Not::Strict(why)) => return record.add(vec![format!("<! {why}")]),
            }
        };
        wire.1.drain(..message.len);
        message.headers.retain(|(name, value)| !is_own(name, value));
        if message.start.contains(SWITCH) {
            return switch(wire, message, &record).await;
        }
        record.add(message.lines());
        let answer = state.lock().unwrap().answer.take();
        let (answer, ends) = answer.unwrap_or_else(|| (PLAIN.to_vec(), false));
        let _ = wire.0.write_all(&answer).await;
        if ends {
            let _ = wire.0.shutdown().await;
            while more(&mut wire.0, &mut wire.1).await {}
            return;
        }
    }
}

/// Takes the other protocol, and what is said in it.
async fn switch(mut wire: Wire, message: Message, record: &Record) {
    let answer =
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
    let _ = wire.0.write_all(answer).await;
    while more(&mut wire.0, &mut wire.1).await {}
    let mut lines = message.lines();
    lines.push(format!("{SWITCHED}{}", escape(&wire.1)));
    record.add(lines);
}

async fn more(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> bool {
    stream.read_buf(bytes).await.is_ok_and(|count| count > 0)
}

impl Record {
    fn change(&self, change: impl FnOnce(&mut Recorded)) {
        change(&mut self.0.0.lock().unwrap());
        self.0.1.notify_one();
    }

    fn add(&self, lines: Vec<String>) {
        self.change(|recorded| recorded.messages.push(lines));
    }

    /// What was recorded besides the probe, when that and what is expected has come.
    async fn complete(&self, expected: &Outcome, limit: Duration) -> (Vec<String>, bool) {
        let deadline = Instant::now() + limit;
        loop {
            let (passed, is_cut, is_probed) = self.so_far();
            let all_came = is_probed && passed.len() >= expected.passed.len();
            if all_came || timeout_at(deadline, self.0.1.notified()).await.is_err() {
                return (passed, is_cut);
            }
        }
    }

    fn so_far(&self) -> (Vec<String>, bool, bool) {
        let recorded = self.0.0.lock().unwrap();
        let is_probe = |lines: &&Vec<String>| lines[0] == PROBED;
        let (probes, passed): (Vec<_>, Vec<_>) = recorded.messages.iter().partition(is_probe);
        (passed.into_iter().flatten().cloned().collect(), recorded.is_cut, !probes.is_empty())
    }
}

/// A client of a proxy.
struct Client {
    wire: Wire,
    has_ended: bool,
    /// Longest wait for what is expected.
    limit: Duration,
}

impl Client {
    async fn connect(proxy: SocketAddr, limit: Duration) -> Self {
        let stream = TcpStream::connect(proxy).await.unwrap();
        Self { wire: Wire(stream, Vec::new()), has_ended: false, limit }
    }

    /// Says something, and reads so many answers, or to the end.
    async fn say(
        &mut self,
        bytes: &[u8],
        ends: bool,
        to_head: bool,
        count: Option<usize>,
    ) -> Vec<Message> {
        let deadline = Instant::now() + self.limit;
        let Wire(stream, received) = &mut self.wire;
        let (mut reading, mut writing) = stream.split();
        let write = async {
            let _ = writing.write_all(bytes).await;
            if ends {
                let _ = writing.shutdown().await;
            }
            std::future::pending::<()>().await;
        };
        let has_ended = &mut self.has_ended;
        let read = async {
            let (mut answers, mut finals) = (Vec::new(), 0);
            loop {
                while let Ok(message) =
                    read(received, Kind::Answer { to_head, has_ended: *has_ended })
                {
                    received.drain(..message.len);
                    finals += usize::from(message.status() > 199 || message.status() == 101);
                    answers.push(message);
                }
                if *has_ended || count.is_some_and(|count| finals >= count) {
                    return answers;
                }
                match timeout_at(deadline, reading.read_buf(received)).await {
                    Ok(Ok(1..)) => {}
                    Ok(_) => *has_ended = true,
                    Err(_) => return answers,
                }
            }
        };
        tokio::select! {
            answers = read => answers,
            () = write => unreachable!("it never ends"),
        }
    }

    /// The answer to one more request, if there is one.
    async fn probe(&mut self) -> Option<u16> {
        if self.has_ended {
            return None;
        }
        self.say(PROBE, false, false, Some(1)).await.first().map(Message::status)
    }
}

/// Sends a case's request to a proxy before this backend, and waits at most so long for what is expected.
pub async fn request(
    case: &Case,
    proxy: SocketAddr,
    backend: &Backend,
    limit: Duration,
) -> Outcome {
    let record = backend.begin(None);
    let (count, is_open) = case.expected.answers();
    let mut client = Client::connect(proxy, limit).await;
    let to_head = case.sent.starts_with(b"HEAD ");
    let answers = client.say(&case.sent, case.ends, to_head, is_open.then_some(count)).await;
    let end = end(client.probe().await);
    if end != OPEN {
        Client::connect(proxy, limit).await.probe().await;
    }
    let (passed, is_cut) = record.complete(&case.expected, limit).await;
    Outcome { client: words(&answers, &end), is_cut, passed }
}

/// Lets the backend give a case's answer to a client of a proxy.
pub async fn answer(case: &Case, proxy: SocketAddr, backend: &Backend) -> Outcome {
    backend.begin(Some((case.sent.clone(), case.ends)));
    let mut client = Client::connect(proxy, testkit::LIMIT).await;
    let request = format!("{} / HTTP/1.1\r\nHost: a.test\r\n\r\n", case.method);
    let (count, is_open) = case.expected.answers();
    let to_head = case.method == "HEAD";
    let answers = client.say(request.as_bytes(), false, to_head, is_open.then_some(count)).await;
    let begun = String::from_utf8_lossy(&client.wire.1).into_owned();
    let end = match begun.split(' ').nth(1) {
        Some(status) => format!("{status} cut"),
        None => end(client.probe().await),
    };
    let mut passed = Vec::new();
    for message in answers.iter().filter(|message| !message.content.starts_with(OURS)) {
        let lines = message.lines().into_iter().filter(|line| !line.starts_with("< date: "));
        passed.extend(lines);
    }
    // Whatever became of it, the next request gets its own answer.
    let next = Client::connect(proxy, testkit::LIMIT).await.probe().await;
    if next != Some(204) {
        passed.push(format!("<! the next request got {next:?}"));
    }
    Outcome { client: words(&answers, &end), is_cut: false, passed }
}

fn end(probed: Option<u16>) -> String {
    match probed {
        Some(204) => OPEN.to_owned(),
        Some(other) => format!("{OPEN} to {other}"),
        None => "closed".to_owned(),
    }
}

fn words(answers: &[Message], end: &str) -> String {
    let statuses: String = answers.iter().map(|message| format!("{} ", message.status())).collect();
    statuses + end
}
