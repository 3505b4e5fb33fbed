//! The standard streams, read and written also when they do not block.
//!
//! `O_NONBLOCK` belongs to the open file, not to a descriptor: any program that has the same pipe or terminal may set it, and
//! its neighbours then get [`ErrorKind::WouldBlock`] where they expect to wait.

use std::{
    io::{self, BufRead, BufReader, ErrorKind, Read, Stderr, Stdin, Stdout, Write},
    os::fd::AsFd,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A stream that waits where its descriptor does not.
#[derive(Debug)]
pub(crate) struct Waiting<T>(T);

/// Our stdin.
pub(crate) fn stdin() -> Waiting<Stdin> {
    Waiting(io::stdin())
}

/// Our stdout.
pub(crate) fn stdout() -> Waiting<Stdout> {
    Waiting(io::stdout())
}

/// Our stderr.
pub(crate) fn stderr() -> Waiting<Stderr> {
    Waiting(io::stderr())
}

/// Reads a line of our stdin.
pub(crate) fn read_line() -> io::Result<String> {
    let mut line = String::new();
    BufReader::new(stdin()).read_line(&mut line)?;
    Ok(line)
}

impl<T: AsFd> Waiting<T> {
    /// Does something, and again after each wait that it asks for.
    fn repeat<R>(
        &mut self,
        wanted: PollFlags,
        mut action: impl FnMut(&mut T) -> io::Result<R>,
    ) -> io::Result<R> {
        loop {
            match action(&mut self.0) {
                Err(err) if err.kind() == ErrorKind::WouldBlock => {
                    match poll(&mut [PollFd::new(&self.0, wanted)], None) {
                        Ok(_) | Err(rustix::io::Errno::INTR) => {}
                        Err(err) => return Err(err.into()),
                    }
                }
                done => return done,
            }
        }
    }
}

impl<T: AsFd> Waiting<T> {
    /// Whether the other end has gone. A terminal may refuse what is written for another reason with the same error:
    /// `stty tostop` does, to a process in the background that nobody can bring back.
    pub(crate) fn has_hung_up(&self) -> bool {
        let mut asked = [PollFd::new(&self.0, PollFlags::empty())];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut asked, Some(&at_once)).is_ok()
            && asked[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
    }
}

impl<T: AsFd + Read> Read for Waiting<T> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.repeat(PollFlags::IN, |stream| stream.read(buf))
    }
}

impl<T: AsFd + Write> Write for Waiting<T> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.repeat(PollFlags::OUT, |stream| stream.write(buf))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.repeat(PollFlags::OUT, Write::flush)
    }
}

impl<T: io::IsTerminal> Waiting<T> {
    /// Whether it is a terminal.
    pub(crate) fn is_terminal(&self) -> bool {
        self.0.is_terminal()
    }
}
