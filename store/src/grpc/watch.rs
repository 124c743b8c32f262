//! The Watch service: each call is a [`WatchStream`] of its own.

use std::time::Duration;

use balsa_proto::etcd::etcdserverpb::watch_server::Watch;
use balsa_proto::etcd::etcdserverpb::{WatchRequest, WatchResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::Service;
use super::calls::Method;
use crate::error::Refusal;
use crate::replica::applied::flag;
use crate::watch::stream::WatchStream;

/// Answers that may wait for the client; then its stream waits.
const ANSWERS: usize = 16;

#[tonic::async_trait]
impl Watch for Service {
    type WatchStream = ReceiverStream<Result<WatchResponse, Status>>;

    async fn watch(&self, request: Request<Streaming<WatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        self.call(Method::Watch, async {
            if self.replica.applied().flags() & flag::LEARNER != 0 {
                return Err(Refusal::NotForLearner.into());
            }
            let needs_leader = self.needs_leader(&request)?;
            // Whoever it is: each watcher is permitted or refused by itself.
            let caller = self.caller(&request).await;
            let (sender, answers) = mpsc::channel(ANSWERS);
            let interval = Duration::from_secs(self.replica.config().watch_progress_notify_interval.max(1));
            let stream = WatchStream::new(self.replica.clone(), sender.clone(), caller);
            let (replica, requests) = (self.replica.clone(), request.into_inner());
            crate::rt::spawn(async move {
                tokio::select! {
                        biased;
                    () = stream.run(requests, interval) => {}
                    () = replica.leaderless(), if needs_leader => {
                        let _gone = sender.try_send(Err(Refusal::NoLeader.into()));
                    }
                }
            });
            Ok(ReceiverStream::new(answers))
        })
        .await
    }
}
