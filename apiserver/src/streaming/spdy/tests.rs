//! The codec: what goes in comes out, what others send is understood, garbage is refused.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::dictionary::{DICTIONARY, DICTIONARY_ID};
use super::frame::{Decoder, Encoder, Frame};
use super::headers::{HeaderReader, value};

fn adler32(bytes: &[u8]) -> u32 {
    let (a, b) = bytes.iter().fold((1u32, 0u32), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65521;
        (a, (b + a) % 65521)
    });
    b << 16 | a
}

#[test]
fn the_dictionary_is_the_one_of_the_specification() {
    assert_eq!(DICTIONARY.len(), 1423);
    assert_eq!(adler32(DICTIONARY), DICTIONARY_ID);
    assert_eq!(DICTIONARY_ID, 0xe3c6_a7c2);
}

/// Made with zlib itself, `set_dictionary` and two blocks in one stream, so that the dictionary is really used.
const FOREIGN: [&str; 2] = [
    "78f9e3c6a7c202256f703a2b294a4dcc851625aca9a0808614cb45e01c6061606180a5cce1423816c8e32c8244722628f1331a00000000ffff",
    "02a5670ca341a554221693d1f402000000ffff",
];

fn unhex(text: &str) -> Vec<u8> {
    let nibble = |byte: u8| (byte as char).to_digit(16).unwrap() as u8;
    text.as_bytes().chunks_exact(2).map(|pair| nibble(pair[0]) << 4 | nibble(pair[1])).collect()
}

#[test]
fn header_blocks_of_zlib_with_the_dictionary_are_read() {
    let mut reader = HeaderReader::new();
    let first = reader.read(&unhex(FOREIGN[0])).unwrap();
    assert_eq!(value(&first, "streamtype"), Some("error"));
    assert_eq!(value(&first, "port"), Some("8080"));
    assert_eq!(value(&first, "content-type"), Some("text/plain"));
    let second = reader.read(&unhex(FOREIGN[1])).unwrap();
    assert_eq!(value(&second, "streamtype"), Some("data"));
    assert_eq!(value(&second, "requestid"), Some("0"));
}

/// What kubectl 1.36 (moby/spdystream 0.5.1) sent after its 101 while `curl` fetched one file through a port-forward.
const KUBECTL: &str = "\
    800300010000003f0000000100000000000078f9e3c6a7c202253a703a2b294a4dcc851625aca9a0808614cb45a024cc\
    6a646c60014aa09c459078cc04a56f460300000000ffff00000001010000008003000100000018000000030000000000\
    00c2aa1b54102512a119000000ffff0000000300000050474554202f6120485454502f312e310d0a486f73743a203132\
    372e302e302e313a32333038320d0a557365722d4167656e743a206375726c2f372e38382e310d0a4163636570743a20\
    2a2f2a0d0a0d0a80030003000000080000000300000005";

#[test]
fn a_port_forward_of_kubectl_is_read() {
    let mut decoder = Decoder::new();
    decoder.push(&unhex(KUBECTL));
    let mut said = Vec::new();
    while let Some(frame) = decoder.next_frame().unwrap() {
        said.push(match frame {
            Frame::SynStream { id, headers, .. } => {
                let [kind, port, request] =
                    ["streamtype", "port", "requestid"].map(|name| value(&headers, name).unwrap());
                format!("open {id}: {kind} {port} {request}")
            }
            Frame::Data { id, fin, data } => {
                format!("data {id}: {:?} fin {fin}", String::from_utf8_lossy(&data).lines().next().unwrap_or_default())
            }
            Frame::RstStream { id, status } => format!("reset {id}: {status}"),
            other => format!("{other:?}"),
        });
    }
    let expected = [
        "open 1: error 23081 0",
        "data 1: \"\" fin true",
        "open 3: data 23081 0",
        "data 3: \"GET /a HTTP/1.1\" fin false",
        "reset 3: 5",
    ];
    assert_eq!(said, expected);
}

#[test]
fn a_data_frame_comes_piece_by_piece_and_ends_once() {
    let mut wire = BytesMut::new();
    Encoder::new().encode(&Frame::Data { id: 5, fin: true, data: Bytes::from_static(b"hello") }, &mut wire).unwrap();
    let mut decoder = Decoder::new();
    decoder.push(&wire[..10]);
    let piece = Frame::Data { id: 5, fin: false, data: Bytes::from_static(b"he") };
    assert_eq!(decoder.next_frame().unwrap(), Some(piece));
    assert_eq!(decoder.next_frame().unwrap(), None);
    decoder.push(&wire[10..]);
    let piece = Frame::Data { id: 5, fin: true, data: Bytes::from_static(b"llo") };
    assert_eq!(decoder.next_frame().unwrap(), Some(piece));
    assert_eq!(decoder.next_frame().unwrap(), None);
}

