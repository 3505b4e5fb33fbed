//! What the one who pushes sees.

use std::{
    io::Write,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Where output goes, and when the last of it went there. Clones of it would mix lines: there is one.
#[derive(Debug)]
pub struct Console {
    last: Mutex<Instant>,
}

impl Default for Console {
    fn default() -> Self {
        Self { last: Mutex::new(Instant::now()) }
    }
}

impl Console {
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
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = std::io::stdout().lock();
        // Whoever reads may have gone away; then we are about to be told to end.
        let _ = out.write_all(&[line, b"\n"].concat()).and_then(|()| out.flush());
        *last = Instant::now();
    }

    /// How long nothing was written.
    pub fn silence(&self) -> Duration {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}
