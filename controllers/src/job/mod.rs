//! Job: pods that run to their end, so many times, with a limit to failing.
//!
//! A finished pod is counted exactly once, whatever dies in between. Each pod carries a finalizer; a finished one goes
//! through these steps, one write each: its UID (or, of an indexed Job, its index) is written into the status; its
//! finalizer is taken off; its UID is replaced by one more in a counter. So a pod that still has its finalizer and is
//! in no list was not counted, and one that is in a list and has none any more is to be counted now. What the caches do
//! not show yet of our own writes is part of the observation, and what a predecessor wrote just before it ended is read
//! live once per Job (`observe.rs`).
//!
//! Ending takes two writes as well: a condition that says how it will end (`FailureTarget`, `SuccessCriteriaMet`) comes
//! first and cannot be taken back, `Failed` or `Complete` when no pod is left running or uncounted.
//!
//! Beside it: finalizers of pods that have no unfinished Job any more (`orphans.rs`), and Jobs whose time to live after
//! their end is over (`ttl.rs`).
//!
//! Limits: at most 500 pods are created, deleted or counted per round.

pub mod backoff;
pub mod conditions;
pub mod count;
pub mod execute;
pub mod indexes;
pub mod observe;
pub mod orphans;
pub mod plan;
pub mod policy;
pub mod template;
pub mod ttl;
pub mod view;

pub use execute::Jobs;
pub use orphans::JobOrphans;
pub use ttl::FinishedJobs;

#[cfg(test)]
mod tests;

/// Keeps a pod until it is counted.
pub const TRACKING: &str = "batch.kubernetes.io/job-tracking";
