//! A connection to a backend in use, as long as it is not cut.

use std::{
    fmt,
    sync::{Arc, Mutex},
    task::Context,
};

use tokio_util::sync::DropGuard;

use super::{Busy, Control, Upstream, lock};

/// What an answer's body needs of its backend's connection. It is taken from whoever reads the body when the connection is
/// cut: a client that does not read would keep it.
#[derive(Debug)]
pub(crate) struct Lease(Option<Arc<Control>>);

/// Where it is kept meanwhile, with the control of the connection.
#[derive(Default)]
pub(super) struct Held(Mutex<Option<Use>>);

struct Use {
    /// None if it has a task of its own, which ends with this.
    upstream: Option<Box<Upstream>>,
    _task: Option<DropGuard>,
    busy: Busy,
}

impl Lease {
    /// Of a connection that is driven by who reads the body.
    pub(crate) fn of(upstream: Box<Upstream>, busy: Busy) -> Self {
        let control = upstream.control().clone();
        Self::begin(control, Use { upstream: Some(upstream), _task: None, busy })
    }

    /// Of a connection that has a task of its own, which ends with the lease if there is a guard of it.
    pub(crate) fn of_driven(control: Arc<Control>, task: Option<DropGuard>, busy: Busy) -> Self {
        Self::begin(control, Use { upstream: None, _task: task, busy })
    }

    fn begin(control: Arc<Control>, used: Use) -> Self {
        *lock(&control.held().0) = Some(used);
        if control.is_cut() {
            control.held().give_up();
        }
        Self(Some(control))
    }

    /// Does what there is to do on the connection, if anybody has to, and says how that ended if it did.
    pub(crate) fn drive(&self, cx: &mut Context<'_>) -> Option<Result<(), hyper::Error>> {
        let mut held = lock(&self.0.as_ref()?.held().0);
        let upstream = held.as_mut()?.upstream.as_mut()?;
        if upstream.is_over() {
            return None;
        }
        Some(upstream.drive(cx).map_or(Ok(()), Err))
    }

    /// Whether it was cut because nothing moved.
    pub(crate) fn stood_still(&self) -> bool {
        self.0.as_ref().is_some_and(|control| control.stood_still())
    }

    /// Whether it was cut.
    pub(crate) fn is_cut(&self) -> bool {
        self.0.as_ref().is_some_and(|control| control.is_cut())
    }

    /// Gives the connection back, to be used again.
    pub(crate) fn end(mut self) {
        // Not dropped with it any more: by then it may carry the next request.
        let Some(control) = self.0.take() else { return };
        let used = lock(&control.held().0).take();
        if let Some(Use { upstream: Some(upstream), busy, .. }) = used {
            busy.end_with(upstream);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(control) = &self.0 {
            control.held().give_up();
        }
    }
}

impl Held {
    /// Lets go of it.
    pub(super) fn give_up(&self) {
        let used = lock(&self.0).take();
        drop(used);
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Held")
    }
}
