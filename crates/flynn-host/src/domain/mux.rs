//! The engine's framing of a job's output where it has no terminal: kind, three zeros, a length, bytes.
//!
//! Nothing is kept between chunks but the rest of a head and a count, so no header can make the host buffer anything.

use bytes::{Buf, Bytes};

/// Which of a job's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Out {
    /// stdout, or the terminal.
    Stdout,
    /// stderr.
    Stderr,
}

impl Out {
    /// Its name on the wire.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// The stream is not framed as the engine frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the engine's stream has a frame of unknown kind {0}")]
pub(crate) struct BadFrame(u8);

/// Cuts the stream into pieces of stdout and stderr, under any chunking.
#[derive(Debug, Default)]
pub(crate) struct Demux {
    head: Vec<u8>,
    left: u32,
    out: Option<Out>,
}

impl Demux {
    /// Takes a chunk and appends its pieces.
    pub(crate) fn push(
        &mut self,
        mut chunk: Bytes,
        pieces: &mut Vec<(Out, Bytes)>,
    ) -> Result<(), BadFrame> {
        while !chunk.is_empty() {
            if self.left == 0 {
                let missing = (8 - self.head.len()).min(chunk.len());
                self.head.extend_from_slice(&chunk.split_to(missing));
                if self.head.len() == 8 {
                    self.out = out(self.head[0])?;
                    self.left = (&self.head[4..]).get_u32();
                    self.head.clear();
                }
                continue;
            }
            let piece = chunk.split_to(chunk.len().min(self.left as usize));
            self.left -= u32::try_from(piece.len()).expect("a piece is no longer than its frame");
            if let Some(out) = self.out {
                pieces.push((out, piece));
            }
        }
        Ok(())
    }
}

/// 3 carries the engine's own complaints, which are not the job's output.
fn out(kind: u8) -> Result<Option<Out>, BadFrame> {
    match kind {
        0 | 1 => Ok(Some(Out::Stdout)),
        2 => Ok(Some(Out::Stderr)),
        3 => Ok(None),
        unknown => Err(BadFrame(unknown)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_bytes(
            frames in prop::collection::vec((1u8..=2, prop::collection::vec(any::<u8>(), 0..40)), 0..8),
            cuts in prop::collection::vec(1usize..13, 1..30),
        ) {
            let mut wire = Vec::new();
            let mut want: [Vec<u8>; 2] = [Vec::new(), Vec::new()];
            for (kind, bytes) in &frames {
                wire.extend([*kind, 0, 0, 0]);
                wire.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
                wire.extend(bytes);
                want[usize::from(*kind) - 1].extend(bytes);
            }
            let mut rest = Bytes::from(wire);
            let (mut demux, mut pieces) = (Demux::default(), Vec::new());
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break }
                demux.push(rest.split_to((*cut).min(rest.len())), &mut pieces).unwrap();
            }
            let got = [Out::Stdout, Out::Stderr].map(|out| {
                pieces.iter().filter(|(o, _)| *o == out).flat_map(|(_, b)| b.to_vec()).collect::<Vec<_>>()
            });
            prop_assert_eq!(got, want);
        }

        #[test]
        fn cutting_never_panics(chunks: Vec<Vec<u8>>) {
            let mut demux = Demux::default();
            for chunk in chunks {
                let _ = demux.push(chunk.into(), &mut Vec::new());
            }
        }
    }
}
