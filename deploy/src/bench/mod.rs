//! `bench`: figures as JSON lines, each with what it was measured on.
//!
//! Machines are noisy, so a peer is measured in the same run, taking turns, and every figure comes with the server's
//! CPU time per operation. No test asserts any of it.

mod api;
mod keys;
mod load;
mod members;
mod memory;
mod pods;
mod store;
mod workloads;

use std::fs;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use crate::build::Profile;
use crate::layout::Layout;

/// Flags of `bench`.
#[derive(Args, Debug, Clone)]
pub struct Options {
    /// store: puts, reads, transactions and watches beside etcd's. api: the apiserver
    /// beside a real kube-apiserver. pods: create → Running beside `docker run`. memory:
    /// every process's. keys: memory and start-up of one member that holds many keys. pods and memory need a running
    /// cluster. Without a word: store, pods and memory.
    #[arg(value_parser = ["store", "api", "pods", "memory", "keys"])]
    what: Vec<String>,
    #[command(flatten)]
    layout: Layout,
    /// How to build the store that is measured.
    #[arg(long, value_enum, default_value_t = Profile::Release)]
    profile: Profile,
    /// The store to measure, in place of one that is built for it; for `store` and `keys`.
    #[arg(long, value_name = "PROGRAM")]
    program: Option<PathBuf>,
    /// Puts for each figure.
    #[arg(long, default_value_t = 20_000)]
    puts: u64,
    /// How often each figure is taken, in turn with the peer's.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Only the workloads of `store` whose names begin so; all without it.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Keys for `keys`.
    #[arg(long, default_value_t = 10_000_000)]
    keys: u64,
    /// Pods that `api` creates and lists.
    #[arg(long, default_value_t = 10_000)]
    api_pods: u64,
    /// Watchers of `api`.
    #[arg(long, default_value_t = 1_000)]
    watchers: usize,
    /// Pods to create, one after the other.
    #[arg(long, default_value_t = 20)]
    pods: u32,
}

/// Measures.
pub fn bench(options: &Options) -> Result<()> {
    let wants = |what: &str| options.what.is_empty() || options.what.iter().any(|word| word == what);
    print_line(&machine());
    let store = || members::Store { profile: options.profile, program: options.program.clone() };
    if wants("store") {
        store::measure(&store(), options.puts, options.rounds, &options.only)?;
    }
    if options.what.iter().any(|word| word == "keys") {
        keys::measure(&store(), options.keys)?;
    }
    if options.what.iter().any(|word| word == "api") {
        let amounts = api::Amounts { pods: options.api_pods.max(1), watchers: options.watchers, rounds: options.rounds };
        api::measure(options.profile, amounts)?;
    }
    if wants("pods") {
        pods::measure(&options.layout, options.pods)?;
    }
    if wants("memory") {
        memory::measure(&options.layout)?;
    }
    Ok(())
}

/// One figure.
fn print_line(line: &Value) {
    println!("{line}");
}

fn machine() -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let processor = read("/proc/cpuinfo");
    let model = processor.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split(": ").nth(1));
    let memory = read("/proc/meminfo");
    let kibibytes: Option<u64> = memory.lines().next().and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    json!({
        "bench": "machine",
        "cpus": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        "model": model.unwrap_or("unknown"),
        "memory_mib": kibibytes.unwrap_or(0) / 1024,
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "load_average": read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" "),
    })
}

/// CPU time that a process has used so far, microseconds.
fn cpu_micros(process: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // Fields 14 and 15 of proc(5).
    cpu_fields(&stat, 11)
}

/// Two neighbouring times of a `stat` line, summed; `index` counts from behind the program's name, which may hold spaces.
fn cpu_fields(stat: &str, index: usize) -> u64 {
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    // In ticks of 10 ms.
    (ticks(index) + ticks(index + 1)) * 10_000
}

/// CPU time of the programs that this one has run to their end, microseconds.
fn children_cpu_micros() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Fields 16 and 17 of proc(5).
    cpu_fields(&stat, 13)
}

/// The value below which `percent` of the sorted figures are.
fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let index = (sorted.len() as f64 * percent / 100.0).ceil() as usize;
    sorted.get(index.saturating_sub(1)).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_members_of_the_sample() {
        let sample: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!([50.0, 99.0, 100.0].map(|percent| percentile(&sample, percent)), [50.0, 99.0, 100.0]);
        assert_eq!(percentile(&[], 50.0), 0.0);
    }

    #[test]
    fn our_own_cpu_time_can_be_read() {
        let mut sum = 0u64;
        while cpu_micros(std::process::id()) == 0 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
    }
}
