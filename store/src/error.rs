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
    /// The quota is used up (or an alarm says so): deletions, compactions and reads go on.
    NoSpace = ResourceExhausted, "etcdserver: mvcc: database space exceeded";
    /// A replica was found to hold something else than the others.
    Corrupt = DataLoss, "etcdserver: corrupt cluster";
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
    /// A learner answers only status requests and serializable reads.
    NotForLearner = FailedPrecondition, "etcdserver: rpc not supported for learner";
    /// Leadership cannot go to this member.
    BadTransferee = FailedPrecondition, "etcdserver: bad leader transferee";

    /// No such member.
    MemberNotFound = NotFound, "etcdserver: member not found";
    /// Another member has this peer URL.
    PeerUrlExists = FailedPrecondition, "etcdserver: Peer URLs already exists";
    /// Too few members have started for another change.
    NotEnoughStarted = FailedPrecondition, "etcdserver: re-configuration failed due to not enough started members";
    /// URLs that are none.
    BadMemberUrls = InvalidArgument, "etcdserver: given member URLs are invalid";
    /// To promote a voter.
    NotLearner = FailedPrecondition, "etcdserver: can only promote a learner member";
    /// To promote a learner that is behind.
    LearnerNotReady = FailedPrecondition, "etcdserver: can only promote a learner member which is in sync with leader";
    /// As many learners as may be.
    TooManyLearners = FailedPrecondition, "etcdserver: too many learner members in cluster";
    /// Too few members can be reached for another change.
    Unhealthy = Unavailable, "etcdserver: unhealthy cluster";

    /// Auth cannot be enabled without a user root.
    RootUserNotExist = FailedPrecondition, "etcdserver: root user does not exist";
    /// Auth cannot be enabled without root's role.
    RootRoleNotExist = FailedPrecondition, "etcdserver: root user does not have root role";
    /// To add a user that is there.
    UserExists = FailedPrecondition, "etcdserver: user name already exists";
    /// To add a user without a name.
    UserNameEmpty = InvalidArgument, "etcdserver: user name is empty";
    /// A request without a user, while auth is enabled.
    UserEmpty = InvalidArgument, "etcdserver: user name is empty";
    /// No such user.
    UserNotFound = FailedPrecondition, "etcdserver: user name not found";
    /// To add a role that is there.
    RoleExists = FailedPrecondition, "etcdserver: role name already exists";
    /// No such role.
    RoleNotFound = FailedPrecondition, "etcdserver: role name not found";
    /// To add a role without a name.
    RoleEmpty = InvalidArgument, "etcdserver: role name is empty";
    /// Wrong user or password.
    AuthFailed = InvalidArgument, "etcdserver: authentication failed, invalid user ID or password";
    /// A grant without a permission.
    PermissionNotGiven = InvalidArgument, "etcdserver: permission not given";
    /// The user may not do that.
    PermissionDenied = PermissionDenied, "etcdserver: permission denied";
    /// To take away a role that the user does not have.
    RoleNotGranted = FailedPrecondition, "etcdserver: role is not granted to the user";
    /// To take away a permission that the role does not have.
    PermissionNotGranted = FailedPrecondition, "etcdserver: permission is not granted to the role";
    /// To log in while nobody needs to.
    AuthNotEnabled = FailedPrecondition, "etcdserver: authentication is not enabled";
    /// A token that was never given, has expired or ended.
    InvalidAuthToken = Unauthenticated, "etcdserver: invalid auth token";
    /// A change that would lock everybody out, or that makes no sense.
    InvalidAuthManagement = InvalidArgument, "etcdserver: invalid auth management";
    /// Users or roles changed since the request was let in: it may be tried again.
    AuthOldRevision = InvalidArgument, "etcdserver: revision of auth store is old";

    /// A version that cannot be read.
    WrongDowngradeVersionFormat = InvalidArgument, "etcdserver: wrong downgrade target version format";
    /// Not the minor version just below.
    InvalidDowngradeTargetVersion = InvalidArgument, "etcdserver: invalid downgrade target version";
    /// One is enabled already.
    DowngradeInProcess = FailedPrecondition, "etcdserver: cluster has a downgrade job in progress";
    /// None is enabled.
    NoInflightDowngrade = FailedPrecondition, "etcdserver: no inflight downgrade job";
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
