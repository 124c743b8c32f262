//! What is replicated: a client's write as one entry of the Raft log, and what came of it.
//!
//! A command is one byte for its kind and etcd's own encoding of the request.

use std::fmt;

use balsa_proto::etcd::etcdserverpb::{
    AlarmRequest, AlarmResponse, CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse,
    DowngradeInfo, LeaseGrantRequest, LeaseGrantResponse, LeaseRevokeRequest, LeaseRevokeResponse, PutRequest,
    PutResponse, ResponseHeader, TxnRequest, TxnResponse,
};
use balsa_proto::store::{Attributes, AuthChange, Checkpoint, Signed};
use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message;

use crate::error::{Fault, Refusal};
use crate::ledger::admit::{Asker, admit};
use crate::ledger::{self, Who};
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
    /// Raise or clear an alarm.
    Alarm(AlarmRequest),
    /// Change users, roles or auth as a whole. Passwords come hashed.
    Auth(AuthChange),
    /// Note how much time is left to leases.
    Checkpoint(Checkpoint),
    /// Note a member's name and client URLs; without a name: forget it.
    Publish(Attributes),
    /// Enable or cancel a downgrade.
    Downgrade(DowngradeInfo),
    /// Another command, with who asks for it. Never nested.
    Signed {
        /// Who asks.
        asker: Asker,
        /// What for.
        command: Box<Command>,
    },
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
    /// Of an alarm.
    Alarm(AlarmResponse),
    /// Of what answers with nothing but a header.
    Done(ResponseHeader),
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
            Self::Alarm(request) => tagged(7, request),
            Self::Auth(change) => tagged(8, change),
            Self::Checkpoint(checkpoint) => tagged(9, checkpoint),
            Self::Publish(attributes) => tagged(10, attributes),
            Self::Downgrade(info) => tagged(11, info),
            Self::Signed { asker, command } => tagged(12, &signed(asker, command)),
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
            7 => Self::Alarm(part(body)?),
            8 => Self::Auth(part(body)?),
            9 => Self::Checkpoint(part(body)?),
            10 => Self::Publish(part(body)?),
            11 => Self::Downgrade(part(body)?),
            12 => unsigned(part(body)?)?,
            _ => return Err(Fault(format!("a command of the unknown kind {tag}"))),
        })
    }

    /// Does it. A refusal is an outcome like any other; only a fault of the disk is an error.
    pub fn apply(self, writer: &mut Writer<'_, impl View>) -> Result<Outcome, Fault> {
        let (asker, command) = match self {
            Self::Signed { asker, command } => (asker, *command),
            command => (Asker::Client(None), command),
        };
        // The common case costs one look at two flags.
        let admitted = match writer.ledger().is_quiet() {
            true => Ok(()),
            false => admit(writer.ledger(), writer, &command, &asker),
        };
        let done = admitted.and_then(|()| command.perform(writer));
        writer.finish_command();
        match done {
            Ok(outcome) => Ok(outcome),
            Err(Refusal::Fault(fault)) => Err(Fault(fault)),
            Err(refusal) => Ok(Outcome::Refused(refusal)),
        }
    }

    fn perform(self, writer: &mut Writer<'_, impl View>) -> Result<Outcome, Refusal> {
        match self {
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
            Self::Alarm(request) => {
                let alarms = writer.change_ledger().alarm(&request);
                Ok(Outcome::Alarm(AlarmResponse { header: Some(header(writer)), alarms }))
            }
            Self::Auth(change) => {
                let tokens = writer.change_ledger().auth.change(change)?;
                writer.note_tokens(tokens);
                Ok(Outcome::Done(header(writer)))
            }
            Self::Checkpoint(Checkpoint { leases }) => {
                leases.iter().try_for_each(|lease| writer.checkpoint(lease.id, lease.remaining))?;
                Ok(Outcome::Done(header(writer)))
            }
            Self::Publish(Attributes { member, name, client_urls }) => {
                let members = &mut writer.change_ledger().members;
                if name.is_empty() {
                    members.remove(&member);
                } else {
                    members.insert(member, ledger::Attributes { name, client_urls });
                }
                Ok(Outcome::Done(header(writer)))
            }
            Self::Downgrade(DowngradeInfo { enabled, target_version }) => {
                let downgrade = &mut writer.change_ledger().downgrade;
                match (enabled, downgrade.is_some()) {
                    (true, true) => return Err(Refusal::DowngradeInProcess),
                    (false, false) => return Err(Refusal::NoInflightDowngrade),
                    (enabled, _) => *downgrade = enabled.then_some(target_version),
                }
                Ok(Outcome::Done(header(writer)))
            }
            // Decoding lets none through.
            Self::Signed { .. } => Err(Refusal::Fault("a command signed twice".to_owned())),
        }
    }
}

fn header(writer: &Writer<'_, impl View>) -> ResponseHeader {
    ResponseHeader { revision: writer.position().revision, ..Default::default() }
}

fn signed(asker: &Asker, command: &Command) -> Signed {
    let (system, who) = match asker {
        Asker::System => (true, None),
        Asker::Client(who) => (false, who.clone()),
    };
    let (user, revision) = who.map_or_else(Default::default, |who| (who.user, who.revision));
    Signed { user, revision, system, command: command.encode() }
}

fn unsigned(signed: Signed) -> Result<Command, Fault> {
    let Signed { user, revision, system, command } = signed;
    // Looked at before it is decoded: nesting would be as deep as the message is long.
    if command.first() == Some(&12) {
        return Err(Fault("a command signed twice".to_owned()));
    }
    let asker = match (system, revision) {
        (true, _) => Asker::System,
        (false, 0) => Asker::Client(None),
        (false, revision) => Asker::Client(Some(Who { user, revision })),
    };
    Ok(Command::Signed { asker, command: Box::new(Command::decode(command)?) })
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
            Self::Alarm(response) => tagged(7, response),
            Self::Done(header) => tagged(8, header),
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
            7 => Self::Alarm(part(body)?),
            8 => Self::Done(part(body)?),
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
            Command::Signed { asker: Asker::System, command: Box::new(Command::Revoke(LeaseRevokeRequest { id: 9 })) },
            Command::Signed {
                asker: Asker::Client(Some(Who { user: "u".to_owned(), revision: 3 })),
                command: Box::new(Command::Delete(DeleteRangeRequest { key: "k".into(), ..Default::default() })),
            },
        ] {
            assert_eq!(Command::decode(command.encode()).unwrap(), command);
        }
        for nonsense in [&b""[..], b"\0", b"\xff", b"\x01\xff\xff\xff"] {
            assert!(Command::decode(Bytes::copy_from_slice(nonsense)).is_err());
        }
        let once = Command::Signed { asker: Asker::System, command: Box::new(Command::Auth(AuthChange::default())) };
        let twice = Command::Signed { asker: Asker::System, command: Box::new(once) };
        assert!(Command::decode(twice.encode()).is_err(), "nesting is refused before it is followed");
    }
}
