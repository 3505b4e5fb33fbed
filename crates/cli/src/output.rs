//! Data goes to stdout, messages to stderr.

use std::io::{self, ErrorKind, Write};

/// Writes a line of data.
pub(crate) fn data(line: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(line.as_bytes())?;
    stdout.write_all(b"\n")?;
    stdout.flush()
}

/// Writes text of any number of lines, each with its end.
pub(crate) fn text(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Writes objects as JSON.
pub(crate) fn json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    Ok(data(&serde_json::to_string_pretty(value)?)?)
}

/// Tells the person something. Nobody there is no reason to stop.
pub(crate) fn say(message: &str) {
    let mut stderr = io::stderr().lock();
    let _ = stderr.write_all(message.as_bytes()).and_then(|()| stderr.write_all(b"\n"));
}

/// Asks the person something, on the same line.
pub(crate) fn ask(question: &str) -> io::Result<String> {
    let mut stderr = io::stderr().lock();
    stderr.write_all(question.as_bytes())?;
    stderr.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(answer.trim().to_owned())
}

/// Whether the error only says that nobody reads our output any longer.
pub(crate) fn is_closed(err: &anyhow::Error) -> bool {
    let mut io = err.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    io.any(|err| err.kind() == ErrorKind::BrokenPipe)
}
