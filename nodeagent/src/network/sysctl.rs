//! Kernel settings of the node's network namespace, and the host's firewall where the namespace is the host's.
//!
//! Nothing here is fatal: where a setting cannot be made it is named in the log with what will not work.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use tokio::process::Command;

/// `iptables` that takes longer is killed.
const DEADLINE: Duration = Duration::from_secs(10);

/// Lets the node pass packets on, and its rules see what crosses a bridge.
pub fn prepare_node() {
    set("net/ipv4/ip_forward", "pods reach no other node");
    set("net/bridge/bridge-nf-call-iptables", "rules do not see traffic between pods of this node");
}

/// Lets connections from the node's own loopback address reach pods, as hostPorts on 127.0.0.1 need.
pub fn let_localhost_through(bridge: &str) {
    set(&format!("net/ipv4/conf/{bridge}/route_localnet"), "hostPorts do not work on 127.0.0.1");
}

fn set(name: &str, otherwise: &str) {
    let path = PathBuf::from("/proc/sys").join(name);
    if std::fs::read_to_string(&path).is_ok_and(|value| value.trim() == "1") {
        return;
    }
    let mut written = std::fs::write(&path, "1");
    if written.as_ref().is_err_and(|error| error.raw_os_error() == Some(nix::libc::EROFS)) && make_writable() {
        written = std::fs::write(&path, "1");
    }
    if let Err(error) = written {
        tracing::warn!(setting = name, %error, "cannot be set: {otherwise}");
    }
}

/// Containers get /proc/sys read-only; with CAP_SYS_ADMIN that can be undone for ours alone.
fn make_writable() -> bool {
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
    match mount(None::<&str>, "/proc/sys", None::<&str>, flags, None::<&str>) {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(%error, "/proc/sys cannot be made writable");
            false
        }
    }
}

/// Docker sets the host's forward policy to drop; our bridge is let through by two rules of the host's own firewall.
pub async fn let_bridge_through(bridge: &str) {
    for rule in bridge_rules(bridge) {
        if iptables("-C", &rule).await.is_err()
            && let Err(error) = iptables("-I", &rule).await
        {
            tracing::warn!(bridge, error, "the host's firewall may drop what pods send to each other");
        }
    }
}

/// Takes the two rules away again.
pub async fn forget_bridge(bridge: &str) {
    for rule in bridge_rules(bridge) {
        if let Err(error) = iptables("-D", &rule).await {
            tracing::debug!(bridge, error, "no rule of the host's firewall to remove");
        }
    }
}

fn bridge_rules(bridge: &str) -> [Vec<String>; 2] {
    let rule = |direction: &str| ["FORWARD", direction, bridge, "-j", "ACCEPT"].map(str::to_owned).to_vec();
    [rule("-i"), rule("-o")]
}

async fn iptables(action: &str, rule: &[String]) -> Result<(), String> {
    let run = Command::new("iptables")
        .args(["-w", "5", action])
        .args(rule)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(DEADLINE, run)
        .await
        .map_err(|_| format!("iptables did not end in {DEADLINE:?}"))?
        .map_err(|error| error.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
}
