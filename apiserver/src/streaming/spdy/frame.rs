//! SPDY/3.1 frames: bytes to [`Frame`] and back. Pure: no IO, no clock; garbage is an error, never a panic.
//!
//! DATA frames are handed out piece by piece as their bytes come, so that a frame of 16 MiB needs no buffer of 16 MiB.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use super::SpdyError;
use super::headers::{HeaderReader, HeaderWriter, Headers};

const VERSION: u16 = 3;
const FIN: u8 = 1;
const UNIDIRECTIONAL: u8 = 2;
const STREAM_MASK: u32 = 0x7fff_ffff;

/// The longest control frame that is read, in bytes.
const MAX_CONTROL: usize = 64 * 1024;

/// The longest piece of data that is put into one frame, in bytes.
pub const MAX_DATA: usize = 256 * 1024;

/// RST_STREAM status: the peer broke the protocol.
pub const RST_PROTOCOL_ERROR: u32 = 1;
/// RST_STREAM status: the stream was not taken.
pub const RST_REFUSED: u32 = 3;
/// RST_STREAM status: no longer wanted.
pub const RST_CANCEL: u32 = 5;

/// What travels on a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Opens a stream.
    SynStream {
        /// Odd from the client, even from the server.
        id: u32,
        /// The stream that it belongs to; 0 for none.
        associated: u32,
        /// 0 (highest) to 7.
        priority: u8,
        /// The sender will send nothing on it.
        fin: bool,
        /// The receiver may send nothing on it.
        unidirectional: bool,
        /// What it is for.
        headers: Headers,
    },
    /// Accepts a stream.
    SynReply {
        /// Which.
        id: u32,
        /// The sender will send nothing on it.
        fin: bool,
        /// Answer.
        headers: Headers,
    },
    /// Ends a stream at once, both ways.
    RstStream {
        /// Which.
        id: u32,
        /// Why.
        status: u32,
    },
    /// Advice: identifier and value. Of no use to us.
    Settings(Vec<(u32, u32)>),
    /// To be sent back by the end that did not begin it.
    Ping(u32),
    /// No stream after `last` was or will be looked at.
    GoAway {
        /// The last stream that was accepted.
        last: u32,
        /// Why: 0 for nothing bad.
        status: u32,
    },
    /// More headers of an open stream.
    Headers {
        /// Which.
        id: u32,
        /// The sender will send nothing more on it.
        fin: bool,
        /// The headers.
        headers: Headers,
    },
    /// More may be sent.
    WindowUpdate {
        /// Which stream; 0 for the connection.
        id: u32,
        /// Bytes.
        delta: u32,
    },
    /// A piece of a stream.
    Data {
        /// Which.
        id: u32,
        /// The sender will send nothing more on it.
        fin: bool,
        /// The bytes.
        data: Bytes,
    },
}

/// Writes the frames of one connection.
#[derive(Debug)]
pub struct Encoder {
    headers: HeaderWriter,
}

impl Encoder {
    /// At the start of a connection.
    pub fn new() -> Self {
        Self { headers: HeaderWriter::new() }
    }

    /// Appends `frame`, which must be the next one that is sent: compression has a memory.
    pub fn encode(&mut self, frame: &Frame, out: &mut BytesMut) -> Result<(), SpdyError> {
        let mut body = Vec::new();
        let (kind, flags) = match frame {
            Frame::Data { id, fin, data } => return encode_data(*id, *fin, data, out),
            Frame::SynStream { id, associated, priority, fin, unidirectional, headers } => {
                body.put_u32(id & STREAM_MASK);
                body.put_u32(associated & STREAM_MASK);
                body.put_u8(priority << 5);
                body.put_u8(0);
                self.headers.write(headers, &mut body)?;
                (1, flag(*fin, FIN) | flag(*unidirectional, UNIDIRECTIONAL))
            }
            Frame::SynReply { id, fin, headers } => {
                body.put_u32(id & STREAM_MASK);
                self.headers.write(headers, &mut body)?;
                (2, flag(*fin, FIN))
            }
            Frame::RstStream { id, status } => {
                body.put_u32(id & STREAM_MASK);
                body.put_u32(*status);
                (3, 0)
            }
            Frame::Settings(settings) => {
                body.put_u32(u32::try_from(settings.len()).map_err(|_| SpdyError::TooLarge("SETTINGS"))?);
                for (id, value) in settings {
                    body.put_u32(id & 0x00ff_ffff);
                    body.put_u32(*value);
                }
                (4, 0)
            }
            Frame::Ping(id) => {
                body.put_u32(*id);
                (6, 0)
            }
            Frame::GoAway { last, status } => {
                body.put_u32(last & STREAM_MASK);
                body.put_u32(*status);
                (7, 0)
            }
            Frame::Headers { id, fin, headers } => {
                body.put_u32(id & STREAM_MASK);
                self.headers.write(headers, &mut body)?;
                (8, flag(*fin, FIN))
            }
            Frame::WindowUpdate { id, delta } => {
                body.put_u32(id & STREAM_MASK);
                body.put_u32(delta & STREAM_MASK);
                (9, 0)
            }
        };
        out.put_u16(0x8000 | VERSION);
        out.put_u16(kind);
        put_length(flags, body.len(), out)?;
        out.extend_from_slice(&body);
        Ok(())
    }
}

