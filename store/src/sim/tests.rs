//! Fixed seeds, fresh seeds, the same seed twice, and the store broken on purpose.
//!
//! `BALSA_SIM_SEEDS=10000` runs so many, from `BALSA_SIM_FROM` on; `BALSA_SIM_SEED=7` runs one and shows its log.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::history::export;
use super::{Mutation, Report, run};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// On a thread of its own: a world belongs to its thread.
fn run_apart(seed: u64, mutation: Option<Mutation>) -> Report {
    let thread = std::thread::Builder::new().stack_size(8 << 20).spawn(move || run(seed, mutation));
    thread.unwrap().join().unwrap()
}

/// What is wrong, a line each.
fn listed(report: &Report) -> String {
    let lines: Vec<String> = report.violations.iter().map(|violation| format!("{:?}: {}", violation.kind, violation.text)).collect();
    lines.join("\n")
}

fn explain(seed: u64, report: &Report) -> String {
    let tail: Vec<&str> = report.log.lines().rev().take(40).collect();
    format!(
        "seed {seed} breaks the store (BALSA_SIM_SEED={seed} cargo test -p balsa-store --lib one_seed -- --nocapture):\n{}\n...\n{}",
        listed(report),
        tail.into_iter().rev().collect::<Vec<_>>().join("\n")
    )
}

/// Runs seeds on two threads; the first that fails, if any, and how many calls there were.
fn search(from: u64, count: u64, all: bool) -> (u64, Vec<(u64, Report)>) {
    let (next, calls) = (AtomicU64::new(from), AtomicU64::new(0));
    let failed = parking_lot::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..number("BALSA_SIM_THREADS").unwrap_or(2) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + count || (!all && !failed.lock().is_empty()) {
                        return;
                    }
                    let report = run(seed, None);
                    calls.fetch_add(report.calls.len() as u64, Ordering::Relaxed);
                    let failed_here = report.wrong(None).is_some();
                    if !report.violations.is_empty() && (all || !failed_here) {
                        eprintln!("seed {seed}: {}", listed(&report).chars().take(2_000).collect::<String>());
                    }
                    if failed_here {
                        failed.lock().push((seed, report));
                    }
                    if all && (seed - from) % 500 == 499 {
                        eprintln!("{} seeds, {} failed", seed + 1 - from, failed.lock().len());
                    }
                }
            });
        }
    });
    (calls.into_inner(), failed.into_inner())
}

#[test]
fn seeds_break_no_promise() {
    let (from, count) = (number("BALSA_SIM_FROM").unwrap_or(1), number("BALSA_SIM_SEEDS").unwrap_or(300));
    let began = Instant::now();
    let (calls, mut failed) = search(from, count, number("BALSA_SIM_SEEDS").is_some());
    eprintln!("{count} seeds from {from}, {calls} calls, {} failed, {:?}", failed.len(), began.elapsed());
    failed.sort_by_key(|(seed, _)| *seed);
    if let Some((seed, report)) = failed.first() {
        panic!("{}", explain(*seed, report));
    }
}

#[test]
fn one_seed() {
    let Some(seed) = number("BALSA_SIM_SEED") else { return };
    let mutation = std::env::var("BALSA_SIM_MUTATION").ok();
    let mutation = mutation.and_then(|name| Mutation::ALL.into_iter().find(|mutation| format!("{mutation:?}") == name));
    let report = run_apart(seed, mutation);
    println!("{}", report.log);
    println!("{} calls in {} ms of the world's time", report.calls.len(), report.millis);
    if let Ok(dir) = std::env::var("BALSA_SIM_EXPORT") {
        std::fs::write(format!("{dir}/{seed}.edn"), export::edn(&report.calls)).unwrap();
        std::fs::write(format!("{dir}/{seed}.json"), export::porcupine(&report.calls)).unwrap();
    }
    assert!(report.violations.is_empty(), "{}", listed(&report));
}

#[test]
fn a_seed_gives_the_same_run_every_time() {
    for seed in [2, 3, 1_000_003] {
        let (first, second) = (run_apart(seed, None), run_apart(seed, None));
        let differs = first.log.lines().zip(second.log.lines()).enumerate().find(|(_, (a, b))| a != b);
        assert!(differs.is_none(), "seed {seed} differs: {differs:?}");
        assert_eq!(first.log, second.log);
        assert!(first.log.len() > 10_000, "something happened");
    }
}

/// How many seeds are tried on a broken store before its test is said to be blind; each was found in half as many.
const MOST: u64 = 200;
/// How many are tried where nothing is demanded.
const SOME: u64 = 30;

/// Broken rules that need more seeds than a test has time for, or a sharper world; docs/STORE.md says what is known.
const NOT_DEMANDED: [Mutation; 3] = [Mutation::KeepTruncated, Mutation::RenewUnconfirmed, Mutation::TellUncommitted];

/// The seeds until a broken store is found out: by anything, and by what it is to show as. And how.
fn found_out(mutation: Mutation, most: u64) -> Option<(u64, u64, String)> {
    let mut first = None;
    for seed in 1..=most {
        let report = run_apart(seed, Some(mutation));
        if report.wrong(None).is_some() {
            first.get_or_insert(seed);
        }
        if let Some(violation) = report.wrong(mutation.shows_as()) {
            let line = violation.text.lines().next().unwrap_or_default();
            return Some((first.unwrap_or(seed), seed, line.chars().take(160).collect()));
        }
    }
    if let Some(seed) = first {
        eprintln!("{mutation:?}: after {seed} seeds something stops, and no promise is broken");
    }
    None
}

#[test]
fn a_store_that_is_broken_on_purpose_is_found_out() {
    let only = std::env::var("BALSA_SIM_MUTATION").ok();
    let mut blind = Vec::new();
    for mutation in Mutation::ALL {
        if only.as_ref().is_some_and(|only| *only != format!("{mutation:?}")) {
            continue;
        }
        let most = if NOT_DEMANDED.contains(&mutation) { SOME } else { MOST };
        match found_out(mutation, number("BALSA_SIM_MOST").unwrap_or(most)) {
            Some((first, seeds, how)) => eprintln!("{mutation:?}: {seeds} seeds (something is wrong after {first}); {how}"),
            None if NOT_DEMANDED.contains(&mutation) => eprintln!("{mutation:?}: not found out"),
            None => blind.push(mutation),
        }
    }
    assert!(blind.is_empty(), "not found out: {blind:?}");
}
