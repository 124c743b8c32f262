//! The KV service.

use std::time::Duration;

use balsa_proto::etcd::etcdserverpb::kv_server::Kv;
use balsa_proto::etcd::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse,
    RangeRequest, RangeResponse, TxnRequest, TxnResponse,
};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::calls::Method;
use super::{Caller, Service, wrong_outcome};
use crate::command::{Command, Outcome};
use crate::disk::view::DiskView;
use crate::error::Refusal;
use crate::ledger::admit;
use crate::mvcc::{check, range, txn};
use crate::replica::Replica;
use crate::replica::applied::flag;

/// How long a replica that is behind a client may take to catch up.
const CATCH_UP: Duration = Duration::from_secs(1);

/// Reads without blocking the runtime: a key at once, anything larger on a thread for it.
async fn read<T: Send + 'static>(
    replica: &Replica,
    small: bool,
    read: impl FnOnce(&DiskView<'_>) -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Status> {
    if small {
        return Ok(replica.state().read(read)?);
    }
    let state = replica.state().clone();
    let done = crate::rt::blocking(move || state.read(read)).await;
    Ok(done.map_err(Refusal::from)??)
}

impl Service {
    pub(super) async fn get(&self, caller: &Caller, request: RangeRequest) -> Result<RangeResponse, Status> {
        if !request.serializable || request.revision <= 0 {
            return self.get_once(caller, request).await;
        }
        let again = request.clone();
        match self.get_once(caller, request).await {
            Err(status) if self.caught_up(&status).await => self.get_once(caller, again).await,
            done => done,
        }
    }

    /// A revision that a client learned from another replica may be ahead of this one: before a read of it is refused,
    /// this replica catches up, if that can be done soon.
    async fn caught_up(&self, refused: &Status) -> bool {
        refused.message() == Refusal::FutureRevision.to_string()
            && matches!(tokio::time::timeout(CATCH_UP, self.replica.linearize()).await, Ok(Ok(())))
    }

    async fn get_once(&self, caller: &Caller, request: RangeRequest) -> Result<RangeResponse, Status> {
        check::range(&request)?;
        if !request.serializable {
            self.replica.linearize().await?;
        }
        let permitted_at = self.permit(|ledger| admit::admit_range(ledger, &request, caller.as_ref()))?;
        let small = request.range_end.is_empty();
        let mut response =
            read(&self.replica, small, move |view| range::range(view, &request, view.position()?)).await?;
        self.still_permitted(permitted_at)?;
        self.fill(&mut response.header);
        Ok(response)
    }

    /// Looks at permissions, while auth is on; says at which auth revision.
    fn permit(&self, look: impl FnOnce(&crate::ledger::Ledger) -> Result<(), Refusal>) -> Result<Option<u64>, Status> {
        if self.replica.applied().flags() & flag::AUTH == 0 {
            return Ok(None);
        }
        let ledger = self.replica.applied().ledger();
        look(&ledger)?;
        Ok(Some(ledger.auth.revision()))
    }

    /// What was read may be newer than what was permitted: then the client asks again.
    fn still_permitted(&self, at: Option<u64>) -> Result<(), Status> {
        match at {
            Some(at) if self.replica.applied().ledger().auth.revision() != at => Err(Refusal::AuthOldRevision.into()),
            _ => Ok(()),
        }
    }

    pub(super) async fn set(&self, caller: &Caller, request: PutRequest) -> Result<PutResponse, Status> {
        check::put(&request)?;
        let Outcome::Put(mut response) = self.write(caller, Command::Put(request)).await? else {
            return Err(wrong_outcome());
        };
        self.fill(&mut response.header);
        Ok(response)
    }

    pub(super) async fn delete(&self, caller: &Caller, request: DeleteRangeRequest) -> Result<DeleteRangeResponse, Status> {
        check::delete(&request)?;
        let Outcome::Delete(mut response) = self.write(caller, Command::Delete(request)).await? else {
            return Err(wrong_outcome());
        };
        self.fill(&mut response.header);
        Ok(response)
    }

    pub(super) async fn transact(&self, caller: &Caller, request: TxnRequest) -> Result<TxnResponse, Status> {
        check::txn(&request, self.replica.config().max_txn_ops)?;
        if !check::is_read_only(&request) {
            let Outcome::Txn(mut response) = self.write(caller, Command::Txn(request)).await? else {
                return Err(wrong_outcome());
            };
            self.fill(&mut response.header);
            return Ok(response);
        }
        if !check::is_serializable(&request) {
            self.replica.linearize().await?;
            return self.look(caller, request).await;
        }
        match self.look(caller, request.clone()).await {
            Err(status) if self.caught_up(&status).await => self.look(caller, request).await,
            done => done,
        }
    }

    /// A transaction that only reads.
    async fn look(&self, caller: &Caller, request: TxnRequest) -> Result<TxnResponse, Status> {
        let (applied, caller) = (self.replica.applied(), caller.clone());
        let ledger = (applied.flags() & flag::AUTH != 0).then(|| applied.ledger());
        let permitted_at = ledger.as_ref().map(|ledger| ledger.auth.revision());
        let mut response = read(&self.replica, false, move |view| {
            if let Some(ledger) = ledger {
                admit::admit_txn(&ledger, view, &request, caller.as_ref())?;
            }
            txn::read_only(view, request, view.position()?)
        })
        .await?;
        self.still_permitted(permitted_at)?;
        self.fill(&mut response.header);
        Ok(response)
    }

    async fn forget(&self, caller: &Caller, request: CompactionRequest) -> Result<CompactionResponse, Status> {
        let CompactionRequest { revision, physical } = request;
        let deadline = Instant::now() + self.replica.config().request_timeout();
        let Outcome::Compact(mut response) = self.write(caller, Command::Compact(request)).await? else {
            return Err(wrong_outcome());
        };
        if physical {
            // Off this replica's disk; the others do the same at their own pace.
            let mut cleaned = self.replica.applied().cleanings();
            match tokio::time::timeout_at(deadline, cleaned.wait_for(|upto| *upto >= revision)).await {
                Ok(Ok(_)) => {}
                Ok(Err(_)) => return Err(Refusal::Stopped.into()),
                Err(_) => return Err(Refusal::Timeout.into()),
            }
        }
        self.fill(&mut response.header);
        Ok(response)
    }
}

#[tonic::async_trait]
impl Kv for Service {
    async fn range(&self, request: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        self.call(Method::Range, async {
            let local = request.get_ref().serializable;
            let caller = if local { self.caller_of_any(&request).await? } else { self.caller(&request).await? };
            self.get(&caller, request.into_inner()).await
        })
        .await
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        self.call(Method::Put, async {
            let caller = self.caller(&request).await?;
            self.set(&caller, request.into_inner()).await
        })
        .await
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        self.call(Method::DeleteRange, async {
            let caller = self.caller(&request).await?;
            self.delete(&caller, request.into_inner()).await
        })
        .await
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        self.call(Method::Txn, async {
            let caller = self.caller(&request).await?;
            self.transact(&caller, request.into_inner()).await
        })
        .await
    }

    async fn compact(&self, request: Request<CompactionRequest>) -> Result<Response<CompactionResponse>, Status> {
        self.call(Method::Compact, async {
            let caller = self.caller(&request).await?;
            self.forget(&caller, request.into_inner()).await
        })
        .await
    }
}
