//! Whether we still live in the node's network namespace.
//!
//! After a restart of the holder container the node has a new namespace, and this process sits in the old one, which
//! leads nowhere. Nothing can be repaired from here: the process has to end, and is started again in the new one. Not
//! before the holder runs, though: the engine does not retry to join the namespace of a container that is down.

use std::path::Path;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::network::netns::Identity;

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(5);

/// Watches until `stop`; an `Err` says that the process has to end.
pub async fn watch(socket: &Path, holder: &str, stop: CancellationToken) -> anyhow::Result<()> {
    let own = Identity::of_self()?;
    let socket = socket.to_string_lossy().into_owned();
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(PERIOD) => {}
        }
        let Some(pid) = pid(&socket, holder).await else { continue };
        match Identity::of(pid) {
            Ok(theirs) if theirs != own => {
                anyhow::bail!("{holder} has a new network namespace: ending, to be started again in it")
            }
            // Without sight of the host's processes nothing can be said.
            Ok(_) | Err(_) => {}
        }
    }
}

/// The holder's process, while it runs and the engine answers.
async fn pid(socket: &str, holder: &str) -> Option<i32> {
    let engine = bollard::Docker::connect_with_unix(socket, 10, bollard::API_DEFAULT_VERSION).ok()?;
    let engine = tokio::time::timeout(PERIOD, engine.negotiate_version()).await.ok()?.ok()?;
    let inspected = tokio::time::timeout(PERIOD, engine.inspect_container(holder, None)).await.ok()?.ok()?;
    let state = inspected.state?;
    let pid = state.pid.filter(|_| state.running == Some(true))?;
    i32::try_from(pid).ok().filter(|pid| *pid > 0)
}
