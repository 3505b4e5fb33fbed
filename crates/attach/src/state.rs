//! The state a server says before the first frame.

use std::io::{Error, ErrorKind};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::PAYLOAD_LIMIT;

/// What a server says before the first frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Frames follow.
    Attached,
    /// The job is not there yet; another state follows.
    Waiting,
    /// It will not be, and why; nothing follows.
    Error(String),
}

impl State {
    /// The state's bytes. A text beyond the limit is cut.
    pub fn to_bytes(&self) -> Bytes {
        match self {
            Self::Attached => Bytes::from_static(&[0]),
            Self::Waiting => Bytes::from_static(&[1]),
            Self::Error(text) => {
                let text = &text.as_bytes()[..text.floor_char_boundary(PAYLOAD_LIMIT)];
                let mut bytes = BytesMut::with_capacity(5 + text.len());
                bytes.put_u8(2);
                bytes.put_u32(u32::try_from(text.len()).expect("the limit is below 4 GiB"));
                bytes.put(text);
                bytes.freeze()
            }
        }
    }
}

/// Reads one state and not a byte more, so that frames can be read after it.
pub async fn read_state(connection: &mut (impl AsyncRead + Unpin)) -> Result<State, Error> {
    match connection.read_u8().await? {
        0 => Ok(State::Attached),
        1 => Ok(State::Waiting),
        2 => {
            let length = connection.read_u32().await? as usize;
            if length > PAYLOAD_LIMIT {
                return Err(invalid(format!("an error text of {length} bytes is too long")));
            }
            let mut text = vec![0; length];
            connection.read_exact(&mut text).await?;
            Ok(State::Error(String::from_utf8_lossy(&text).into_owned()))
        }
        unknown => Err(invalid(format!("{unknown} is no state of an attached connection"))),
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_state_reads_back_and_leaves_the_frames() {
        for state in [State::Attached, State::Waiting, State::Error("no such job".into())] {
            let wire = [&state.to_bytes()[..], b"\x05"].concat();
            let mut rest = &wire[..];
            assert_eq!(read_state(&mut rest).await.unwrap(), state);
            assert_eq!(rest, b"\x05");
        }
    }

    #[tokio::test]
    async fn what_is_no_state_is_refused() {
        for wire in [&b""[..], b"\x03", b"\x02\xff\xff\xff\xff", b"\x02\0\0\0\x05ab"] {
            let mut rest = wire;
            assert!(read_state(&mut rest).await.is_err(), "{wire:?}");
        }
    }
}
