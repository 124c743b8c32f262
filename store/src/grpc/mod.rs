//! etcd v3 as clients speak it: requests are checked, done, and answered with full headers. What a request does to the
//! keys is decided in [`crate::mvcc`], who may do it in [`crate::ledger`].

pub mod auth;
pub mod calls;
pub mod caller;
pub mod cluster;
pub mod election;
pub mod kv;
pub mod lease;
pub mod lock;
pub mod maintenance;
pub mod queue;
pub mod snapshot;
pub mod watch;

use std::sync::Arc;

use balsa_proto::etcd::etcdserverpb::ResponseHeader;
use tonic::{Code, Response, Status};

pub use caller::Caller;

use crate::command::{Command, Outcome};
use crate::grpc::calls::Method;
use crate::jwt::Signer;
use crate::ledger::admit::Asker;
use crate::replica::Replica;

/// The version that clients see; kube-apiserver decides by it what it may ask for.
pub const VERSION: &str = "3.6.0";

/// One service over a replica; each of etcd's services is implemented on it.
#[derive(Clone)]
pub struct Service {
    replica: Arc<Replica>,
    /// Signs and checks tokens; `None` where they are simple ones.
    signer: Option<Arc<Signer>>,
}

impl Service {
    /// On `replica`.
    pub fn new(replica: Arc<Replica>) -> Self {
        Self { replica, signer: None }
    }

    /// The same, with signed tokens.
    pub fn with_tokens(replica: Arc<Replica>, signer: Option<Signer>) -> Self {
        Self { signer: signer.map(Arc::new), ..Self::new(replica) }
    }

    /// Does a call and counts it.
    async fn call<T>(&self, method: Method, work: impl Future<Output = Result<T, Status>>) -> Result<Response<T>, Status> {
        let calls = &self.replica.metrics().calls;
        calls.started(method);
        let done = work.await;
        calls.handled(method, done.as_ref().map_or_else(Status::code, |_| Code::Ok));
        done.map(Response::new)
    }

    /// Proposes a write for a caller.
    async fn write(&self, caller: &Caller, command: Command) -> Result<Outcome, Status> {
        let command = match caller {
            Some(who) => {
                Command::Signed { asker: Asker::Client(Some(who.clone())), command: Box::new(command) }
            }
            None => command,
        };
        self.replica.propose(command).await
    }

    /// The header of an answer whose revision was decided where it was applied.
    fn fill(&self, header: &mut Option<ResponseHeader>) {
        let revision = header.as_ref().map_or(0, |header| header.revision);
        *header = Some(self.replica.header(revision));
    }

    /// The same, of a command that answers with nothing else.
    fn done(&self, outcome: Outcome) -> Result<Option<ResponseHeader>, Status> {
        match outcome {
            Outcome::Done(header) => Ok(Some(self.replica.header(header.revision))),
            _ => Err(wrong_outcome()),
        }
    }
}

/// An answer to another request than was asked: a bug, not the client's fault.
fn wrong_outcome() -> Status {
    Status::internal("the store answered another request")
}
