//! Messages as JSON, and frames of gRPC. Pure. The form is that of etcd's gateway: names as in the protocol, 64-bit
//! numbers as text, bytes in base64, what has its default left out, unknown names let be.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use prost::Message as _;
use prost_reflect::{DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions};
use serde_json::Value;
use tonic::{Code, Status};

/// Before each message: whether it is compressed, and its length.
const FRAME: usize = 5;

/// The next value of a stream of JSON; `None` when there is not all of it yet.
pub fn next(buffer: &mut BytesMut) -> Result<Option<Value>, Status> {
    let mut values = serde_json::Deserializer::from_slice(buffer).into_iter::<Value>();
    match values.next() {
        None => Ok(None),
        Some(Ok(value)) => {
            let end = values.byte_offset();
            buffer.advance(end);
            Ok(Some(value))
        }
        Some(Err(error)) if error.is_eof() => Ok(None),
        Some(Err(error)) => Err(Status::invalid_argument(error.to_string())),
    }
}

/// A request as a frame.
pub fn frame(input: &MessageDescriptor, value: Value) -> Result<Bytes, Status> {
    let lenient = DeserializeOptions::new().deny_unknown_fields(false);
    let message = DynamicMessage::deserialize_with_options(input.clone(), value, &lenient);
    let message = message.map_err(|error| Status::invalid_argument(format!("proto: {error}")))?;
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(FRAME + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).map_err(|_| Status::resource_exhausted("a request that is too long"))?);
    message.encode_raw(&mut frame);
    Ok(frame.freeze())
}

/// The next message in what was answered; `None` when there is not all of it yet.
pub fn unframe(buffer: &mut BytesMut) -> Result<Option<Bytes>, Status> {
    let Some(head) = buffer.get(..FRAME) else { return Ok(None) };
    if head[0] != 0 {
        return Err(Status::internal("a compressed answer that was not asked for"));
    }
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if buffer.len() < FRAME + length {
        return Ok(None);
    }
    buffer.advance(FRAME);
    Ok(Some(buffer.split_to(length).freeze()))
}

/// An answer as JSON.
pub fn shown(output: &MessageDescriptor, message: Bytes) -> Result<String, Status> {
    let internal = |error: &dyn std::fmt::Display| Status::internal(format!("an answer that cannot be shown: {error}"));
    let message = DynamicMessage::decode(output.clone(), message).map_err(|error| internal(&error))?;
    let mut text = Vec::new();
    let options = SerializeOptions::new().use_proto_field_name(true);
    let written = message.serialize_with_options(&mut serde_json::Serializer::new(&mut text), &options);
    written.map_err(|error| internal(&error))?;
    String::from_utf8(text).map_err(|error| internal(&error))
}

/// A failure as JSON.
pub fn failed(status: &Status) -> Value {
    match status.code() as i32 {
        0 => serde_json::json!({"message": status.message()}),
        code => serde_json::json!({"code": code, "message": status.message()}),
    }
}

/// The HTTP status that stands for a failure; grpc-gateway's table.
pub fn http_code(code: Code) -> u16 {
    match code {
        Code::Ok => 200,
        Code::Cancelled => 499,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => 400,
        Code::Unauthenticated => 401,
        Code::PermissionDenied => 403,
        Code::NotFound => 404,
        Code::AlreadyExists | Code::Aborted => 409,
        Code::ResourceExhausted => 429,
        Code::Unimplemented => 501,
        Code::Unavailable => 503,
        Code::DeadlineExceeded => 504,
        Code::Unknown | Code::Internal | Code::DataLoss => 500,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost_reflect::DescriptorPool;

    #[test]
    fn json_becomes_frames_and_back() {
        let pool = DescriptorPool::decode(balsa_proto::etcd::DESCRIPTORS).unwrap();
        let put = pool.get_message_by_name("etcdserverpb.PutRequest").unwrap();
        let mut buffer = BytesMut::from(&br#" {"key":"YQ==","lease":"7","unknown":1}{"key":"Yg==","prev_kv":true} {"ke"#[..]);
        let mut shown_again = Vec::new();
        while let Some(value) = next(&mut buffer).unwrap() {
            let mut frame = BytesMut::from(frame(&put, value).unwrap().as_ref());
            let whole = frame.clone();
            assert_eq!(unframe(&mut BytesMut::from(&whole[..whole.len() - 1])).unwrap(), None);
            shown_again.push(shown(&put, unframe(&mut frame).unwrap().unwrap()).unwrap());
            assert!(frame.is_empty());
        }
        assert_eq!(shown_again, [r#"{"key":"YQ==","lease":"7"}"#, r#"{"key":"Yg==","prev_kv":true}"#]);
        assert_eq!(buffer.trim_ascii(), br#"{"ke"#);
        assert!(next(&mut BytesMut::from("x")).is_err());
        assert!(frame(&put, serde_json::json!({"key": 5})).is_err());
        assert!(unframe(&mut BytesMut::from(&[1u8, 0, 0, 0, 0][..])).is_err());
    }
}
