//! Header blocks of SPDY/3.1: name/value pairs, compressed with one zlib stream per direction and connection.
//!
//! zlib's preset dictionary is done here on plain deflate, so that any backend of `flate2` will do: a reader that has
//! been fed the dictionary as a stored block knows it as its window; a writer names the dictionary and need not use it.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::SpdyError;
use super::dictionary::{DICTIONARY, DICTIONARY_ID};

/// Name and value; names are lower case, several values of one name are separated by NUL.
pub type Headers = Vec<(String, String)>;

/// The longest header block that is read, decompressed, in bytes.
const MAX_BLOCK: usize = 64 * 1024;

/// CMF and FLG of zlib: deflate, 32 KiB window, a preset dictionary follows.
const ZLIB_HEADER: [u8; 2] = [0x78, 0xbb];

/// The value of `name`, which must be lower case.
pub fn value<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
}

/// Compresses header blocks, in the order in which they are sent.
#[derive(Debug)]
pub struct HeaderWriter {
    deflate: Compress,
    begun: bool,
}

impl HeaderWriter {
    /// At the start of a connection.
    pub fn new() -> Self {
        Self { deflate: Compress::new(Compression::fast(), false), begun: false }
    }

    /// Appends the compressed block to `out`.
    pub fn write(&mut self, headers: &Headers, out: &mut Vec<u8>) -> Result<(), SpdyError> {
        let plain = plain_block(headers)?;
        if !self.begun {
            self.begun = true;
            out.extend_from_slice(&ZLIB_HEADER);
            out.extend_from_slice(&DICTIONARY_ID.to_be_bytes());
        }
        let mut taken = 0;
        loop {
            out.reserve(plain.len() + 64);
            let before = self.deflate.total_in();
            let status = self.deflate.compress_vec(&plain[taken..], out, FlushCompress::Sync);
            if !matches!(status, Ok(Status::Ok | Status::BufError)) {
                return Err(SpdyError::Compression);
            }
            taken += usize::try_from(self.deflate.total_in() - before).unwrap_or(usize::MAX);
            if taken >= plain.len() && out.len() < out.capacity() {
                return Ok(());
            }
        }
    }
}

/// Decompresses header blocks, in the order in which they come.
#[derive(Debug)]
pub struct HeaderReader {
    inflate: Decompress,
    begun: bool,
}

impl HeaderReader {
    /// At the start of a connection.
    pub fn new() -> Self {
        Self { inflate: Decompress::new(false), begun: false }
    }

    /// One block as it stands in a frame.
    pub fn read(&mut self, mut compressed: &[u8]) -> Result<Headers, SpdyError> {
        if !self.begun {
            let Some((head, rest)) = compressed.split_at_checked(6) else { return Err(SpdyError::Compression) };
            let (flags, id) = head.split_at(2);
            if flags[0] & 0x0f != 8 || flags[1] & 0x20 == 0 || id != DICTIONARY_ID.to_be_bytes() {
                return Err(SpdyError::Compression);
            }
            self.prime()?;
            self.begun = true;
            compressed = rest;
        }
        parse_block(&self.inflate(compressed)?)
    }

    /// Feeds the dictionary as a stored deflate block.
    fn prime(&mut self) -> Result<(), SpdyError> {
        let length = u16::try_from(DICTIONARY.len()).map_err(|_| SpdyError::Compression)?;
        let mut stored = vec![0];
        stored.extend_from_slice(&length.to_le_bytes());
        stored.extend_from_slice(&(!length).to_le_bytes());
        stored.extend_from_slice(DICTIONARY);
        let primed = self.inflate(&stored)?;
        (primed == DICTIONARY).then_some(()).ok_or(SpdyError::Compression)
    }

    fn inflate(&mut self, compressed: &[u8]) -> Result<Vec<u8>, SpdyError> {
        let mut out = Vec::with_capacity(2048);
        let mut taken = 0;
        loop {
            if out.len() > MAX_BLOCK {
                return Err(SpdyError::TooLarge("header block"));
            }
            if out.capacity() - out.len() < 512 {
                out.reserve(4096);
            }
            let (before_in, before_out) = (self.inflate.total_in(), out.len());
            let status = self.inflate.decompress_vec(&compressed[taken..], &mut out, FlushDecompress::Sync);
            if !matches!(status, Ok(Status::Ok | Status::BufError)) {
                return Err(SpdyError::Compression);
            }
            let step = usize::try_from(self.inflate.total_in() - before_in).unwrap_or(usize::MAX);
            taken += step;
            if taken >= compressed.len() && out.len() < out.capacity() {
                return Ok(out);
            }
            if step == 0 && out.len() == before_out {
                return Err(SpdyError::Compression);
            }
        }
    }
}

fn plain_block(headers: &Headers) -> Result<Vec<u8>, SpdyError> {
    let too_large = |_| SpdyError::TooLarge("header block");
    let mut plain = u32::try_from(headers.len()).map_err(too_large)?.to_be_bytes().to_vec();
    for part in headers.iter().flat_map(|(name, value)| [name, value]) {
        plain.extend_from_slice(&u32::try_from(part.len()).map_err(too_large)?.to_be_bytes());
        plain.extend_from_slice(part.as_bytes());
    }
    Ok(plain)
}

fn parse_block(plain: &[u8]) -> Result<Headers, SpdyError> {
    let mut rest = plain;
    let count = take_u32(&mut rest)?;
    let mut headers = Headers::new();
    for _ in 0..count {
        let name = take_text(&mut rest)?.to_ascii_lowercase();
        let value = take_text(&mut rest)?;
        headers.push((name, value));
    }
    Ok(headers)
}

fn take_u32(rest: &mut &[u8]) -> Result<u32, SpdyError> {
    let (head, tail) = rest.split_first_chunk::<4>().ok_or(SpdyError::Malformed("header block"))?;
    *rest = tail;
    Ok(u32::from_be_bytes(*head))
}

fn take_text(rest: &mut &[u8]) -> Result<String, SpdyError> {
    let length = usize::try_from(take_u32(rest)?).map_err(|_| SpdyError::Malformed("header block"))?;
    let (text, tail) = rest.split_at_checked(length).ok_or(SpdyError::Malformed("header block"))?;
    *rest = tail;
    Ok(String::from_utf8_lossy(text).into_owned())
}
