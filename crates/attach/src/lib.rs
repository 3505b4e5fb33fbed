#![doc = include_str!("../README.md")]

mod frame;
mod pending;
mod state;

pub use frame::{Frame, FrameCodec, FrameError, Stream};
pub use pending::{PendingReceiver, PendingSender, Place, pending};
pub use state::{State, read_state};

/// Name of the protocol, for the `Upgrade` header.
pub const PROTOCOL: &str = "flynn-attach/0";

/// Most bytes one frame or text carries. Pipes give 64 KiB at a time, so this is for senders with larger buffers; what
/// is longer is taken for a broken peer.
pub const PAYLOAD_LIMIT: usize = 1 << 20;
