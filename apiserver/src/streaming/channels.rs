//! Many channels in one WebSocket: Kubernetes' `channel.k8s.io` family. Pure: messages in, meanings out.
//!
//! The first byte of a message is the channel (in the base64 forms: its digit, and the rest is base64).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use tokio_tungstenite::tungstenite::Message;

/// Channel numbers of exec and attach.
pub const STDIN: u8 = 0;
/// Standard output.
pub const STDOUT: u8 = 1;
/// Standard error.
pub const STDERR: u8 = 2;
/// How it ended.
pub const ERROR: u8 = 3;
/// Sizes of the terminal.
pub const RESIZE: u8 = 4;
/// v5: the next byte names a channel that its sender has closed.
pub const CLOSE: u8 = 255;

/// What the version of the protocol changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Plain text errors, no end of standard input.
    V1,
    /// A `Status` at the end.
    V4,
    /// And channels can be closed.
    V5,
}

/// An agreed protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Framing {
    /// Which version.
    pub version: Version,
    /// Text messages.
    pub base64: bool,
}

/// A message's meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// Bytes for a channel.
    Data(u8, Bytes),
    /// The peer will send nothing more on a channel.
    Closed(u8),
    /// Nothing: empty, a ping, or no protocol of ours.
    Nothing,
}

const V1: Framing = Framing { version: Version::V1, base64: false };
const V4: Framing = Framing { version: Version::V4, base64: false };
const V5: Framing = Framing { version: Version::V5, base64: false };

/// Protocols of exec and attach.
pub const TERMINAL: &[(&str, Framing)] = &[
    ("v5.channel.k8s.io", V5),
    ("v4.channel.k8s.io", V4),
    ("v4.base64.channel.k8s.io", Framing { base64: true, ..V4 }),
    ("channel.k8s.io", V1),
    ("base64.channel.k8s.io", Framing { base64: true, ..V1 }),
];

/// Protocols of port-forward over channels.
pub const FORWARD: &[(&str, Framing)] =
    &[("v4.channel.k8s.io", V4), ("v4.base64.channel.k8s.io", Framing { base64: true, ..V4 })];

/// Protocols of a log: messages without a channel.
pub const LOG: &[(&str, Framing)] = &[("binary.k8s.io", V1), ("base64.binary.k8s.io", Framing { base64: true, ..V1 })];

