//! Watches over the node's network: that it is still the holder's, that routes and rules are there.

use std::time::Duration;

use thiserror::Error;
use tokio_util::sync::CancellationToken;

use super::{Docker, state};
use crate::network::netns::Identity;
use crate::runtime::RuntimeResult;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(3);

/// The holder was restarted, so the agent sits in a network namespace that nobody else is in. It must exit: its
/// restart puts it into the new one. Said only once the holder is up, because the engine does not restart a container
/// whose network's owner is down.
#[derive(Debug, Error)]
#[error("the holder {0} has a new network namespace; the agent must be restarted to join it")]
pub struct NodeNetworkLost(String);

impl Docker {
    /// Whether the holder runs with another network namespace than ours. Without a holder: never.
    pub async fn is_network_lost(&self) -> RuntimeResult<bool> {
        let Some(holder) = &self.inner.config.holder else { return Ok(false) };
        let Some(found) = self.inspect_if_there(holder).await? else { return Ok(false) };
        let Some(pid) = state::pid(&found) else { return Ok(false) };
        Ok(match (Identity::of_self(), Identity::of(pid)) {
            (Ok(ours), Ok(holders)) => ours != holders,
            // A process that has just died; the next look will tell.
            _ => false,
        })
    }

    /// Runs beside the agent: keeps routes and rules as they must be until `stop`.
    ///
    /// # Errors
    /// Only when the node's network namespace was replaced.
    pub async fn guard(&self, stop: CancellationToken) -> Result<(), NodeNetworkLost> {
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            match self.is_network_lost().await {
                Ok(true) => return Err(NodeNetworkLost(self.inner.config.holder.clone().unwrap_or_default())),
                Ok(false) => {}
                Err(error) => tracing::debug!(%error, "the holder was not seen"),
            }
            if self.inner.network.is_started()
                && let Err(error) = self.inner.network.check().await
            {
                tracing::warn!(%error, "the node's network is not as it must be");
            }
        }
    }
}
