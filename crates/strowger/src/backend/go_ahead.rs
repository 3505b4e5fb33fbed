//! Bodies that a client sends when it is asked to (RFC 9110, 10.1.1).

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use http::{Request, StatusCode};
use hyper::ext::on_informational;
use tokio::time::{Sleep, sleep};

use super::RequestBody;

/// A backend that neither asks for a body nor refuses it in this time knows nothing of being asked. Clients wait about as
/// long.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether a backend has asked for a body.
#[derive(Debug, Default)]
struct Asked {
    is_so: AtomicBool,
    waker: AtomicWaker,
}

/// Holds a body back until its backend asks for it.
#[derive(Debug, Default)]
pub(super) struct GoAhead {
    asked: Arc<Asked>,
    late: Option<Pin<Box<Sleep>>>,
}

impl GoAhead {
    /// Ready when the body is to be sent.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.asked.waker.register(cx.waker());
        if self.asked.is_so.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        self.late.get_or_insert_with(|| Box::pin(sleep(ASK_TIMEOUT))).as_mut().poll(cx)
    }
}

/// Has the body of a request wait for `100 Continue`. Its client is told to go ahead when it is read.
pub(crate) fn wait_to_be_asked(request: &mut Request<RequestBody>) {
    let go_ahead = GoAhead::default();
    let asked = go_ahead.asked.clone();
    request.body_mut().wait_for(go_ahead);
    on_informational(request, move |answer| {
        if answer.status() == StatusCode::CONTINUE {
            asked.is_so.store(true, Ordering::Release);
            asked.waker.wake();
        }
    });
}
