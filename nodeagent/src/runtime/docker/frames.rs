//! The engine's way to send two outputs over one connection: frames of an 8-byte head (stream, length) and payload.
//! With a terminal there is one output and no frames. Pure.

use bytes::{Buf, Bytes, BytesMut};

use crate::runtime::Output;

const HEAD: usize = 8;
const STDERR: u8 = 2;

/// A piece of output. A long frame comes in several pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The bytes.
    pub output: Output,
    /// Whether a frame begins here; always false with a terminal.
    pub starts_frame: bool,
}

/// Takes bytes as they come, gives pieces as soon as any byte of them is there.
#[derive(Debug)]
pub struct Demultiplexer {
    terminal: bool,
    buffer: BytesMut,
    stream: u8,
    left: usize,
}

impl Demultiplexer {
    /// `terminal`: the connection carries one output without frames.
    pub fn new(terminal: bool) -> Self {
        Self { terminal, buffer: BytesMut::new(), stream: 0, left: 0 }
    }

    /// Takes what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next piece; `None` until more is pushed.
    pub fn next_piece(&mut self) -> Option<Piece> {
        if self.terminal {
            let all = self.buffer.split().freeze();
            return (!all.is_empty()).then_some(Piece { output: Output::Stdout(all), starts_frame: false });
        }
        let mut starts_frame = false;
        while self.left == 0 {
            if self.buffer.len() < HEAD {
                return None;
            }
            self.stream = self.buffer.get_u8();
            self.buffer.advance(3);
            self.left = self.buffer.get_u32() as usize;
            starts_frame = true;
        }
        if self.buffer.is_empty() {
            // The head is remembered: the frame starts with the next push.
            return self.postpone(starts_frame);
        }
        let take = self.left.min(self.buffer.len());
        self.left -= take;
        let starts_frame = starts_frame || self.take_postponed();
        Some(Piece { output: self.output(take), starts_frame })
    }

    fn output(&mut self, length: usize) -> Output {
        let bytes: Bytes = self.buffer.split_to(length).freeze();
        if self.stream & !POSTPONED == STDERR { Output::Stderr(bytes) } else { Output::Stdout(bytes) }
    }

    fn postpone(&mut self, starts_frame: bool) -> Option<Piece> {
        if starts_frame {
            self.stream |= POSTPONED;
        }
        None
    }

    fn take_postponed(&mut self) -> bool {
        let postponed = self.stream & POSTPONED != 0;
        self.stream &= !POSTPONED;
        postponed
    }
}

/// Marks a stream whose frame's head came without payload.
const POSTPONED: u8 = 0x80;

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(stream: u8, text: &str) -> Vec<u8> {
        let mut bytes = vec![stream, 0, 0, 0];
        bytes.extend_from_slice(&u32::try_from(text.len()).expect("short").to_be_bytes());
        bytes.extend_from_slice(text.as_bytes());
        bytes
    }

    fn joined(chunks: impl IntoIterator<Item = Vec<u8>>) -> (String, String, usize) {
        let mut demultiplexer = Demultiplexer::new(false);
        let (mut stdout, mut stderr, mut frames) = (Vec::new(), Vec::new(), 0);
        for chunk in chunks {
            demultiplexer.push(&chunk);
            while let Some(piece) = demultiplexer.next_piece() {
                frames += usize::from(piece.starts_frame);
                match piece.output {
                    Output::Stdout(bytes) => stdout.extend_from_slice(&bytes),
                    Output::Stderr(bytes) => stderr.extend_from_slice(&bytes),
                }
            }
        }
        (String::from_utf8(stdout).expect("text"), String::from_utf8(stderr).expect("text"), frames)
    }

    #[test]
    fn frames_come_apart_wherever_the_bytes_are_cut() {
        let all = [frame(1, "hello "), frame(2, "oops"), frame(1, ""), frame(1, "world")].concat();
        let expected = ("hello world".to_owned(), "oops".to_owned(), 3);
        assert_eq!(joined([all.clone()]), expected);
        for size in 1..all.len() {
            assert_eq!(joined(all.chunks(size).map(<[u8]>::to_vec)), expected, "cut every {size}");
        }
    }

    #[test]
    fn a_terminal_passes_every_byte() {
        let mut demultiplexer = Demultiplexer::new(true);
        demultiplexer.push(b"\x01\x00\x02raw");
        let piece = demultiplexer.next_piece().expect("a piece");
        assert_eq!(piece.output, Output::Stdout(Bytes::from_static(b"\x01\x00\x02raw")));
        assert_eq!(demultiplexer.next_piece(), None);
    }
}
