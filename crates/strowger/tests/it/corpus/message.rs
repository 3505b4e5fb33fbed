//! A reader of HTTP/1.1 that takes nothing but what RFC 9112 lets a sender send.

use super::case::escape;

/// Whose message it is.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    Request,
    /// To a request of this method, whose connection `has_ended`.
    Answer {
        to_head: bool,
        has_ended: bool,
    },
}

/// A message's parts.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    /// The first line.
    pub start: String,
    /// Sorted, the names in lower case.
    pub headers: Vec<(String, String)>,
    pub content: Vec<u8>,
    pub trailers: Vec<String>,
    /// How many bytes it had.
    pub len: usize,
}

impl Message {
    pub fn status(&self) -> u16 {
        self.start.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
    }

    /// A line for each part, as the data files have them.
    pub fn lines(&self) -> Vec<String> {
        let headers = self.headers.iter().map(|(name, value)| format!("< {name}: {value}"));
        let mut lines: Vec<_> = [format!("<< {}", self.start)].into_iter().chain(headers).collect();
        if !self.content.is_empty() {
            lines.push(format!("<= {}", escape(&self.content)));
        }
        lines.extend(self.trailers.iter().map(|line| format!("<+ {line}")));
        lines
    }
}

/// Why there is no message.
#[derive(Debug, PartialEq, Eq)]
pub enum Not {
    /// More has to come. Without it the message is broken off.
    Yet,
    /// What is wrong.
    Strict(String),
}

fn wrong<T>(what: &str, bytes: &[u8]) -> Result<T, Not> {
    Err(Not::Strict(format!("{what}: {}", escape(bytes))))
}

/// The message that these bytes begin with.
pub fn read(bytes: &[u8], kind: Kind) -> Result<Message, Not> {
    let Some(end) = find(bytes, b"\r\n\r\n") else { return Err(Not::Yet) };
    let mut lines = split(&bytes[..end]);
    let start = lines.remove(0);
    check_start(start, kind)?;
    let mut headers = Vec::new();
    for line in lines {
        headers.push(header(line)?);
    }
    headers.sort();
    let mut message = Message {
        start: escape(start),
        headers,
        content: Vec::new(),
        trailers: Vec::new(),
        len: end + 4,
    };
    let values = |name: &str| -> Vec<&str> {
        let named = message.headers.iter().filter(|header| header.0 == name);
        named.map(|header| header.1.as_str()).collect()
    };
    if matches!(kind, Kind::Request) && values("host").len() != 1 {
        return wrong("not one host", start);
    }
    let (lengths, codings) = (values("content-length"), values("transfer-encoding"));
    let rest = &bytes[end + 4..];
    let has_none = match kind {
        Kind::Request => false,
        Kind::Answer { to_head, .. } => {
            to_head || matches!(message.status(), 100..=199 | 204 | 304)
        }
    };
    match (&lengths[..], &codings[..]) {
        _ if has_none => {}
        ([], ["chunked"]) => {
            let used = chunks(rest, &mut message)?;
            message.len += used;
        }
        ([length], []) => {
            let Some(count) = length.parse().ok().filter(|n: &usize| n.to_string() == *length)
            else {
                return wrong("no length", length.as_bytes());
            };
            message.content = rest.get(..count).ok_or(Not::Yet)?.to_vec();
            message.len += count;
        }
        ([], []) => match kind {
            Kind::Request => {}
            Kind::Answer { has_ended: true, .. } => {
                message.content = rest.to_vec();
                message.len = bytes.len();
            }
            Kind::Answer { .. } => return Err(Not::Yet),
        },
        _ => return wrong("ambiguous length", &bytes[..end]),
    }
    Ok(message)
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

/// The lines of a head.
fn split(mut head: &[u8]) -> Vec<&[u8]> {
    let mut lines = Vec::new();
    while let Some(at) = find(head, b"\r\n") {
        lines.push(&head[..at]);
        head = &head[at + 2..];
    }
    lines.push(head);
    lines
}

fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty()
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b))
}

fn is_text(bytes: &[u8]) -> bool {
    bytes.iter().all(|b| matches!(b, b'\t' | b' '..=b'~' | 0x80..))
}

fn check_start(line: &[u8], kind: Kind) -> Result<(), Not> {
    let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let is_right = match (kind, &words[..]) {
        (Kind::Request, [method, target, version]) => {
            let is_path = target.starts_with(b"/") || target == b"*";
            let is_printed = target.iter().all(|byte| matches!(byte, b'!'..=b'~') && *byte != b'#');
            is_token(method) && is_path && is_printed && version == b"HTTP/1.1"
        }
        (Kind::Answer { .. }, [version, status, ..]) => {
            let is_number = status.len() == 3 && status.iter().all(u8::is_ascii_digit);
            version.starts_with(b"HTTP/1.") && is_number && is_text(line)
        }
        _ => false,
    };
    if is_right { Ok(()) } else { wrong("no first line", line) }
}

fn header(line: &[u8]) -> Result<(String, String), Not> {
    let Some(colon) = line.iter().position(|byte| *byte == b':') else {
        return wrong("no header", line);
    };
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    if !is_token(name) || !is_text(value) {
        return wrong("no header", line);
    }
    Ok((escape(&name.to_ascii_lowercase()), escape(value)))
}

/// Reads chunks without extensions, and trailers; answers with how many bytes they had.
fn chunks(bytes: &[u8], message: &mut Message) -> Result<usize, Not> {
    let mut rest = bytes;
    loop {
        let Some(end) = find(rest, b"\r\n") else { return Err(Not::Yet) };
        let size = std::str::from_utf8(&rest[..end]).ok();
        let size = size.filter(|size| size.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let Some(size) = size.and_then(|size| usize::from_str_radix(size, 16).ok()) else {
            return wrong("no chunk's size", &rest[..end]);
        };
        rest = &rest[end + 2..];
        if size == 0 {
            break;
        }
        message.content.extend_from_slice(rest.get(..size).ok_or(Not::Yet)?);
        let after = rest.get(size..size + 2).ok_or(Not::Yet)?;
        if after != b"\r\n" {
            return wrong("no end of a chunk", after);
        }
        rest = &rest[size + 2..];
    }
    loop {
        let Some(end) = find(rest, b"\r\n") else { return Err(Not::Yet) };
        let line = &rest[..end];
        rest = &rest[end + 2..];
        if line.is_empty() {
            return Ok(bytes.len() - rest.len());
        }
        let (name, value) = header(line)?;
        message.trailers.push(format!("{name}: {value}"));
    }
}

#[test]
fn what_a_sender_may_not_send_is_not_read() {
    let read = |text: &str| read(text.as_bytes(), Kind::Request);
    let good = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                2\r\nhi\r\n0\r\nA: b\r\n\r\nmore";
    let message = read(good).unwrap();
    assert_eq!((message.content, message.trailers), (b"hi".to_vec(), vec!["a: b".to_owned()]));
    assert_eq!(good.len() - message.len, 4);
    for bad in [
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\nb: c\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 00\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0;a\r\n\r\n",
    ] {
        assert!(matches!(read(bad), Err(Not::Strict(_))), "{bad}");
    }
    assert_eq!(read("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nh"), Err(Not::Yet));
}
