//! Whether anything is under way on a connection that carries several requests at once.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use daemon::{line::Line, relay::until_taken};
use http_body::{Body, Frame, SizeHint};
use tokio::{sync::watch, time::sleep};

/// The requests under way on a connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Activity(Arc<watch::Sender<usize>>);

/// A request under way, until this is dropped.
#[derive(Debug)]
pub(super) struct Underway(Arc<watch::Sender<usize>>);

/// The body of an answer, whose request is under way until it was sent.
#[derive(Debug)]
pub(super) struct Tracked<B> {
    body: B,
    _underway: Underway,
}

impl Activity {
    /// One more request is under way.
    pub(super) fn begin(&self) -> Underway {
        self.0.send_modify(|count| *count += 1);
        Underway(self.0.clone())
    }

    /// Waits until nothing has been under way for this time, and the client has taken what it was told: an answer is not
    /// under way when the kernel has the rest of it.
    pub(super) async fn until_idle(&self, limit: Duration, line: Option<Line>) {
        let mut count = self.0.subscribe();
        loop {
            // The sender is ours.
            let is_quiet = *count.borrow_and_update() == 0;
            let changed = count.changed();
            let idle = async {
                sleep(limit).await;
                until_taken(line).await;
            };
            tokio::select! {
                () = idle, if is_quiet => return,
                _ = changed => {}
            }
        }
    }
}

impl Underway {
    /// Goes on while that body is sent.
    pub(super) fn track<B>(self, body: B) -> Tracked<B> {
        Tracked { body, _underway: self }
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl<B: Body + Unpin> Body for Tracked<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::AsyncReadExt,
        net::{TcpListener, TcpStream},
        time::{Instant, timeout},
    };

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_from_the_end_of_its_last_request() {
        let (activity, begun) = (Activity::default(), Instant::now());
        let (first, second) = (activity.begin(), activity.begin().track(String::new()));
        let idle = activity.until_idle(LIMIT, None);
        let requests = async {
            assert!(timeout(3 * LIMIT, std::future::pending::<()>()).await.is_err());
            drop((first, second));
            assert!(timeout(LIMIT / 2, std::future::pending::<()>()).await.is_err());
            drop(activity.begin());
        };
        tokio::join!(idle, requests);
        assert_eq!(begun.elapsed(), 3 * LIMIT + LIMIT / 2 + LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_not_idle_while_its_client_has_an_answer_to_take() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connected = TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(connected, listener.accept());
        let (mut client, stream) = (client.unwrap(), accepted.unwrap().0);
        while stream.try_write(&[b'x'; 32 << 10]).is_ok() {}
        let activity = Activity::default();
        let mut idle = std::pin::pin!(activity.until_idle(LIMIT, Line::of(&stream)));
        timeout(3 * LIMIT, &mut idle).await.expect_err("it pauses");
        tokio::select! {
            () = idle => {}
            _ = async { while client.read(&mut [0; 32 << 10]).await.is_ok() {} } => {}
        }
    }
}
