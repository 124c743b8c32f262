//! What etcd's own `benchmark` program measures, on either system: puts, reads, transactions, watches.
//!
//! The client's CPU time is told beside the servers': all run on one machine, so that the client's share bounds what
//! any server could reach there.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::members::Members;
use crate::run;

/// One measurement.
pub struct Workload {
    /// As the output calls it.
    pub name: &'static str,
    /// Clients at once, over at most [`CONNECTIONS`] connections.
    clients: u32,
    /// Arguments of `benchmark`, after the common ones; `TOTAL` stands for the number of operations.
    words: &'static str,
    /// Operations of one run, in parts of 100 of `--puts`.
    share: u64,
    /// Which of the summaries that `benchmark` prints counts: the first or the last.
    last: bool,
}

const CONNECTIONS: u32 = 100;

const fn workload(name: &'static str, clients: u32, words: &'static str, share: u64) -> Workload {
    Workload { name, clients, words, share, last: false }
}

/// In the order in which they run: the first ones leave the keys that the later ones read.
pub const ALL: [Workload; 10] = [
    workload("put", 1, "put --key-size 8 --val-size 256 --sequential-keys --key-space-size 100000 --total TOTAL", 5),
    workload("put", 100, "put --key-size 8 --val-size 256 --sequential-keys --key-space-size 100000 --total TOTAL", 100),
    workload("put", 1000, "put --key-size 8 --val-size 256 --sequential-keys --key-space-size 100000 --total TOTAL", 200),
    workload("get-linearizable", 100, "range foo --consistency l --total TOTAL", 200),
    workload("get-serializable", 100, "range foo --consistency s --total TOTAL", 200),
    workload("range-10000-keys", 10, "range r/ r0 --consistency s --limit 10000 --total TOTAL", 1),
    workload("txn-put", 100, "txn-put --key-size 8 --val-size 256 --key-space-size 10000 --total TOTAL", 50),
    workload("txn-mixed-1:1", 100, "txn-mixed --key-size 8 --val-size 256 --key-space-size 10000 --limit 10 --total TOTAL", 50),
    Workload {
        last: true,
        ..workload("watch-1000-watchers", 10, "watch --streams 10 --watch-per-stream 100 --watched-key-total 1 --put-total 1000", 5)
    },
    Workload {
        last: true,
        ..workload("watch-latency", 10, "watch-latency --streams 10 --watchers-per-stream 10 --put-rate 200 --put-total 1000", 5)
    },
];

/// One summary of `benchmark`: operations per second, median and 99th percentile in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Summary {
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
}

/// All summaries in what `benchmark` printed.
fn summaries(printed: &str) -> Vec<Summary> {
    let after = |line: &str, mark: &str| line.split_once(mark).and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok());
    let before = |line: &str, mark: &str| line.contains(mark).then(|| after(line, " in ")).flatten();
    let mut found: Vec<Summary> = Vec::new();
    for line in printed.lines() {
        if let Some(per_second) = after(line, "Requests/sec:") {
            found.push(Summary { per_second, p50_ms: 0.0, p99_ms: 0.0 });
        }
        let Some(current) = found.last_mut() else { continue };
        if let Some(seconds) = before(line, "50% in") {
            current.p50_ms = seconds * 1e3;
        }
        if let Some(seconds) = before(line, "99% in") {
            current.p99_ms = seconds * 1e3;
        }
    }
    found
}

impl Workload {
    /// Runs it against `members` and gives one line of figures. `puts` scales the number of operations.
    pub fn measure(&self, benchmark: &Path, members: &Members, puts: u64) -> Result<Value> {
        let total = (puts * self.share / 100).max(100);
        let endpoints: Vec<&str> = members.endpoints.iter().map(|url| url.trim_start_matches("http://")).collect();
        let (servers_before, client_before) = (members.cpu_micros(), super::children_cpu_micros());
        let total_word = total.to_string();
        let printed = run::output(
            Command::new(benchmark)
                .args(["--endpoints", &endpoints.join(","), "--target-leader"])
                .args(["--clients", &self.clients.to_string(), "--conns", &self.clients.min(CONNECTIONS).to_string()])
                .args(self.words.split(' ').map(|word| if word == "TOTAL" { &total_word } else { word })),
        )?;
        let servers = members.cpu_micros().saturating_sub(servers_before);
        let client = super::children_cpu_micros().saturating_sub(client_before);
        let all = summaries(&printed);
        let summary = if self.last { all.last() } else { all.first() };
        let summary = summary.with_context(|| format!("benchmark {} printed no summary:\n{printed}", self.words))?;
        let operations = if self.last { 1_000.0 * 1_000.0 } else { total as f64 };
        Ok(json!({
            "workload": self.name, "clients": self.clients, "per_s": summary.per_second.round(),
            "p50_ms": summary.p50_ms, "p99_ms": summary.p99_ms,
            "servers_cpu_us_per_op": servers as f64 / operations, "client_cpu_us_per_op": client as f64 / operations,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_are_read_from_what_benchmark_prints() {
        let printed = "Watch creation summary:\n\nSummary:\n  Total:\t0.1 secs.\n  Requests/sec:\t100.5\n\nLatency distribution:\n  \
                       50% in 0.0010 secs.\n  99% in 0.0200 secs.\n  99.9% in 0.5 secs.\nSummary:\n  Requests/sec:\t7\n  50% in 0.5 secs.\n";
        let expected = [
            Summary { per_second: 100.5, p50_ms: 1.0, p99_ms: 20.0 },
            Summary { per_second: 7.0, p50_ms: 500.0, p99_ms: 0.0 },
        ];
        assert_eq!(summaries(printed), expected);
    }
}
