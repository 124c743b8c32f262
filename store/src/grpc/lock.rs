//! The Lock service, as etcd's server implements it over its own client library.

use balsa_proto::etcd::etcdserverpb::{DeleteRangeRequest, RangeRequest};
use balsa_proto::etcd::v3lockpb::lock_server::Lock;
use balsa_proto::etcd::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};
use bytes::Bytes;
use tonic::{Request, Response, Status};

use super::Service;
use super::calls::Method;

#[tonic::async_trait]
impl Lock for Service {
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        self.call(Method::Lock, async {
            let caller = self.caller(&request).await?;
            let LockRequest { name, lease } = request.into_inner();
            let place = self.enqueue(&caller, &name, lease, Bytes::new()).await?;
            self.await_turn(&caller, &name, &place).await?;
            // The lease may have ended while it waited.
            let own = RangeRequest { key: place.key.clone(), keys_only: true, ..RangeRequest::default() };
            let held = self.get(&caller, own).await?;
            if held.kvs.first().is_none_or(|kv| kv.create_revision != place.created) {
                return Err(Status::unknown("mutex: session is expired"));
            }
            Ok(LockResponse { header: held.header, key: place.key })
        })
        .await
    }

    async fn unlock(&self, request: Request<UnlockRequest>) -> Result<Response<UnlockResponse>, Status> {
        self.call(Method::Unlock, async {
            let caller = self.caller(&request).await?;
            let key = request.into_inner().key;
            let done = self.delete(&caller, DeleteRangeRequest { key, ..DeleteRangeRequest::default() }).await?;
            Ok(UnlockResponse { header: done.header })
        })
        .await
    }
}
