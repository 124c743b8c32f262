//! The Cluster service: who the members are, and changing that. Whether a change may be made is decided in
//! [`crate::replica::reconfigure`].

use std::time::Duration;

use balsa_proto::etcd::etcdserverpb::cluster_server::Cluster;
use balsa_proto::etcd::etcdserverpb::{
    MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse, MemberPromoteRequest,
    MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse, MemberUpdateRequest, MemberUpdateResponse,
};
use balsa_proto::store::{MemberChange, member_change::Change};
use tonic::{Request, Response, Status};

use super::Service;
use super::calls::Method;

/// How long an answer waits to show what it is about.
const SHOWN: Duration = Duration::from_secs(1);

impl Service {
    /// Changes the membership; says which member it was about. Admins only.
    async fn reconfigure<T>(&self, request: Request<T>, change: impl FnOnce(T) -> Change) -> Result<u64, Status> {
        self.caller(&request).await?;
        self.admin(&request).await?;
        let change = MemberChange { change: Some(change(request.into_inner())) };
        let id = self.replica.change_members(change).await?;
        // So that the answer, and whoever asks this replica next, shows it. Who was removed hears no more of it.
        let shown = async {
            self.replica.linearize().await?;
            self.replica.await_membership().await;
            Ok::<_, Status>(())
        };
        let _best_effort = tokio::time::timeout(SHOWN, shown).await;
        Ok(id)
    }
}

#[tonic::async_trait]
impl Cluster for Service {
    async fn member_list(&self, request: Request<MemberListRequest>) -> Result<Response<MemberListResponse>, Status> {
        self.call(Method::MemberList, async {
            let caller = self.caller(&request).await?;
            if request.into_inner().linearizable {
                self.replica.linearize().await?;
                // Never more than a moment; an old answer is better than none.
                let _best_effort = tokio::time::timeout(SHOWN, self.replica.await_membership()).await;
            }
            self.somebody(&caller)?;
            let members = self.replica.member_list();
            Ok(MemberListResponse { header: Some(self.replica.header_now()), members })
        })
        .await
    }

    async fn member_add(&self, request: Request<MemberAddRequest>) -> Result<Response<MemberAddResponse>, Status> {
        self.call(Method::MemberAdd, async {
            let id = self.reconfigure(request, Change::Add).await?;
            let members = self.replica.member_list();
            let member = members.iter().find(|member| member.id == id).cloned();
            Ok(MemberAddResponse { header: Some(self.replica.header_now()), member, members })
        })
        .await
    }

    async fn member_remove(&self, request: Request<MemberRemoveRequest>) -> Result<Response<MemberRemoveResponse>, Status> {
        self.call(Method::MemberRemove, async {
            self.reconfigure(request, Change::Remove).await?;
            Ok(MemberRemoveResponse { header: Some(self.replica.header_now()), members: self.replica.member_list() })
        })
        .await
    }

    async fn member_update(&self, request: Request<MemberUpdateRequest>) -> Result<Response<MemberUpdateResponse>, Status> {
        self.call(Method::MemberUpdate, async {
            self.reconfigure(request, Change::Update).await?;
            Ok(MemberUpdateResponse { header: Some(self.replica.header_now()), members: self.replica.member_list() })
        })
        .await
    }

    async fn member_promote(
        &self,
        request: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        self.call(Method::MemberPromote, async {
            self.reconfigure(request, Change::Promote).await?;
            Ok(MemberPromoteResponse { header: Some(self.replica.header_now()), members: self.replica.member_list() })
        })
        .await
    }
}
