//! What the pusher sees.

use std::{
    fmt,
    io::{self, Write},
    sync::{Mutex, PoisonError},
};

use tokio_util::sync::CancellationToken;

use crate::Failure;

/// Where the pusher reads. When it is closed, nobody reads any more.
pub struct Console {
    out: Mutex<Box<dyn Write + Send>>,
    closed: CancellationToken,
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Console")
    }
}

impl Console {
    /// This process's stdout.
    pub fn stdout() -> Self {
        Self::new(io::stdout())
    }

    /// Anything else.
    pub fn new(out: impl Write + Send + 'static) -> Self {
        Self { out: Mutex::new(Box::new(out)), closed: CancellationToken::new() }
    }

    /// `-----> A step begins`.
    pub(crate) fn step(&self, text: &str) {
        self.raw(format!("-----> {text}\n").as_bytes());
    }

    /// A line of the step.
    pub(crate) fn line(&self, text: &str) {
        self.raw(format!("       {text}\n").as_bytes());
    }

    /// `=====> It is done`.
    pub(crate) fn done(&self, text: &str) {
        self.raw(format!("=====> {text}\n").as_bytes());
    }

    /// Output of the build, as it is.
    pub(crate) fn raw(&self, bytes: &[u8]) {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        if out.write_all(bytes).and_then(|()| out.flush()).is_err() {
            self.closed.cancel();
        }
    }

    /// Why it did not work; a line of its own after whatever was shown.
    pub fn failure(&self, failure: &Failure) {
        let text = failure.to_string();
        self.raw(b"\n");
        for (at, line) in text.lines().enumerate() {
            self.raw(format!("{}{line}\n", if at == 0 { " !     " } else { "       " }).as_bytes());
        }
    }

    /// Ends when nobody reads any more.
    pub(crate) async fn closed(&self) {
        self.closed.cancelled().await;
    }
}
