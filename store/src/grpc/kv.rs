//! The KV service.

use balsa_proto::etcd::etcdserverpb::kv_server::Kv;
use balsa_proto::etcd::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse,
    RangeRequest, RangeResponse, TxnRequest, TxnResponse,
};
use tonic::{Request, Response, Status};

use super::{Service, wrong_outcome};
use crate::command::{Command, Outcome};
use crate::disk::view::DiskView;
use crate::error::Refusal;
use crate::mvcc::{check, range, txn};
use crate::replica::Replica;

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

#[tonic::async_trait]
impl Kv for Service {
    async fn range(&self, request: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        self.replica.metrics().count("Range");
        let request = request.into_inner();
        check::range(&request)?;
        if !request.serializable {
            self.replica.linearize().await?;
        }
        let small = request.range_end.is_empty();
        let mut response =
            read(&self.replica, small, move |view| range::range(view, &request, view.position()?)).await?;
        self.fill(&mut response.header);
        Ok(Response::new(response))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        self.replica.metrics().count("Put");
        let request = request.into_inner();
        check::put(&request)?;
        let Outcome::Put(mut response) = self.replica.propose(Command::Put(request)).await? else {
            return Err(wrong_outcome());
        };
        self.fill(&mut response.header);
        Ok(Response::new(response))
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        self.replica.metrics().count("DeleteRange");
        let request = request.into_inner();
        check::delete(&request)?;
        let Outcome::Delete(mut response) = self.replica.propose(Command::Delete(request)).await? else {
            return Err(wrong_outcome());
        };
        self.fill(&mut response.header);
        Ok(Response::new(response))
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        self.replica.metrics().count("Txn");
        let request = request.into_inner();
        check::txn(&request, self.replica.config().max_txn_ops)?;
        let mut response = if check::is_read_only(&request) {
            if !check::is_serializable(&request) {
                self.replica.linearize().await?;
            }
            read(&self.replica, false, move |view| txn::read_only(view, request, view.position()?)).await?
        } else {
            match self.replica.propose(Command::Txn(request)).await? {
                Outcome::Txn(response) => response,
                _ => return Err(wrong_outcome()),
            }
        };
        self.fill(&mut response.header);
        Ok(Response::new(response))
    }

    async fn compact(&self, request: Request<CompactionRequest>) -> Result<Response<CompactionResponse>, Status> {
        self.replica.metrics().count("Compact");
        let Outcome::Compact(mut response) = self.replica.propose(Command::Compact(request.into_inner())).await? else {
            return Err(wrong_outcome());
        };
        self.fill(&mut response.header);
        Ok(Response::new(response))
    }
}
