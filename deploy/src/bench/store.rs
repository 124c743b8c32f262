//! Puts per second of three members on loopback, beside etcd's where `etcd` is on PATH (or in target/peers): same
//! machine, same client, same disk, every write synced on a majority, taking turns.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;

use super::members::{Members, System};
use super::{load, percentile, print_line};
use crate::build::{self, Profile};
use crate::{http, layout, run};

fn etcd() -> Result<Option<PathBuf>> {
    let built = layout::repository()?.join("target/peers/etcd");
    Ok(run::find("etcd").or_else(|| built.exists().then_some(built)))
}

/// Measures and prints.
pub fn measure(profile: Profile, puts: u64, rounds: u32) -> Result<()> {
    let store = build::binaries(&["balsa-store"], profile, false)?.remove(0);
    let mut systems = vec![(System::Balsa, store)];
    match etcd()? {
        Some(program) => systems.insert(0, (System::Etcd, program)),
        None => eprintln!("no etcd on PATH: measured alone"),
    }
    let folder = layout::repository()?.join("target/bench");
    std::fs::remove_dir_all(&folder).ok();
    let runtime = http::runtime()?;
    for round in 0..rounds {
        for (number, (system, program)) in systems.iter().enumerate() {
            let data = folder.join(round.to_string());
            let members = Members::start(*system, program, &data, 21_700 + 10 * number as u16)?;
            let leader = runtime.block_on(load::leader(&members.endpoints))?;
            // So that neither pays for its first pages.
            runtime.block_on(load::puts(&leader, 100, 2_000))?;
            for clients in [1usize, 100] {
                let total = if clients == 1 { puts / 10 } else { puts };
                let before = members.cpu_micros();
                let outcome = runtime.block_on(load::puts(&leader, clients, total))?;
                let cpu = members.cpu_micros().saturating_sub(before);
                print_line(&json!({
                    "bench": "store-put", "system": format!("{system:?}").to_lowercase(), "round": round,
                    "members": 3, "clients": clients, "value_bytes": 256, "synced": "majority", "puts": outcome.puts,
                    "puts_per_s": (outcome.puts as f64 / outcome.elapsed.as_secs_f64()).round(),
                    "p50_ms": percentile(&outcome.latencies_ms, 50.0), "p99_ms": percentile(&outcome.latencies_ms, 99.0),
                    "server_cpu_us_per_put": cpu as f64 / outcome.puts.max(1) as f64,
                    "profile": if *system == System::Balsa { format!("{profile:?}").to_lowercase() } else { String::new() },
                }));
            }
        }
    }
    std::fs::remove_dir_all(&folder).ok();
    Ok(())
}
