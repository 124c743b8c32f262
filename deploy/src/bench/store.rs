//! Three members on loopback, beside etcd's: same machine, same client, same disk, every write synced on a majority,
//! taking turns.
//!
//! The client is etcd's own `benchmark` where it is at hand, which measures reads, transactions and watches too; else a
//! client of our own, which measures puts.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::members::{self, Members, System};
use super::{load, percentile, print_line, workloads};
use crate::{http, layout, peers};

/// Keys that the range workload reads.
const RANGE_KEYS: u64 = 10_000;

/// Measures and prints; of the workloads those whose names begin with one of `only`, if there is any.
pub fn measure(store: &members::Store, puts: u64, rounds: u32, only: &[String]) -> Result<()> {
    let systems = members::systems(store)?;
    let benchmark = peers::benchmark();
    if benchmark.is_none() {
        eprintln!("no etcd `benchmark` program in target/peers or on PATH: puts only, with a client of our own");
    }
    let folder = layout::repository()?.join("target/bench");
    std::fs::remove_dir_all(&folder).ok();
    let profile_name = store.name();
    for round in 0..rounds {
        for (number, (system, program)) in systems.iter().enumerate() {
            let members = Members::start(*system, program, &folder.join(round.to_string()), 3, 21_700 + 10 * number as u16)?;
            let about = json!({
                "bench": "store", "system": system.name(), "round": round, "members": 3,
                "synced": "majority", "profile": if *system == System::Balsa { profile_name.as_str() } else { "" },
            });
            let print = |figures: Value| print_line(&joined(&about, figures));
            match &benchmark {
                Some(program) => with_benchmark(program, &members, puts, only, &print)?,
                None => with_own_client(&members, puts, &print)?,
            }
        }
    }
    std::fs::remove_dir_all(&folder).ok();
    Ok(())
}

fn joined(about: &Value, figures: Value) -> Value {
    let mut line = about.clone();
    if let (Some(line), Value::Object(figures)) = (line.as_object_mut(), figures) {
        line.extend(figures);
    }
    line
}

fn with_benchmark(program: &Path, members: &Members, puts: u64, only: &[String], print: &dyn Fn(Value)) -> Result<()> {
    let runtime = http::runtime()?;
    let leader = runtime.block_on(load::leader(&members.endpoints))?;
    // What the reads read; it warms both systems up as well.
    let key = |number: u64| if number == RANGE_KEYS { "foo".to_owned() } else { format!("r/{number:05}") };
    runtime.block_on(load::puts(&leader, 100, RANGE_KEYS + 1, key))?;
    let wanted = |name: &str| only.is_empty() || only.iter().any(|word| name.starts_with(word.as_str()));
    for workload in workloads::ALL.iter().filter(|workload| wanted(workload.name)) {
        print(workload.measure(program, members, puts)?);
    }
    Ok(())
}

fn with_own_client(members: &Members, puts: u64, print: &dyn Fn(Value)) -> Result<()> {
    let key = |number: u64| format!("{number:08x}");
    let runtime = http::runtime()?;
    let leader = runtime.block_on(load::leader(&members.endpoints))?;
    // So that neither pays for its first pages.
    runtime.block_on(load::puts(&leader, 100, 2_000, key))?;
    for (clients, total) in [(1usize, puts / 20), (100, puts), (1000, puts * 2)] {
        let before = members.cpu_micros();
        let outcome = runtime.block_on(load::puts(&leader, clients, total, key))?;
        let cpu = members.cpu_micros().saturating_sub(before);
        print(json!({
            "workload": "put", "clients": clients, "per_s": (outcome.puts as f64 / outcome.elapsed.as_secs_f64()).round(),
            "p50_ms": percentile(&outcome.latencies_ms, 50.0), "p99_ms": percentile(&outcome.latencies_ms, 99.0),
            "servers_cpu_us_per_op": cpu as f64 / outcome.puts.max(1) as f64,
        }));
    }
    Ok(())
}
