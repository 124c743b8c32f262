//! The Election service, as etcd's server implements it over its own client library.

use balsa_proto::etcd::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, ResponseHeader, TxnRequest, request_op::Request as Op};
use balsa_proto::etcd::mvccpb::KeyValue;
use balsa_proto::etcd::v3electionpb::election_server::Election;
use balsa_proto::etcd::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest, ProclaimResponse,
    ResignRequest, ResignResponse,
};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::calls::Method;
use super::queue::{Interest, created_at, first, op, prefix};
use super::{Caller, Service};
use crate::mvcc::{Change, KeyRange};
use crate::watch::hub::Taken;

/// Proclamations that may wait for the client.
const ANSWERS: usize = 16;

fn missing() -> Status {
    Status::unknown("\"leader\" field must be provided")
}

impl Service {
    /// Changes the leader's value, if it still leads.
    async fn proclaim_value(&self, caller: &Caller, leader: &LeaderKey, value: Bytes) -> Result<Option<ResponseHeader>, Status> {
        let put = PutRequest { key: leader.key.clone(), value, lease: leader.lease, ..PutRequest::default() };
        let compare = vec![created_at(&leader.key, leader.rev)];
        let request = TxnRequest { compare, success: vec![op(Op::RequestPut(put))], ..TxnRequest::default() };
        let answer = self.transact(caller, request).await?;
        if answer.succeeded { Ok(answer.header) } else { Err(Status::unknown("election: not leader")) }
    }

    /// Who leads, at a revision (0: now).
    async fn leading(&self, caller: &Caller, name: &Bytes, revision: i64) -> Result<(Option<ResponseHeader>, Option<KeyValue>), Status> {
        let (start, end) = prefix(name);
        let answer = self.get(caller, RangeRequest { revision, ..first(&start, &end) }).await?;
        Ok((answer.header, answer.kvs.into_iter().next()))
    }
}

/// Follows one election.
struct Observer {
    service: Service,
    caller: Caller,
    name: Bytes,
    interest: Interest,
    answers: mpsc::Sender<Result<LeaderResponse, Status>>,
    /// The leader's key.
    leader: Option<Bytes>,
    /// Everything up to this revision was taken in.
    seen: i64,
}

impl Observer {
    async fn run(mut self) {
        if let Err(status) = self.follow().await {
            let _gone = self.answers.send(Err(status)).await;
        }
    }

    async fn follow(&mut self) -> Result<(), Status> {
        self.look().await?;
        loop {
            tokio::select! {
                () = self.answers.closed() => return Ok(()),
                changed = self.interest.changed() => changed?,
            }
            let (taken, position) = self.interest.take();
            match taken {
                Taken::Nothing => {}
                Taken::Lost(_) => self.look().await?,
                Taken::Changes(batches) => {
                    for change in batches.iter().flat_map(|batch| batch.iter()) {
                        self.change(change).await?;
                    }
                    self.seen = self.seen.max(position.revision);
                }
            }
        }
    }

    /// Reads who leads now.
    async fn look(&mut self) -> Result<(), Status> {
        let (header, leader) = self.service.leading(&self.caller, &self.name, 0).await?;
        self.seen = self.seen.max(header.map_or(0, |header| header.revision));
        self.show(leader).await
    }

    async fn change(&mut self, change: &Change) -> Result<(), Status> {
        let (start, end) = prefix(&self.name);
        let revision = change.version.main;
        if revision <= self.seen || !KeyRange::new(&start, &end).contains(&change.key) {
            return Ok(());
        }
        let deleted = change.version.is_tombstone();
        match &self.leader {
            Some(leader) if *leader == change.key && deleted => {
                // The next one, as of then; if history is gone already, as of now.
                let next = self.service.leading(&self.caller, &self.name, revision).await;
                let next = match next {
                    Ok((_, next)) => next,
                    Err(_) => self.service.leading(&self.caller, &self.name, 0).await?.1,
                };
                self.show(next).await
            }
            Some(leader) if *leader != change.key => Ok(()),
            _ if deleted => Ok(()),
            _ => self.show(Some(change.version.key_value(change.key.clone()))).await,
        }
    }

    async fn show(&mut self, leader: Option<KeyValue>) -> Result<(), Status> {
        self.leader = leader.as_ref().map(|kv| kv.key.clone());
        let Some(kv) = leader else { return Ok(()) };
        let header = Some(self.service.replica.header_now());
        let _gone = self.answers.send(Ok(LeaderResponse { header, kv: Some(kv) })).await;
        Ok(())
    }
}

#[tonic::async_trait]
impl Election for Service {
    async fn campaign(&self, request: Request<CampaignRequest>) -> Result<Response<CampaignResponse>, Status> {
        self.call(Method::Campaign, async {
            let caller = self.caller(&request).await?;
            let CampaignRequest { name, lease, value } = request.into_inner();
            let place = self.enqueue(&caller, &name, lease, value.clone()).await?;
            let leader = LeaderKey { name: name.clone(), key: place.key.clone(), rev: place.created, lease: place.lease };
            let mut header = place.header;
            // The same session campaigned before, with another value.
            if place.previous.as_ref().is_some_and(|previous| *previous != value) {
                header = self.proclaim_value(&caller, &leader, value).await?;
            }
            self.await_turn(&caller, &name, &place).await?;
            Ok(CampaignResponse { header, leader: Some(leader) })
        })
        .await
    }

    async fn proclaim(&self, request: Request<ProclaimRequest>) -> Result<Response<ProclaimResponse>, Status> {
        self.call(Method::Proclaim, async {
            let caller = self.caller(&request).await?;
            let ProclaimRequest { leader, value } = request.into_inner();
            let header = self.proclaim_value(&caller, &leader.ok_or_else(missing)?, value).await?;
            Ok(ProclaimResponse { header })
        })
        .await
    }

    async fn leader(&self, request: Request<LeaderRequest>) -> Result<Response<LeaderResponse>, Status> {
        self.call(Method::Leader, async {
            let caller = self.caller(&request).await?;
            let (header, kv) = self.leading(&caller, &request.into_inner().name, 0).await?;
            let kv = Some(kv.ok_or_else(|| Status::unknown("election: no leader"))?);
            Ok(LeaderResponse { header, kv })
        })
        .await
    }

    type ObserveStream = ReceiverStream<Result<LeaderResponse, Status>>;

    async fn observe(&self, request: Request<LeaderRequest>) -> Result<Response<Self::ObserveStream>, Status> {
        self.call(Method::Observe, async {
            let caller = self.caller(&request).await?;
            let name = request.into_inner().name;
            let (start, end) = prefix(&name);
            let interest = Interest::new(&self.replica, KeyRange::new(&start, &end));
            let (answers, receiver) = mpsc::channel(ANSWERS);
            let observer = Observer { service: self.clone(), caller, name, interest, answers, leader: None, seen: 0 };
            crate::rt::spawn(observer.run());
            Ok(ReceiverStream::new(receiver))
        })
        .await
    }

    async fn resign(&self, request: Request<ResignRequest>) -> Result<Response<ResignResponse>, Status> {
        self.call(Method::Resign, async {
            let caller = self.caller(&request).await?;
            let leader = request.into_inner().leader.ok_or_else(missing)?;
            let delete = DeleteRangeRequest { key: leader.key.clone(), ..DeleteRangeRequest::default() };
            let compare = vec![created_at(&leader.key, leader.rev)];
            let request = TxnRequest { compare, success: vec![op(Op::RequestDeleteRange(delete))], ..TxnRequest::default() };
            Ok(ResignResponse { header: self.transact(&caller, request).await?.header })
        })
        .await
    }
}
