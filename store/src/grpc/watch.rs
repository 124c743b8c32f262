//! The Watch service: each call is a [`WatchStream`] of its own.

use std::time::Duration;

use balsa_proto::etcd::etcdserverpb::watch_server::Watch;
use balsa_proto::etcd::etcdserverpb::{WatchRequest, WatchResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::Service;
use crate::watch::stream::WatchStream;

/// Answers that may wait for the client; then its stream waits.
const ANSWERS: usize = 16;

#[tonic::async_trait]
impl Watch for Service {
    type WatchStream = ReceiverStream<Result<WatchResponse, Status>>;

    async fn watch(&self, request: Request<Streaming<WatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        self.replica.metrics().count("Watch");
        let (sender, answers) = mpsc::channel(ANSWERS);
        let interval = Duration::from_secs(self.replica.config().watch_progress_notify_interval.max(1));
        let stream = WatchStream::new(self.replica.clone(), sender);
        crate::rt::spawn(stream.run(request.into_inner(), interval));
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}
