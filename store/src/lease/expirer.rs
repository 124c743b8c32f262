//! Revokes, through the log, what has expired while this replica leads, and notes how much time is left to the others.
//! Which leases those are is [`super::table`]'s
//! business.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{StreamExt as _, iter};

use crate::replica::Replica;

const ROUND: Duration = Duration::from_millis(200);
/// Leases revoked in one round, and of those at the same time.
const PER_ROUND: usize = 500;
const AT_ONCE: usize = 16;

/// Runs until the replica stops.
pub async fn run(replica: Arc<Replica>) {
    let mut round = tokio::time::interval(ROUND);
    round.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut led = replica.leadership();
    loop {
        tokio::select! {
            biased;
            () = replica.stop().cancelled() => return,
            changed = led.changed() => {
                if changed.is_err() {
                    return;
                }
                replica.lead_leases();
            }
            _ = round.tick() => {}
        }
        let left = replica.due_checkpoints(PER_ROUND);
        if !left.is_empty()
            && let Err(status) = replica.checkpoint_leases(left).await
        {
            tracing::debug!(%status, "the time left to leases is not noted yet");
        }
        let expired = replica.expired_leases(PER_ROUND);
        iter(expired)
            .for_each_concurrent(AT_ONCE, |id| {
                let replica = &replica;
                async move {
                    tracing::debug!(id, "lease expired");
                    // Not the leader any more, or too slow: the next round, or the next leader, tries again.
                    if let Err(status) = replica.revoke_expired(id).await {
                        tracing::debug!(id, %status, "an expired lease is not revoked yet");
                    }
                }
            })
            .await;
    }
}