#[test]
fn an_unknown_control_frame_is_skipped_and_a_large_one_refused() {
    let mut decoder = Decoder::new();
    decoder.push(&[0x80, 3, 0, 200, 0, 0, 0, 1, 9]);
    decoder.push(&[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 7]);
    assert_eq!(decoder.next_frame().unwrap(), Some(Frame::Ping(7)));
    decoder.push(&[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff]);
    assert!(decoder.next_frame().is_err());
}

fn header_list() -> impl Strategy<Value = Vec<(String, String)>> {
    proptest::collection::vec(("[a-z-]{1,20}", "[ -~]{0,80}"), 0..8)
}

fn frame() -> impl Strategy<Value = Frame> {
    let id = 1u32..0x7fff_ffff;
    prop_oneof![
        (id.clone(), 0u8..8, any::<bool>(), any::<bool>(), header_list()).prop_map(
            |(id, priority, fin, unidirectional, headers)| Frame::SynStream {
                id,
                associated: 0,
                priority,
                fin,
                unidirectional,
                headers
            }
        ),
        (id.clone(), any::<bool>(), header_list()).prop_map(|(id, fin, headers)| Frame::SynReply { id, fin, headers }),
        (id.clone(), any::<bool>(), header_list()).prop_map(|(id, fin, headers)| Frame::Headers { id, fin, headers }),
        (id.clone(), any::<u32>()).prop_map(|(id, status)| Frame::RstStream { id, status }),
        any::<u32>().prop_map(Frame::Ping),
        (id.clone(), any::<u32>()).prop_map(|(last, status)| Frame::GoAway { last, status }),
        (id.clone(), 0u32..0x7fff_ffff).prop_map(|(id, delta)| Frame::WindowUpdate { id, delta }),
        proptest::collection::vec((0u32..0x00ff_ffff, any::<u32>()), 0..4).prop_map(Frame::Settings),
        (id, any::<bool>(), proptest::collection::vec(any::<u8>(), 0..2000)).prop_map(|(id, fin, data)| Frame::Data {
            id,
            fin,
            data: data.into()
        }),
    ]
}

proptest! {
    #[test]
    fn frames_survive_the_wire_however_it_cuts_them(
        frames in proptest::collection::vec(frame(), 1..12),
        cut in 1usize..400,
    ) {
        let (mut encoder, mut wire) = (Encoder::new(), BytesMut::new());
        for frame in &frames {
            encoder.encode(frame, &mut wire).unwrap();
        }
        let mut decoder = Decoder::new();
        let mut got: Vec<Frame> = Vec::new();
        for piece in wire.chunks(cut) {
            decoder.push(piece);
            while let Some(frame) = decoder.next_frame().unwrap() {
                match (got.last_mut(), frame) {
                    // Pieces of one DATA frame: put together again.
                    (Some(Frame::Data { id, fin: fin @ false, data }), Frame::Data { id: next, fin: last, data: more })
                        if *id == next =>
                    {
                        *fin = last;
                        *data = [data.as_ref(), more.as_ref()].concat().into();
                    }
                    (_, frame) => got.push(frame),
                }
            }
        }
        // Two DATA frames of one stream in a row look like one to the loop above: do the same to what was sent.
        let mut sent: Vec<Frame> = Vec::new();
        for frame in frames {
            match (sent.last_mut(), frame) {
                (Some(Frame::Data { id, fin: fin @ false, data }), Frame::Data { id: next, fin: last, data: more })
                    if *id == next =>
                {
                    *fin = last;
                    *data = [data.as_ref(), more.as_ref()].concat().into();
                }
                (_, frame) => sent.push(frame),
            }
        }
        prop_assert_eq!(got, sent);
    }

    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600), control in any::<bool>(), kind in 0u8..12) {
        let mut decoder = Decoder::new();
        if control {
            let length = u8::try_from(bytes.len().min(255)).unwrap();
            decoder.push(&[0x80, 3, 0, kind, 0, 0, 0, length]);
        }
        decoder.push(&bytes);
        while let Ok(Some(_)) = decoder.next_frame() {}
    }

    #[test]
    fn garbage_after_a_good_compression_header_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let mut block = vec![0x78, 0xbb];
        block.extend_from_slice(&DICTIONARY_ID.to_be_bytes());
        block.extend_from_slice(&bytes);
        let mut reader = HeaderReader::new();
        let _ = reader.read(&block);
        let _ = reader.read(&bytes);
    }
}
