//! The API server on three replicas of its store, beside a real kube-apiserver on three members of etcd: same machine,
//! same client, same requests, every write synced on a majority, taking turns.
//!
//! Nothing else runs: no scheduler, no controllers, no nodes. The client speaks HTTP/2 over TLS and JSON, with the
//! certificate of an administrator.

mod client;
mod system;
mod work;

use anyhow::Result;
use serde_json::{Value, json};

use self::system::System;
use super::members::Store;
use super::print_line;
use crate::build::Profile;
use crate::{http, layout};

/// How much of everything.
#[derive(Debug, Clone, Copy)]
pub struct Amounts {
    /// Pods that are created, and listed afterwards.
    pub pods: u64,
    /// Watchers, and the changes that each is told.
    pub watchers: usize,
    /// How often everything is measured.
    pub rounds: u32,
}

/// Measures and prints.
pub fn measure(profile: Profile, amounts: Amounts) -> Result<()> {
    let programs = system::programs(&Store { profile, program: None })?;
    let folder = layout::repository()?.join("target/bench-api");
    for round in 0..amounts.rounds {
        for programs in &programs {
            std::fs::remove_dir_all(&folder).ok();
            let runtime = http::runtime()?;
            let system = runtime.block_on(System::start(programs, &folder))?;
            let about = json!({"bench": "api", "system": programs.name, "round": round});
            let print = |figures: Value| {
                let mut line = about.clone();
                if let (Some(line), Value::Object(figures)) = (line.as_object_mut(), figures) {
                    line.extend(figures);
                }
                print_line(&line);
            };
            print(json!({"workload": "start", "ready_ms": system.ready_ms, "rss_mib": system.resident_mib()}));
            runtime.block_on(work::all(&system, amounts, &print))?;
        }
    }
    std::fs::remove_dir_all(&folder).ok();
    Ok(())
}