fn flag(set: bool, flag: u8) -> u8 {
    if set { flag } else { 0 }
}

fn put_length(flags: u8, length: usize, out: &mut BytesMut) -> Result<(), SpdyError> {
    let length = u32::try_from(length).ok().filter(|length| *length < 1 << 24).ok_or(SpdyError::TooLarge("frame"))?;
    out.put_u32(u32::from(flags) << 24 | length);
    Ok(())
}

fn encode_data(id: u32, fin: bool, data: &Bytes, out: &mut BytesMut) -> Result<(), SpdyError> {
    let mut rest = data.clone();
    loop {
        let piece = rest.split_to(rest.len().min(MAX_DATA));
        let last = rest.is_empty();
        out.put_u32(id & STREAM_MASK);
        put_length(flag(fin && last, FIN), piece.len(), out)?;
        out.extend_from_slice(&piece);
        if last {
            return Ok(());
        }
    }
}

/// Reads the frames of one connection.
#[derive(Debug)]
pub struct Decoder {
    buffer: BytesMut,
    headers: HeaderReader,
    /// A DATA frame of which bytes are still to come: stream, last one, how many.
    open: Option<(u32, bool, usize)>,
}

impl Decoder {
    /// At the start of a connection.
    pub fn new() -> Self {
        Self { buffer: BytesMut::new(), headers: HeaderReader::new(), open: None }
    }

    /// More bytes from the wire.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame, `None` until more bytes are pushed. After an error the connection is of no use any more.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, SpdyError> {
        loop {
            if let Some((id, fin, left)) = self.open.take() {
                return Ok(self.next_data(id, fin, left));
            }
            let Some(head) = self.buffer.first_chunk::<8>() else { return Ok(None) };
            let first = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
            let (flags, length) =
                (head[4], usize::from(head[5]) << 16 | usize::from(head[6]) << 8 | usize::from(head[7]));
            if first & 0x8000_0000 == 0 {
                self.buffer.advance(8);
                self.open = Some((first, flags & FIN != 0, length));
                continue;
            }
            if first >> 16 != u32::from(0x8000 | VERSION) {
                return Err(SpdyError::Malformed("version"));
            }
            if length > MAX_CONTROL {
                return Err(SpdyError::TooLarge("control frame"));
            }
            if self.buffer.len() < 8 + length {
                return Ok(None);
            }
            self.buffer.advance(8);
            let body = self.buffer.split_to(length);
            if let Some(frame) = self.control(first & 0xffff, flags, &body)? {
                return Ok(Some(frame));
            }
        }
    }

    fn next_data(&mut self, id: u32, fin: bool, left: usize) -> Option<Frame> {
        if left > 0 && self.buffer.is_empty() {
            self.open = Some((id, fin, left));
            return None;
        }
        let data = self.buffer.split_to(left.min(self.buffer.len())).freeze();
        let left = left - data.len();
        if left > 0 {
            self.open = Some((id, fin, left));
        }
        Some(Frame::Data { id, fin: fin && left == 0, data })
    }

    /// `None` for a kind that we do not know: SPDY says to skip those.
    fn control(&mut self, kind: u32, flags: u8, body: &[u8]) -> Result<Option<Frame>, SpdyError> {
        let fin = flags & FIN != 0;
        let frame = match kind {
            1 => {
                let (id, associated) = (number(body, 0)? & STREAM_MASK, number(body, 4)? & STREAM_MASK);
                let (head, block) = body.split_at_checked(10).ok_or(SpdyError::Malformed("SYN_STREAM"))?;
                let headers = self.headers.read(block)?;
                let unidirectional = flags & UNIDIRECTIONAL != 0;
                Frame::SynStream { id, associated, priority: head[8] >> 5, fin, unidirectional, headers }
            }
            2 | 8 => {
                let id = number(body, 0)? & STREAM_MASK;
                let headers = self.headers.read(&body[4..])?;
                if kind == 2 { Frame::SynReply { id, fin, headers } } else { Frame::Headers { id, fin, headers } }
            }
            3 => Frame::RstStream { id: number(body, 0)? & STREAM_MASK, status: number(body, 4)? },
            4 => Frame::Settings(settings(body)?),
            6 => Frame::Ping(number(body, 0)?),
            7 => Frame::GoAway { last: number(body, 0)? & STREAM_MASK, status: number(body, 4)? },
            9 => Frame::WindowUpdate { id: number(body, 0)? & STREAM_MASK, delta: number(body, 4)? & STREAM_MASK },
            _ => return Ok(None),
        };
        Ok(Some(frame))
    }
}

fn number(body: &[u8], at: usize) -> Result<u32, SpdyError> {
    let chunk = body.get(at..).and_then(<[u8]>::first_chunk::<4>);
    chunk.map(|chunk| u32::from_be_bytes(*chunk)).ok_or(SpdyError::Malformed("control frame"))
}

fn settings(body: &[u8]) -> Result<Vec<(u32, u32)>, SpdyError> {
    let entries = body.get(4..).unwrap_or_default();
    if number(body, 0)? as usize != entries.len() / 8 {
        return Err(SpdyError::Malformed("SETTINGS"));
    }
    entries.chunks_exact(8).map(|entry| Ok((number(entry, 0)? & 0x00ff_ffff, number(entry, 4)?))).collect()
}