/// The first of `offers` that is in `known`, with its name; without an offer `fallback`, unnamed. `None`: no common one.
pub fn negotiate(
    offers: &[String],
    known: &[(&'static str, Framing)],
    fallback: Framing,
) -> Option<(Option<&'static str>, Framing)> {
    if offers.is_empty() {
        return Some((None, fallback));
    }
    offers
        .iter()
        .find_map(|offer| known.iter().find(|(name, _)| name == offer))
        .map(|(name, framing)| (Some(*name), *framing))
}

/// What a client without a subprotocol speaks on exec and attach.
pub const TERMINAL_DEFAULT: Framing = V1;
/// What a client without a subprotocol speaks on port-forward.
pub const FORWARD_DEFAULT: Framing = V4;
/// What a client without a subprotocol reads from a log.
pub const LOG_DEFAULT: Framing = V1;

impl Framing {
    /// A message with `data` for `channel`.
    pub fn message(self, channel: u8, data: &[u8]) -> Message {
        if self.base64 {
            return Message::text(format!("{}{}", char::from(b'0'.wrapping_add(channel)), STANDARD.encode(data)));
        }
        let mut framed = Vec::with_capacity(data.len() + 1);
        framed.push(channel);
        framed.extend_from_slice(data);
        Message::binary(framed)
    }

    /// A message with `data` and no channel.
    pub fn bare(self, data: &Bytes) -> Message {
        if self.base64 { Message::text(STANDARD.encode(data)) } else { Message::binary(data.clone()) }
    }

    /// What `message` means.
    pub fn read(self, message: &Message) -> Incoming {
        let bytes = match message {
            Message::Binary(bytes) => bytes.clone(),
            Message::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => return Incoming::Nothing,
        };
        let Some(first) = bytes.first().copied() else { return Incoming::Nothing };
        let rest = bytes.slice(1..);
        if self.base64 {
            let decoded = STANDARD.decode(&rest);
            return decoded.map_or(Incoming::Nothing, |data| Incoming::Data(first.wrapping_sub(b'0'), data.into()));
        }
        match (first, rest.first()) {
            (CLOSE, Some(channel)) if self.version == Version::V5 => Incoming::Closed(*channel),
            _ => Incoming::Data(first, rest),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    #[serde(default)]
    width: u16,
    #[serde(default)]
    height: u16,
}

/// Columns and rows of every complete size in `buffer`, which keeps what is not complete yet.
pub fn sizes(buffer: &mut Vec<u8>) -> Vec<(u16, u16)> {
    let mut found = Vec::new();
    let mut read = serde_json::Deserializer::from_slice(buffer).into_iter::<Size>();
    let mut used = 0;
    let mut broken = false;
    for size in &mut read {
        match size {
            Ok(size) => found.push((size.width, size.height)),
            Err(error) => {
                broken = !error.is_eof();
                break;
            }
        }
        used += 1;
    }
    let offset = read.byte_offset();
    // Garbage would never become complete, nor may it grow without end.
    if broken || buffer.len() > 4096 {
        buffer.clear();
    } else if used > 0 {
        buffer.drain(..offset.min(buffer.len()));
    }
    found.retain(|(width, height)| *width > 0 && *height > 0);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_first_known_protocol_is_taken() {
        let offers = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let both = offers(&["v5.channel.k8s.io", "v4.channel.k8s.io"]);
        assert_eq!(negotiate(&both, TERMINAL, V1), Some((Some("v5.channel.k8s.io"), V5)));
        assert_eq!(negotiate(&both, FORWARD, V4), Some((Some("v4.channel.k8s.io"), V4)));
        assert_eq!(negotiate(&[], TERMINAL, V1), Some((None, V1)));
        assert_eq!(negotiate(&offers(&["chat"]), TERMINAL, V1), None);
    }

    #[test]
    fn messages_have_a_channel() {
        let base64 = Framing { base64: true, ..V4 };
        assert_eq!(V4.message(STDOUT, b"hi"), Message::binary(&b"\x01hi"[..]));
        assert_eq!(base64.message(STDOUT, b"hi"), Message::text("1aGk="));
        for framing in [V1, V4, V5, base64] {
            let message = framing.message(STDIN, b"data");
            assert_eq!(framing.read(&message), Incoming::Data(STDIN, Bytes::from_static(b"data")));
        }
        assert_eq!(V5.read(&Message::binary(vec![255, 0])), Incoming::Closed(STDIN));
        assert_eq!(V4.read(&Message::text("\0ls\n")), Incoming::Data(STDIN, Bytes::from_static(b"ls\n")));
        assert_eq!(V4.read(&Message::binary(Vec::new())), Incoming::Nothing);
        assert_eq!(base64.read(&Message::text("1*")), Incoming::Nothing);
    }

    #[test]
    fn sizes_come_whole_or_in_pieces() {
        let mut buffer = br#"{"Width":80,"Height":24}{"Width":1"#.to_vec();
        assert_eq!(sizes(&mut buffer), [(80, 24)]);
        buffer.extend_from_slice(b"20,\"Height\":50}\n");
        assert_eq!(sizes(&mut buffer), [(120, 50)]);
        buffer.extend_from_slice(b"garbage");
        assert_eq!(sizes(&mut buffer), []);
        assert!(buffer.is_empty());
        buffer.extend_from_slice(br#"{"Width":0,"Height":0}"#);
        assert_eq!(sizes(&mut buffer), []);
    }
}
