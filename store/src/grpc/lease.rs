//! The Lease service.

use balsa_proto::etcd::etcdserverpb::lease_server::Lease;
use balsa_proto::etcd::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest,
    LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus, LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse,
};
use bytes::Bytes;
use rand::RngExt as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::calls::Method;
use super::{Caller, Service, wrong_outcome};
use crate::command::{Command, Outcome};
use crate::error::Refusal;
use crate::lease::table::MAX_TTL;
use crate::ledger::permission::Access;
use crate::mvcc::{KeyRange, View as _};
use crate::replica::applied::flag;

impl Service {
    /// The shortest time that a lease is granted for, seconds: it must outlive an election.
    fn min_ttl(&self) -> i64 {
        let election = self.replica.config().election_timeout;
        i64::try_from((election * 3 / 2).div_ceil(1_000)).unwrap_or(MAX_TTL).max(1)
    }

    pub(super) async fn grant(&self, caller: &Caller, request: LeaseGrantRequest) -> Result<LeaseGrantResponse, Status> {
        let LeaseGrantRequest { ttl, id: asked } = request;
        if ttl > MAX_TTL {
            return Err(Refusal::LeaseTtlTooLarge.into());
        }
        let ttl = ttl.max(self.min_ttl());
        loop {
            let id = if asked == 0 { rand::rng().random_range(1..i64::MAX) } else { asked };
            match self.write(caller, Command::Grant(LeaseGrantRequest { ttl, id })).await {
                Ok(Outcome::Grant(mut response)) => {
                    self.fill(&mut response.header);
                    return Ok(response);
                }
                Ok(_) => return Err(wrong_outcome()),
                // An id of our own choosing was taken: another one.
                Err(status) if asked == 0 && status.message() == Refusal::LeaseExists.to_string() => {}
                Err(status) => return Err(status),
            }
        }
    }

    /// Refuses who may not read the keys of these leases, while auth is on. As in etcd, who sees a lease's keys, or
    /// that there are leases at all, must be allowed to read them.
    fn may_see(&self, caller: &Caller, leases: &[i64]) -> Result<(), Status> {
        let applied = self.replica.applied();
        if applied.flags() & flag::AUTH == 0 {
            return Ok(());
        }
        let auth = &applied.ledger().auth;
        if auth.admin(caller.as_ref()).is_ok() {
            return Ok(());
        }
        let look = |view: &crate::disk::view::DiskView<'_>| -> Result<(), Refusal> {
            for id in leases {
                for key in view.lease_keys(*id)? {
                    auth.keys(caller.as_ref(), &KeyRange::new(&key, &Bytes::new()), Access::Read)?;
                }
            }
            Ok(())
        };
        Ok(self.replica.state().read(look)?)
    }
}

#[tonic::async_trait]
impl Lease for Service {
    async fn lease_grant(&self, request: Request<LeaseGrantRequest>) -> Result<Response<LeaseGrantResponse>, Status> {
        self.call(Method::LeaseGrant, async {
            let caller = self.caller(&request).await?;
            self.grant(&caller, request.into_inner()).await
        })
        .await
    }

    async fn lease_revoke(&self, request: Request<LeaseRevokeRequest>) -> Result<Response<LeaseRevokeResponse>, Status> {
        self.call(Method::LeaseRevoke, async {
            let caller = self.caller(&request).await?;
            let Outcome::Revoke(mut response) = self.write(&caller, Command::Revoke(request.into_inner())).await? else {
                return Err(wrong_outcome());
            };
            self.fill(&mut response.header);
            Ok(response)
        })
        .await
    }

    type LeaseKeepAliveStream = ReceiverStream<Result<LeaseKeepAliveResponse, Status>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        self.call(Method::LeaseKeepAlive, async {
            self.caller(&request).await?;
            self.needs_leader(&request)?;
            let (sender, answers) = mpsc::channel(16);
            let (replica, mut requests) = (self.replica.clone(), request.into_inner());
            crate::rt::spawn(async move {
                loop {
                    let request = tokio::select! {
                        biased;
                        () = replica.stop().cancelled() => return,
                        request = requests.message() => request,
                    };
                    let Ok(Some(request)) = request else { return };
                    let answer = replica.keep_alive(request).await;
                    let failed = answer.is_err();
                    if sender.send(answer).await.is_err() || failed {
                        return;
                    }
                }
            });
            Ok(ReceiverStream::new(answers))
        })
        .await
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        self.call(Method::LeaseTimeToLive, async {
            let caller = self.caller(&request).await?;
            self.somebody(&caller)?;
            let request = request.into_inner();
            if request.keys {
                self.may_see(&caller, &[request.id])?;
            }
            self.replica.time_to_live(request).await
        })
        .await
    }

    async fn lease_leases(&self, request: Request<LeaseLeasesRequest>) -> Result<Response<LeaseLeasesResponse>, Status> {
        self.call(Method::LeaseLeases, async {
            let caller = self.caller(&request).await?;
            self.somebody(&caller)?;
            self.replica.linearize().await?;
            let ids = self.replica.lease_ids();
            self.may_see(&caller, &ids)?;
            let leases = ids.into_iter().map(|id| LeaseStatus { id }).collect();
            Ok(LeaseLeasesResponse { header: Some(self.replica.header_now()), leases })
        })
        .await
    }
}
