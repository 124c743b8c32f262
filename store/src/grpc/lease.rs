//! The Lease service.

use balsa_proto::etcd::etcdserverpb::lease_server::Lease;
use balsa_proto::etcd::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest,
    LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus, LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse,
};
use rand::RngExt as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::{Service, wrong_outcome};
use crate::command::{Command, Outcome};
use crate::error::Refusal;
use crate::lease::table::MAX_TTL;

impl Service {
    /// The shortest time that a lease is granted for, seconds: it must outlive an election.
    fn min_ttl(&self) -> i64 {
        let election = self.replica.config().election_timeout;
        i64::try_from((election * 3 / 2).div_ceil(1_000)).unwrap_or(MAX_TTL).max(1)
    }
}

#[tonic::async_trait]
impl Lease for Service {
    async fn lease_grant(&self, request: Request<LeaseGrantRequest>) -> Result<Response<LeaseGrantResponse>, Status> {
        self.replica.metrics().count("LeaseGrant");
        let LeaseGrantRequest { ttl, id: asked } = request.into_inner();
        if ttl > MAX_TTL {
            return Err(Refusal::LeaseTtlTooLarge.into());
        }
        let ttl = ttl.max(self.min_ttl());
        loop {
            let id = if asked == 0 { rand::rng().random_range(1..i64::MAX) } else { asked };
            match self.replica.propose(Command::Grant(LeaseGrantRequest { ttl, id })).await {
                Ok(Outcome::Grant(mut response)) => {
                    self.fill(&mut response.header);
                    return Ok(Response::new(response));
                }
                Ok(_) => return Err(wrong_outcome()),
                // An id of our own choosing was taken: another one.
                Err(status) if asked == 0 && status.message() == Refusal::LeaseExists.to_string() => {}
                Err(status) => return Err(status),
            }
        }
    }

    async fn lease_revoke(&self, request: Request<LeaseRevokeRequest>) -> Result<Response<LeaseRevokeResponse>, Status> {
        self.replica.metrics().count("LeaseRevoke");
        let Outcome::Revoke(mut response) = self.replica.propose(Command::Revoke(request.into_inner())).await? else {
            return Err(wrong_outcome());
        };
        self.fill(&mut response.header);
        Ok(Response::new(response))
    }

    type LeaseKeepAliveStream = ReceiverStream<Result<LeaseKeepAliveResponse, Status>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        self.replica.metrics().count("LeaseKeepAlive");
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
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        self.replica.metrics().count("LeaseTimeToLive");
        Ok(Response::new(self.replica.time_to_live(request.into_inner()).await?))
    }

    async fn lease_leases(&self, _: Request<LeaseLeasesRequest>) -> Result<Response<LeaseLeasesResponse>, Status> {
        self.replica.metrics().count("LeaseLeases");
        match self.replica.linearize().await {
            Err(status) if status.code() != Code::Ok => return Err(status),
            _ => {}
        }
        let leases = self.replica.lease_ids().into_iter().map(|id| LeaseStatus { id }).collect();
        Ok(Response::new(LeaseLeasesResponse { header: Some(self.replica.header_now()), leases }))
    }
}
