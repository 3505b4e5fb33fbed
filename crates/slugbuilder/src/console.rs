//! What the one who pushes sees.

use std::{
    fmt,
    io::{self, Write},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Where output goes, and when the last of it went there. Clones of it would mix lines: there is one.
pub struct Console {
    out: Mutex<Box<dyn Write + Send>>,
    last: Mutex<Instant>,
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Console")
    }
}

impl Default for Console {
    fn default() -> Self {
        Self::new(io::stdout())
    }
}

impl Console {
    /// One that writes to stderr.
    pub fn to_stderr() -> Self {
        Self::new(io::stderr())
    }

    /// One that writes elsewhere.
    pub fn new(out: impl Write + Send + 'static) -> Self {
        Self { out: Mutex::new(Box::new(out)), last: Mutex::new(Instant::now()) }
    }

    /// A title.
    pub fn title(&self, text: &str) {
        self.line(format!("-----> {text}").as_bytes());
    }

    /// A line under a title.
    pub fn say(&self, text: &str) {
        self.line(format!("       {text}").as_bytes());
    }

    /// What went wrong, one or several lines.
    pub fn error(&self, text: &str) {
        for line in text.lines() {
            self.line(format!(" !     {line}").as_bytes());
        }
    }

    /// A line as it is.
    pub fn line(&self, line: &[u8]) {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever reads may have gone away; then we are about to be told to end.
        let _ = out.write_all(&[line, b"\n"].concat()).and_then(|()| out.flush());
        drop(out);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// How long nothing was written.
    pub fn silence(&self) -> Duration {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}
