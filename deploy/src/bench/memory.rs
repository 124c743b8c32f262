//! Resident memory of every process of a running cluster.

use std::fs;

use anyhow::Result;
use serde_json::json;

use super::print_line;
use crate::layout::Layout;
use crate::{engine, run};

/// A line like `VmRSS:  1234 kB` of a process's status, kibibytes.
fn kibibytes(status: &str, key: &str) -> Option<u64> {
    status.lines().find(|line| line.starts_with(key))?.split_whitespace().nth(1)?.parse().ok()
}

/// Resident memory of a process, bytes; 0 for one that is gone.
pub fn resident(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    kibibytes(&status, "VmRSS:").unwrap_or(0) * 1024
}

/// Measures and prints one line per process.
pub fn measure(layout: &Layout) -> Result<()> {
    let processes = layout
        .store_names()
        .into_iter()
        .chain(layout.apiserver_names())
        .chain(["scheduler1", "scheduler2", "controllers1", "controllers2"].map(str::to_owned))
        .chain(layout.node_names());
    for process in processes {
        let container = layout.container(&process);
        let id = run::output(&mut engine::docker(&["inspect", "--format", "{{.State.Pid}}", &container]))?;
        let status = fs::read_to_string(format!("/proc/{}/status", id.trim())).unwrap_or_default();
        print_line(&json!({
            "bench": "memory", "process": process,
            "rss_mib": kibibytes(&status, "VmRSS:").map(|kibibytes| kibibytes as f64 / 1024.0),
            "peak_rss_mib": kibibytes(&status, "VmHWM:").map(|kibibytes| kibibytes as f64 / 1024.0),
            "threads": kibibytes(&status, "Threads:"),
        }));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::kibibytes;

    #[test]
    fn the_figure_is_the_one_behind_the_key() {
        assert_eq!(kibibytes("VmPeak: 9 kB\nVmRSS:\t  1234 kB\n", "VmRSS:"), Some(1234));
        assert_eq!(kibibytes("", "VmRSS:"), None);
    }
}
