//! Compacts by itself: `--auto-compaction-mode`, `--auto-compaction-retention`. What and when is decided in [`plan`].

pub mod plan;

use std::sync::Arc;

use balsa_proto::etcd::etcdserverpb::CompactionRequest;
use tokio::time::Instant;

use crate::command::Command;
use crate::error::Refusal;
use crate::ledger::admit::Asker;
use crate::replica::Replica;
use plan::{Plan, Retention};

/// Runs until the replica stops.
pub async fn run(replica: Arc<Replica>, retention: Retention) {
    let started = Instant::now();
    let now = || u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let mut plan = Plan::new(retention, now());
    loop {
        plan.note(replica.hub().position().revision);
        tokio::select! {
            biased;
            () = replica.stop().cancelled() => return,
            () = tokio::time::sleep(plan.round()) => {}
        }
        let Some(revision) = plan.due(now(), replica.hub().position().revision, replica.leads()) else { continue };
        let request = CompactionRequest { revision, physical: false };
        let command = Command::Signed { asker: Asker::System, command: Box::new(Command::Compact(request)) };
        match replica.propose(command).await {
            Ok(_) => tracing::info!(revision, "compacted, as --auto-compaction-retention has it"),
            Err(status) if status.message() == Refusal::Compacted.to_string() => {}
            Err(status) => {
                tracing::warn!(%status, revision, "not compacted yet");
                continue;
            }
        }
        plan.succeeded(revision, now());
    }
}
