//! etcd v3 as clients speak it: requests are checked, done, and answered with full headers. What a request does to the
//! keys is decided in [`crate::mvcc`].

pub mod cluster;
pub mod kv;
pub mod lease;
pub mod maintenance;
pub mod watch;

use std::sync::Arc;

use balsa_proto::etcd::etcdserverpb::ResponseHeader;
use tonic::Status;

use crate::replica::Replica;

/// The version that clients see; kube-apiserver decides by it what it may ask for.
pub const VERSION: &str = "3.6.0";

/// One service over a replica; each of etcd's services is implemented on it.
#[derive(Clone)]
pub struct Service {
    replica: Arc<Replica>,
}

impl Service {
    /// On `replica`.
    pub fn new(replica: Arc<Replica>) -> Self {
        Self { replica }
    }

    /// The header of an answer whose revision was decided where it was applied.
    fn fill(&self, header: &mut Option<ResponseHeader>) {
        let revision = header.as_ref().map_or(0, |header| header.revision);
        *header = Some(self.replica.header(revision));
    }
}

/// An answer to another request than was asked: a bug, not the client's fault.
fn wrong_outcome() -> Status {
    Status::internal("the store answered another request")
}
