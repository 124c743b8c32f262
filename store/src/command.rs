//! What is replicated: a client's write as one entry of the Raft log, and what came of it.
//!
//! A command is one byte for its kind and etcd's own encoding of the request.

use std::fmt;

use balsa_proto::etcd::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, LeaseGrantRequest,
    LeaseGrantResponse, LeaseRevokeRequest, LeaseRevokeResponse, PutRequest, PutResponse, ResponseHeader, TxnRequest,
    TxnResponse,
};
use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message;

use crate::error::{Fault, Refusal};
use crate::mvcc::txn;
use crate::mvcc::writer::Writer;
use crate::mvcc::View;

/// A write, decoded. Leases come with their id and time to live already chosen.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Write a key.
    Put(PutRequest),
    /// Delete keys.
    Delete(DeleteRangeRequest),
    /// Compare, then one of two lists of operations.
    Txn(TxnRequest),
    /// Forget history.
    Compact(CompactionRequest),
    /// Grant a lease.
    Grant(LeaseGrantRequest),
    /// Revoke a lease and delete its keys.
    Revoke(LeaseRevokeRequest),
}

/// What came of a write; the header holds only the revision.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Of a put.
    Put(PutResponse),
    /// Of a deletion.
    Delete(DeleteRangeResponse),
    /// Of a transaction.
    Txn(TxnResponse),
    /// Of a compaction.
    Compact(CompactionResponse),
    /// Of a grant.
    Grant(LeaseGrantResponse),
    /// Of a revocation.
    Revoke(LeaseRevokeResponse),
    /// It was refused and changed nothing.
    Refused(Refusal),
    /// An entry without a command.
    Nothing,
}

fn tagged(tag: u8, message: &impl Message) -> Bytes {
    let mut buffer = BytesMut::with_capacity(1 + message.encoded_len());
    buffer.put_u8(tag);
    message.encode_raw(&mut buffer);
    buffer.freeze()
}

fn split(mut data: Bytes) -> Result<(u8, Bytes), Fault> {
    if data.is_empty() {
        return Err(Fault("an empty message where a kind was expected".to_owned()));
    }
    let body = data.split_off(1);
    Ok((data[0], body))
}

fn part<M: Message + Default>(body: Bytes) -> Result<M, Fault> {
    M::decode(body).map_err(|error| Fault(format!("a message that cannot be decoded: {error}")))
}

impl Command {
    /// For the log and the wire.
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Put(request) => tagged(1, request),
            Self::Delete(request) => tagged(2, request),
            Self::Txn(request) => tagged(3, request),
            Self::Compact(request) => tagged(4, request),
            Self::Grant(request) => tagged(5, request),
            Self::Revoke(request) => tagged(6, request),
        }
    }

    /// The inverse of [`Self::encode`]; values share memory with `data`.
    pub fn decode(data: Bytes) -> Result<Self, Fault> {
        let (tag, body) = split(data)?;
        Ok(match tag {
            1 => Self::Put(part(body)?),
            2 => Self::Delete(part(body)?),
            3 => Self::Txn(part(body)?),
            4 => Self::Compact(part(body)?),
            5 => Self::Grant(part(body)?),
            6 => Self::Revoke(part(body)?),
            _ => return Err(Fault(format!("a command of the unknown kind {tag}"))),
        })
    }

    /// Does it. A refusal is an outcome like any other; only a fault of the disk is an error.
    pub fn apply(self, writer: &mut Writer<'_, impl View>) -> Result<Outcome, Fault> {
        let done = match self {
            Self::Put(request) => txn::put(writer, request).map(Outcome::Put),
            Self::Delete(request) => txn::delete(writer, &request).map(Outcome::Delete).map_err(Refusal::from),
            Self::Txn(request) => txn::txn(writer, request).map(Outcome::Txn),
            Self::Compact(request) => txn::compact(writer, &request).map(Outcome::Compact),
            Self::Grant(LeaseGrantRequest { id, ttl }) => writer.grant(id, ttl).map(|()| {
                let header = Some(ResponseHeader { revision: writer.position().revision, ..Default::default() });
                Outcome::Grant(LeaseGrantResponse { header, id, ttl, error: String::new() })
            }),
            Self::Revoke(request) => writer.revoke(request.id).map(|()| {
                let header = Some(ResponseHeader { revision: writer.position().revision, ..Default::default() });
                Outcome::Revoke(LeaseRevokeResponse { header })
            }),
        };
        writer.finish_command();
        match done {
            Ok(outcome) => Ok(outcome),
            Err(Refusal::Fault(fault)) => Err(Fault(fault)),
            Err(refusal) => Ok(Outcome::Refused(refusal)),
        }
    }
}

impl Outcome {
    /// For the way back to a follower; `None` for a refusal, which travels as a status.
    pub fn encode(&self) -> Option<Bytes> {
        Some(match self {
            Self::Put(response) => tagged(1, response),
            Self::Delete(response) => tagged(2, response),
            Self::Txn(response) => tagged(3, response),
            Self::Compact(response) => tagged(4, response),
            Self::Grant(response) => tagged(5, response),
            Self::Revoke(response) => tagged(6, response),
            Self::Nothing => Bytes::from_static(&[0]),
            Self::Refused(_) => return None,
        })
    }

    /// The inverse of [`Self::encode`].
    pub fn decode(data: Bytes) -> Result<Self, Fault> {
        let (tag, body) = split(data)?;
        Ok(match tag {
            0 => Self::Nothing,
            1 => Self::Put(part(body)?),
            2 => Self::Delete(part(body)?),
            3 => Self::Txn(part(body)?),
            4 => Self::Compact(part(body)?),
            5 => Self::Grant(part(body)?),
            6 => Self::Revoke(part(body)?),
            _ => return Err(Fault(format!("an outcome of the unknown kind {tag}"))),
        })
    }
}

/// A command as it lies in the log: encoded, shared, not looked into.
#[derive(Clone, PartialEq, Eq)]
pub struct Encoded(pub Bytes);

impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command of {} bytes", self.0.len())
    }
}

impl fmt::Display for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_survive_the_log_and_nonsense_is_refused() {
        let put = PutRequest { key: "k".into(), value: "v".into(), lease: 7, ..Default::default() };
        for command in [
            Command::Put(put),
            Command::Compact(CompactionRequest { revision: 5, physical: true }),
            Command::Grant(LeaseGrantRequest { id: 9, ttl: 30 }),
        ] {
            assert_eq!(Command::decode(command.encode()).unwrap(), command);
        }
        for nonsense in [&b""[..], b"\0", b"\xff", b"\x01\xff\xff\xff"] {
            assert!(Command::decode(Bytes::copy_from_slice(nonsense)).is_err());
        }
    }
}
