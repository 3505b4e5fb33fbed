use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::PAYLOAD_LIMIT;

/// Most bytes that are pending.
const LEN_MAX: usize = 1 << 20;
/// Bytes that an item counts at least: it costs memory, however short it is.
const ITEM_LEN_MIN: usize = 64;

// One frame always fits.
const _: () = assert!(PAYLOAD_LIMIT <= LEN_MAX);

/// Makes a queue for what was read of one side and is not taken by the other yet. It holds 1 MiB.
#[must_use]
pub fn pending<T>() -> (PendingSender<T>, PendingReceiver<T>) {
    let (items, queued) = mpsc::channel(LEN_MAX / ITEM_LEN_MIN);
    let room = Arc::new(Semaphore::new(LEN_MAX));
    (PendingSender { items, room }, PendingReceiver { queued })
}

/// The end of the queue that is written.
#[derive(Debug)]
pub struct PendingSender<T> {
    items: mpsc::Sender<(T, Place)>,
    room: Arc<Semaphore>,
}

/// The end of the queue that is read.
#[derive(Debug)]
pub struct PendingReceiver<T> {
    queued: mpsc::Receiver<(T, Place)>,
}

/// The part of the queue that an item takes, until this is dropped.
#[derive(Debug)]
pub struct Place {
    _permit: OwnedSemaphorePermit,
}

impl<T> PendingSender<T> {
    /// Waits for room for an item of `len` bytes, at most [`PAYLOAD_LIMIT`], and queues it. Returns false if nobody takes
    /// it: the receiver was dropped.
    pub async fn send(&self, item: T, len: usize) -> bool {
        let len = u32::try_from(len.clamp(ITEM_LEN_MIN, LEN_MAX)).expect("1 MiB is below 4 GiB");
        let permit = tokio::select! {
            permit = self.room.clone().acquire_many_owned(len) => permit,
            () = self.items.closed() => return false,
        };
        let permit = permit.expect("the semaphore is never closed");
        self.items.send((item, Place { _permit: permit })).await.is_ok()
    }
}

impl<T> PendingReceiver<T> {
    /// Waits for the next item. `None` when all were taken and the sender was dropped.
    pub async fn recv(&mut self) -> Option<(T, Place)> {
        self.queued.recv().await
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_mib_is_pending_and_more_waits_until_some_was_taken() {
        let (sender, mut receiver) = pending();
        for item in 0..32 {
            assert!(sender.send(item, 32 << 10).await);
        }
        let mut more = pin!(sender.send(32, 1));
        tokio::select! {
            _ = &mut more => panic!("the queue is full"),
            taken = receiver.recv() => assert_eq!(taken.unwrap().0, 0),
        }
        assert!(more.await, "the place of what was taken is free");
    }

    #[tokio::test(start_paused = true)]
    async fn items_without_bytes_are_bounded_too() {
        let (sender, _receiver) = pending();
        let mut sent = 0;
        let forever = async {
            while sender.send((), 0).await {
                sent += 1;
            }
        };
        assert!(tokio::time::timeout(std::time::Duration::from_secs(1), forever).await.is_err());
        assert_eq!(sent, LEN_MAX / ITEM_LEN_MIN);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_room_hears_that_nobody_takes_it() {
        let (sender, receiver) = pending();
        assert!(sender.send((), LEN_MAX).await);
        let waits = pin!(sender.send((), LEN_MAX));
        let (sent, ()) = tokio::join!(waits, async { drop(receiver) });
        assert!(!sent);
    }
}
