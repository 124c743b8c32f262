//! The Cluster service: who the members are. They are fixed when the cluster is made; changing them is not offered.

use balsa_proto::etcd::etcdserverpb::cluster_server::Cluster;
use balsa_proto::etcd::etcdserverpb::{
    Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse, MemberPromoteRequest,
    MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse, MemberUpdateRequest, MemberUpdateResponse,
};
use tonic::{Request, Response, Status};

use super::Service;

fn fixed() -> Status {
    Status::unimplemented("the members of this cluster are fixed by --initial-cluster")
}

#[tonic::async_trait]
impl Cluster for Service {
    async fn member_list(&self, request: Request<MemberListRequest>) -> Result<Response<MemberListResponse>, Status> {
        self.replica.metrics().count("MemberList");
        if request.into_inner().linearizable {
            self.replica.linearize().await?;
        }
        let members = self.replica.members().into_iter().map(|(id, peer)| Member {
            id,
            name: peer.name,
            peer_ur_ls: vec![peer.peer_url],
            client_ur_ls: [peer.client_url].into_iter().filter(|url| !url.is_empty()).collect(),
            is_learner: false,
        });
        Ok(Response::new(MemberListResponse { header: Some(self.replica.header_now()), members: members.collect() }))
    }

    async fn member_add(&self, _: Request<MemberAddRequest>) -> Result<Response<MemberAddResponse>, Status> {
        Err(fixed())
    }

    async fn member_remove(&self, _: Request<MemberRemoveRequest>) -> Result<Response<MemberRemoveResponse>, Status> {
        Err(fixed())
    }

    async fn member_update(&self, _: Request<MemberUpdateRequest>) -> Result<Response<MemberUpdateResponse>, Status> {
        Err(fixed())
    }

    async fn member_promote(
        &self,
        _: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        Err(fixed())
    }
}
