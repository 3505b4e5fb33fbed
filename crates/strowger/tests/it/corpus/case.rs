//! The cases of a data file. Their form is in `README.md`.

use std::{fmt, iter::Peekable, str::Chars};

/// What is sent, and what has to come of it.
#[derive(Debug)]
pub struct Case {
    pub name: String,
    pub sent: Vec<u8>,
    /// Whether the sender closes its side afterwards.
    pub ends: bool,
    /// An answer's: that of the request.
    pub method: String,
    pub expected: Outcome,
    /// What the client would have to get, where it does not.
    pub right: Option<String>,
}

/// What a client got, and what went on to the other side.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The statuses, then `open`, `closed` or `cut`.
    pub client: String,
    /// Whether the backend got a message that broke off; of what is expected, whether it may have.
    pub is_cut: bool,
    /// The messages that went on, a line each of what they consist of.
    pub passed: Vec<String>,
}

impl Outcome {
    /// Whether it is what is expected. That a request which breaks off has begun to reach the backend is never certain.
    pub fn is_as(&self, expected: &Self) -> bool {
        let is_cut = self.is_cut && expected.is_cut;
        Self { is_cut, ..self.clone() } == Self { is_cut, ..expected.clone() }
            && self.is_cut <= expected.is_cut
    }

    /// How many answers the client gets in the end, and whether its connection is of use afterwards.
    pub fn answers(&self) -> (usize, bool) {
        let statuses =
            self.client.split(' ').filter(|word| word.parse().is_ok_and(|n: u16| n > 199));
        (statuses.count(), self.client.ends_with("open"))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "client: {}", self.client)?;
        if self.is_cut {
            writeln!(f, "backend: cut")?;
        }
        self.passed.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// The cases of a file's text.
///
/// # Panics
/// Where it has another form.
pub fn cases(text: &str) -> Vec<Case> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let parts = lines.split(|line| line.is_empty()).filter(|part| !part.is_empty());
    parts.map(case).collect()
}

fn case(lines: &[&str]) -> Case {
    let name = lines[0].strip_prefix("== ").unwrap_or_else(|| panic!("no name: {lines:?}"));
    let mut case = Case {
        name: name.to_owned(),
        sent: Vec::new(),
        ends: false,
        method: "GET".to_owned(),
        expected: Outcome::default(),
        right: None,
    };
    let mut reasons = 0;
    for line in &lines[1..] {
        if line.starts_with("-- ") {
            reasons += 1;
        } else if *line == ">|" {
            case.ends = true;
        } else if let Some(text) = line.strip_prefix('>') {
            send(&mut case.sent, text.strip_prefix(' ').unwrap_or(text));
        } else if line.starts_with('<') {
            case.expected.passed.push((*line).to_owned());
        } else if let Some(client) = line.strip_prefix("client: ") {
            client.clone_into(&mut case.expected.client);
        } else if let Some(client) = line.strip_prefix("hyper: ") {
            case.right = Some(std::mem::replace(&mut case.expected.client, client.to_owned()));
        } else if let Some(method) = line.strip_prefix("method: ") {
            method.clone_into(&mut case.method);
        } else if *line == "backend: cut" {
            case.expected.is_cut = true;
        } else {
            panic!("{name}: {line}");
        }
    }
    assert!(reasons > 0 && !case.expected.client.is_empty(), "{name} has no reason or no result");
    case
}

/// A line, with its end unless a backslash stands there.
fn send(sent: &mut Vec<u8>, line: &str) {
    let escaped = line.len() - line.trim_end_matches('\\').len();
    let (line, end) = match escaped % 2 {
        1 => (&line[..line.len() - 1], &b""[..]),
        _ => (line, &b"\r\n"[..]),
    };
    unescape(&mut line.chars().peekable(), None, sent);
    sent.extend_from_slice(end);
}

fn unescape(chars: &mut Peekable<Chars<'_>>, until: Option<char>, bytes: &mut Vec<u8>) {
    while let Some(char) = chars.next() {
        if Some(char) == until {
            return;
        }
        if char != '\\' {
            bytes.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        match chars.next().unwrap() {
            'r' => bytes.push(b'\r'),
            'n' => bytes.push(b'\n'),
            't' => bytes.push(b'\t'),
            '0' => bytes.push(0),
            '\\' => bytes.push(b'\\'),
            'x' => {
                let digits: String = chars.by_ref().take(2).collect();
                bytes.push(u8::from_str_radix(&digits, 16).unwrap());
            }
            '{' => {
                let count: String = chars.by_ref().take_while(|char| *char != '*').collect();
                let mut repeated = Vec::new();
                unescape(chars, Some('}'), &mut repeated);
                bytes.extend_from_slice(&repeated.repeat(count.parse().unwrap()));
            }
            other => panic!("\\{other} is no escape"),
        }
    }
}

/// Bytes as the data files have them; long runs are told by their length.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::new();
    for run in bytes.chunk_by(|a, b| a == b) {
        let one = match run[0] {
            b'\r' => "\\r".to_owned(),
            b'\n' => "\\n".to_owned(),
            b'\t' => "\\t".to_owned(),
            b'\\' => "\\\\".to_owned(),
            byte @ b' '..=b'~' => char::from(byte).to_string(),
            byte => format!("\\x{byte:02x}"),
        };
        match run.len() {
            long @ 40.. => text += &format!("\\{{{long}*{one}}}"),
            short => text += &one.repeat(short),
        }
    }
    text
}

#[test]
fn a_case_is_its_bytes_and_what_comes_of_them() {
    let text = "# of files\n\n== a case\n-- RFC 9112 §1\n> GET\\x20/ \\{3*ab} \\\\\n> \\n\\\n>|\n\
                client: 400 closed\nhyper: 204 open\nbackend: cut\n<< GET / HTTP/1.1\n";
    let case = cases(text).remove(0);
    assert_eq!(case.sent, b"GET / ababab \\\r\n\n");
    assert!(case.ends && case.expected.is_cut);
    assert_eq!(case.right.unwrap(), "400 closed");
    assert_eq!(case.expected.answers(), (1, true));
    assert_eq!(escape(&[&b"a\r\n\\\xff"[..], &[b'x'; 50]].concat()), "a\\r\\n\\\\\\xff\\{50*x}");
}
