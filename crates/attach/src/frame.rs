//! Frames: what both sides say once attached.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use crate::PAYLOAD_LIMIT;

const DATA: u8 = 3;
const SIGNAL: u8 = 4;
const EXIT: u8 = 5;
const RESIZE: u8 = 6;

/// Kind, stream and length.
const DATA_HEAD: usize = 6;
/// Kind and four bytes.
const FIXED: usize = 5;

/// One of a job's three streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// To the job.
    Stdin,
    /// From the job.
    Stdout,
    /// From the job.
    Stderr,
}

impl Stream {
    fn byte(self) -> u8 {
        match self {
            Self::Stdin => 0,
            Self::Stdout => 1,
            Self::Stderr => 2,
        }
    }

    fn of_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Stdin),
            1 => Some(Self::Stdout),
            2 => Some(Self::Stderr),
            _ => None,
        }
    }
}

/// One thing said on an attached connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Bytes of a stream; none: the end of that stream.
    Data {
        /// Which.
        stream: Stream,
        /// What.
        bytes: Bytes,
    },
    /// Send this signal to the job.
    Signal(u32),
    /// The job ended with this status; nothing follows.
    Exit(u32),
    /// The terminal has this size now.
    Resize {
        /// Rows.
        height: u16,
        /// Columns.
        width: u16,
    },
}

impl Frame {
    /// The end of a stream.
    pub fn eof(stream: Stream) -> Self {
        Self::Data { stream, bytes: Bytes::new() }
    }
}

/// The peer does not speak the protocol, or the connection was lost.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// No frame begins like this.
    #[error("the attached peer sent a frame of unknown kind {0}")]
    UnknownKind(u8),
    /// There is no such stream.
    #[error("the attached peer sent data of unknown stream {0}")]
    UnknownStream(u8),
    /// A frame is longer than [`PAYLOAD_LIMIT`].
    #[error("a frame of {0} bytes is longer than the protocol allows")]
    TooLong(usize),
    /// The connection failed.
    #[error("the attached connection failed")]
    Io(#[from] std::io::Error),
}

/// Cuts bytes into frames and makes bytes of frames.
#[derive(Debug, Clone, Copy, Default)]
pub struct FrameCodec;

impl Decoder for FrameCodec {
    type Item = Frame;
    type Error = FrameError;

    fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let Some(&kind) = bytes.first() else { return Ok(None) };
        match kind {
            DATA => decode_data(bytes),
            SIGNAL => Ok(fixed(bytes).map(|mut value| Frame::Signal(value.get_u32()))),
            EXIT => Ok(fixed(bytes).map(|mut value| Frame::Exit(value.get_u32()))),
            RESIZE => Ok(fixed(bytes).map(|mut value| {
                let height = value.get_u16();
                Frame::Resize { height, width: value.get_u16() }
            })),
            unknown => Err(FrameError::UnknownKind(unknown)),
        }
    }
}

fn decode_data(bytes: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
    if bytes.len() < DATA_HEAD {
        bytes.reserve(DATA_HEAD);
        return Ok(None);
    }
    let stream = Stream::of_byte(bytes[1]).ok_or(FrameError::UnknownStream(bytes[1]))?;
    let length = (&bytes[2..DATA_HEAD]).get_u32() as usize;
    if length > PAYLOAD_LIMIT {
        return Err(FrameError::TooLong(length));
    }
    if bytes.len() < DATA_HEAD + length {
        bytes.reserve(DATA_HEAD + length - bytes.len());
        return Ok(None);
    }
    bytes.advance(DATA_HEAD);
    Ok(Some(Frame::Data { stream, bytes: bytes.split_to(length).freeze() }))
}

fn fixed(bytes: &mut BytesMut) -> Option<BytesMut> {
    (bytes.len() >= FIXED).then(|| {
        bytes.advance(1);
        bytes.split_to(FIXED - 1)
    })
}

impl Encoder<Frame> for FrameCodec {
    type Error = FrameError;

    fn encode(&mut self, frame: Frame, out: &mut BytesMut) -> Result<(), FrameError> {
        match frame {
            Frame::Data { stream, bytes } => {
                if bytes.len() > PAYLOAD_LIMIT {
                    return Err(FrameError::TooLong(bytes.len()));
                }
                out.reserve(DATA_HEAD + bytes.len());
                out.put_u8(DATA);
                out.put_u8(stream.byte());
                out.put_u32(u32::try_from(bytes.len()).expect("the limit is below 4 GiB"));
                out.put(bytes);
            }
            Frame::Signal(number) => put_fixed(out, SIGNAL, number),
            Frame::Exit(status) => put_fixed(out, EXIT, status),
            Frame::Resize { height, width } => {
                put_fixed(out, RESIZE, u32::from(height) << 16 | u32::from(width));
            }
        }
        Ok(())
    }
}

fn put_fixed(out: &mut BytesMut, kind: u8, value: u32) {
    out.put_u8(kind);
    out.put_u32(value);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frames() -> impl Strategy<Value = Vec<Frame>> {
        let stream = prop_oneof![Just(Stream::Stdin), Just(Stream::Stdout), Just(Stream::Stderr)];
        let frame = prop_oneof![
            (stream, any::<Vec<u8>>())
                .prop_map(|(stream, bytes)| Frame::Data { stream, bytes: bytes.into() }),
            any::<u32>().prop_map(Frame::Signal),
            any::<u32>().prop_map(Frame::Exit),
            any::<(u16, u16)>().prop_map(|(height, width)| Frame::Resize { height, width }),
        ];
        prop::collection::vec(frame, 0..12)
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_frames(
            frames in frames(),
            cuts in prop::collection::vec(1usize..20, 1..40),
        ) {
            let mut wire = BytesMut::new();
            for frame in &frames {
                FrameCodec.encode(frame.clone(), &mut wire).unwrap();
            }
            let (mut buffer, mut got) = (BytesMut::new(), Vec::new());
            for &cut in cuts.iter().cycle() {
                if wire.is_empty() { break }
                buffer.extend(wire.split_to(cut.min(wire.len())));
                while let Some(frame) = FrameCodec.decode(&mut buffer).unwrap() {
                    got.push(frame);
                }
            }
            prop_assert_eq!(got, frames);
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn decoding_never_panics(bytes: Vec<u8>) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = FrameCodec.decode(&mut buffer) {}
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_protocol() {
        let mut out = BytesMut::new();
        let data = Frame::Data { stream: Stream::Stderr, bytes: "hi".into() };
        for frame in [data, Frame::Exit(7), Frame::Resize { height: 24, width: 80 }] {
            FrameCodec.encode(frame, &mut out).unwrap();
        }
        assert_eq!(&out[..], b"\x03\x02\0\0\0\x02hi\x05\0\0\0\x07\x06\0\x18\0\x50");
    }

    #[test]
    fn a_frame_beyond_the_limit_is_refused_before_it_is_there() {
        let mut head = BytesMut::from(&b"\x03\x01\xff\xff\xff\xff"[..]);
        assert!(matches!(FrameCodec.decode(&mut head), Err(FrameError::TooLong(_))));
    }
}
