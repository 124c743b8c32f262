//! SPDY/3.1, as `kubectl port-forward` (inside a WebSocket) and older clients (by themselves) still speak it.
//!
//! `frame` and `headers` are the pure codec, `session` multiplexes streams over any byte stream with it. Windows are
//! not kept: the one client that is left, Go's spdystream, neither sends updates nor waits for them; what holds a
//! sender back is the connection under it.

pub mod dictionary;
pub mod frame;
pub mod headers;
pub mod session;

#[cfg(test)]
mod tests;

use thiserror::Error;

/// Why a connection is given up.
#[derive(Debug, Error)]
pub enum SpdyError {
    /// The bytes are no SPDY/3.1.
    #[error("malformed SPDY {0}")]
    Malformed(&'static str),
    /// A block does not decompress.
    #[error("malformed SPDY header compression")]
    Compression,
    /// Longer than we read.
    #[error("SPDY {0} too large")]
    TooLarge(&'static str),
    /// The connection below broke.
    #[error("connection: {0}")]
    Io(#[from] std::io::Error),
}
