//! One member that holds many small keys: how much memory it takes, and how long it takes to start again.

use std::time::Instant;

use anyhow::Result;
use serde_json::json;

use super::members::{self, Members};
use super::{load, print_line};
use crate::{http, layout};

/// Puts that share a transaction: under etcd's limit of 128.
const BATCH: u64 = 100;

/// Measures and prints, Balsa first, then etcd where it is at hand.
pub fn measure(store: &members::Store, keys: u64) -> Result<()> {
    let systems = members::systems(store)?;
    let folder = layout::repository()?.join("target/bench-keys");
    std::fs::remove_dir_all(&folder).ok();
    let runtime = http::runtime()?;
    for (system, program) in systems.into_iter().rev() {
        let start = || Members::start(system, &program, &folder, 1, 21_750);
        let members = start()?;
        let leader = runtime.block_on(load::leader(&members.endpoints))?;
        let begun = Instant::now();
        runtime.block_on(load::batches(&leader, 20, keys / BATCH, BATCH))?;
        let filled = begun.elapsed();
        let resident = members.resident();
        members.stop()?;
        let begun = Instant::now();
        let members = start()?;
        let leader = runtime.block_on(load::leader(&members.endpoints))?;
        runtime.block_on(load::get(&leader, "k/000000000"))?;
        print_line(&json!({
            "bench": "keys", "system": system.name(), "keys": keys / BATCH * BATCH, "members": 1,
            "value_bytes": 16, "filled_s": filled.as_secs_f64(), "keys_per_s": (keys as f64 / filled.as_secs_f64()).round(),
            "resident_mib_filled": resident / (1 << 20), "start_s": begun.elapsed().as_secs_f64(),
            "resident_mib_started": members.resident() / (1 << 20),
        }));
        members.stop()?;
        std::fs::remove_dir_all(&folder).ok();
    }
    Ok(())
}
