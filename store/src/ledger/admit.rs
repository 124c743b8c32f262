//! Whether a command may be done: the alarms that are raised, and who asks. Decided where it is applied, so that
//! every replica decides the same. Pure.

use balsa_proto::etcd::etcdserverpb::{AlarmType, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, request_op::Request};
use bytes::Bytes;

use super::permission::Access;
use super::{Ledger, Who};
use crate::command::Command;
use crate::error::{Fault, Refusal};
use crate::mvcc::{KeyRange, View};

/// Who asks for a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asker {
    /// The store itself.
    System,
    /// A client; without a user when it gave none.
    Client(Option<Who>),
}

/// Refuses a command that an alarm or the asker's permissions forbid.
pub fn admit(ledger: &Ledger, view: &impl View, command: &Command, asker: &Asker) -> Result<(), Refusal> {
    alarms(ledger, command)?;
    if !ledger.auth.is_enabled() {
        return Ok(());
    }
    let Asker::Client(who) = asker else { return Ok(()) };
    let check = Check { ledger, view, who: who.as_ref() };
    match command {
        Command::Put(request) => check.put(request),
        Command::Delete(request) => check.delete(request),
        Command::Txn(request) => check.txn(request),
        Command::Revoke(request) => check.lease(request.id),
        // A login was let in by its password; whom that belongs to is looked up again where it is applied.
        Command::Auth(change) if matches!(change.change, Some(balsa_proto::store::auth_change::Change::Login(_))) => Ok(()),
        Command::Auth(_) => ledger.auth.admin(who.as_ref()),
        // Admins' rights on these are checked where they are asked for.
        Command::Alarm(_) | Command::Downgrade(_) | Command::Publish(_) | Command::Checkpoint(_) => Ok(()),
        Command::Compact(_) | Command::Grant(_) => Ok(()),
        Command::Signed { command, .. } => admit(ledger, view, command, asker),
    }
}

/// Refuses a transaction that only reads.
pub fn admit_txn(ledger: &Ledger, view: &impl View, request: &TxnRequest, who: Option<&Who>) -> Result<(), Refusal> {
    if ledger.auth.is_enabled() { Check { ledger, view, who }.txn(request) } else { Ok(()) }
}

/// Refuses a read.
pub fn admit_range(ledger: &Ledger, request: &RangeRequest, who: Option<&Who>) -> Result<(), Refusal> {
    ledger.auth.keys(who, &KeyRange::new(&request.key, &request.range_end), Access::Read)
}

fn alarms(ledger: &Ledger, command: &Command) -> Result<(), Refusal> {
    let grows = match command {
        Command::Put(_) | Command::Grant(_) => true,
        Command::Txn(request) => puts(request),
        Command::Delete(_) | Command::Compact(_) | Command::Revoke(_) => false,
        // These must work also when nothing else does.
        _ => return Ok(()),
    };
    if ledger.is_raised(AlarmType::Corrupt) {
        return Err(Refusal::Corrupt);
    }
    if grows && ledger.is_raised(AlarmType::Nospace) { Err(Refusal::NoSpace) } else { Ok(()) }
}

/// Whether a transaction may put something.
pub fn puts(request: &TxnRequest) -> bool {
    request.success.iter().chain(&request.failure).any(|op| match &op.request {
        Some(Request::RequestPut(_)) => true,
        Some(Request::RequestTxn(nested)) => puts(nested),
        _ => false,
    })
}

struct Check<'a, V> {
    ledger: &'a Ledger,
    view: &'a V,
    who: Option<&'a Who>,
}

impl<V: View> Check<'_, V> {
    fn keys(&self, key: &Bytes, range_end: &Bytes, access: Access) -> Result<(), Refusal> {
        self.ledger.auth.keys(self.who, &KeyRange::new(key, range_end), access)
    }

    fn put(&self, request: &PutRequest) -> Result<(), Refusal> {
        let one = Bytes::new();
        self.keys(&request.key, &one, Access::Write)?;
        // Who attaches a key to a lease may end it, and with it the lease's other keys.
        if request.lease != 0 {
            self.lease(request.lease)?;
        }
        if request.prev_kv { self.keys(&request.key, &one, Access::Read) } else { Ok(()) }
    }

    fn delete(&self, request: &DeleteRangeRequest) -> Result<(), Refusal> {
        self.keys(&request.key, &request.range_end, Access::Write)?;
        if request.prev_kv { self.keys(&request.key, &request.range_end, Access::Read) } else { Ok(()) }
    }

    fn lease(&self, id: i64) -> Result<(), Refusal> {
        if self.ledger.auth.admin(self.who).is_ok() {
            return Ok(());
        }
        let keys = self.view.lease_keys(id).map_err(|Fault(fault)| Refusal::Fault(fault))?;
        keys.iter().try_for_each(|key| self.keys(key, &Bytes::new(), Access::Write))
    }

    /// Both branches, whichever is taken.
    fn txn(&self, request: &TxnRequest) -> Result<(), Refusal> {
        for compare in &request.compare {
            self.keys(&compare.key, &compare.range_end, Access::Read)?;
        }
        request.success.iter().chain(&request.failure).try_for_each(|op| self.op(op))
    }

    fn op(&self, op: &RequestOp) -> Result<(), Refusal> {
        match &op.request {
            Some(Request::RequestRange(request)) => self.keys(&request.key, &request.range_end, Access::Read),
            Some(Request::RequestPut(request)) => self.put(request),
            Some(Request::RequestDeleteRange(request)) => self.delete(request),
            Some(Request::RequestTxn(nested)) => self.txn(nested),
            None => Ok(()),
        }
    }
}
