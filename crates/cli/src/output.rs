//! Data goes to stdout, messages to stderr: as they are, but to a terminal only what cannot do anything to it.

use std::{
    borrow::Cow,
    io::{self, ErrorKind, Write},
};

use crate::{
    domain::screen::shown,
    stdio::{self, Waiting},
};

fn for_reader<'a>(to: &Waiting<impl io::IsTerminal>, text: &'a str) -> Cow<'a, str> {
    if to.is_terminal() { shown(text).into() } else { text.into() }
}

/// Writes a line of data.
pub(crate) fn data(line: &str) -> io::Result<()> {
    let mut stdout = stdio::stdout();
    stdout.write_all(for_reader(&stdout, line).as_bytes())?;
    stdout.write_all(b"\n")?;
    stdout.flush()
}

/// Writes text of any number of lines, each with its end.
pub(crate) fn text(text: &str) -> io::Result<()> {
    let mut stdout = stdio::stdout();
    stdout.write_all(for_reader(&stdout, text).as_bytes())?;
    stdout.flush()
}

/// Writes objects as JSON.
pub(crate) fn json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    Ok(data(&serde_json::to_string_pretty(value)?)?)
}

/// Tells the person something. Nobody there is no reason to stop.
pub(crate) fn say(message: &str) {
    let mut stderr = stdio::stderr();
    let message = for_reader(&stderr, message);
    let _ = stderr.write_all(message.as_bytes()).and_then(|()| stderr.write_all(b"\n"));
}

/// Asks the person something, on the same line.
pub(crate) fn ask(question: &str) -> io::Result<String> {
    let mut stderr = stdio::stderr();
    stderr.write_all(for_reader(&stderr, question).as_bytes())?;
    stderr.flush()?;
    Ok(stdio::read_line()?.trim().to_owned())
}

/// Whether the error only says that nobody reads our output any longer.
pub(crate) fn is_closed(err: &anyhow::Error) -> bool {
    let mut io = err.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    io.any(|err| err.kind() == ErrorKind::BrokenPipe)
}
