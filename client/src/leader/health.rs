//! Whether a leader's lease is alive: what a process's `/healthz` says about it.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// How long past its lease a leader may be before it counts as sick, as kube-controller-manager has it.
const TOLERATED: Duration = Duration::from_secs(20);

/// Shared between the election and whoever asks. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct LeaderHealth {
    /// While we lead: when the lease was renewed last.
    renewed: Arc<Mutex<Option<Instant>>>,
}

impl LeaderHealth {
    pub(super) fn renewed(&self, at: Instant) {
        *self.renewed.lock() = Some(at);
    }

    pub(super) fn leads_no_longer(&self) {
        *self.renewed.lock() = None;
    }

    /// Who does not lead is well; who leads and could not renew the lease `name` of this length for too long is not:
    /// its work hangs, or it should have stopped.
    pub fn check(&self, name: &str, lease: Duration) -> Result<(), String> {
        match *self.renewed.lock() {
            Some(at) if at.elapsed() > lease + TOLERATED => {
                Err(format!("leaderElection failed: failed election to renew leadership on lease {name}"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_cannot_renew_is_sick() {
        let health = LeaderHealth::default();
        let lease = Duration::from_secs(15);
        assert!(health.check("l", lease).is_ok(), "nobody has to lead");
        health.renewed(Instant::now());
        tokio::time::advance(Duration::from_secs(35)).await;
        assert!(health.check("l", lease).is_ok());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(health.check("l", lease).unwrap_err().contains("renew leadership on lease l"));
        health.leads_no_longer();
        assert!(health.check("l", lease).is_ok());
    }
}
