//! What can go wrong with a request, in etcd's words: clients match on code and message.

use thiserror::Error;
use tonic::{Code, Status};

/// A disk or data fault below a request. The replica cannot go on when it meets one while applying.
#[derive(Debug, Clone, Error)]
#[error("{0}")]
pub struct Fault(pub String);

impl From<crate::disk::engine::Error> for Fault {
    fn from(error: crate::disk::engine::Error) -> Self {
        Self(format!("the database failed: {error}"))
    }
}

impl From<Fault> for std::io::Error {
    fn from(fault: Fault) -> Self {
        Self::other(fault.0)
    }
}

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $code:ident, $text:literal;)*) => {
        /// Why a request was not done. Nothing was changed by it, except where a variant says otherwise.
        #[derive(Debug, Clone, PartialEq, Eq, Error)]
        pub enum Refusal {
            $($(#[$doc])* #[error($text)] $name,)*
            /// The disk below failed.
            #[error("{0}")]
            Fault(String),
        }

        impl Refusal {
            fn code(&self) -> Code {
                match self {
                    $(Self::$name => Code::$code,)*
                    Self::Fault(_) => Code::Internal,
                }
            }
        }
    };
}

refusals! {
    /// A request without a key.
    EmptyKey = InvalidArgument, "etcdserver: key is not provided";
    /// `ignore_value` or `ignore_lease` on a key that is not there.
    KeyNotFound = InvalidArgument, "etcdserver: key not found";
    /// `ignore_value` together with a value.
    ValueProvided = InvalidArgument, "etcdserver: value is provided";
    /// `ignore_lease` together with a lease.
    LeaseProvided = InvalidArgument, "etcdserver: lease is provided";
    /// More operations in a transaction than the limit.
    TooManyOps = InvalidArgument, "etcdserver: too many operations in txn request";
    /// A transaction that writes one key twice.
    DuplicateKey = InvalidArgument, "etcdserver: duplicate key given in txn request";
    /// A sort order or target that does not exist.
    InvalidSortOption = InvalidArgument, "etcdserver: invalid sort option";
    /// A request past the size limit.
    RequestTooLarge = InvalidArgument, "etcdserver: request is too large";
    /// A revision that compaction removed.
    Compacted = OutOfRange, "etcdserver: mvcc: required revision has been compacted";
    /// A revision that does not exist yet.
    FutureRevision = OutOfRange, "etcdserver: mvcc: required revision is a future revision";
    /// The lease does not exist (or no longer).
    LeaseNotFound = NotFound, "etcdserver: requested lease not found";
    /// A lease with this id exists already.
    LeaseExists = FailedPrecondition, "etcdserver: lease already exists";
    /// A time to live past etcd's limit.
    LeaseTtlTooLarge = OutOfRange, "etcdserver: too large lease TTL";
    /// Too many proposals wait.
    TooManyRequests = ResourceExhausted, "etcdserver: too many requests";
    /// No leader is known.
    NoLeader = Unavailable, "etcdserver: no leader";
    /// Only the leader can do it.
    NotLeader = FailedPrecondition, "etcdserver: not leader";
    /// The leader changed on the way: the write may or may not happen.
    LeaderChanged = Unavailable, "etcdserver: leader changed";
    /// No answer in time: the write may or may not happen.
    Timeout = Unavailable, "etcdserver: request timed out";
    /// The replica is stopping: the write may or may not happen.
    Stopped = Unavailable, "etcdserver: server stopped";
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault.0)
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        Status::new(refusal.code(), refusal.to_string())
    }
}
