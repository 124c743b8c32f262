//! The states of a pod on its node, and the only ways between them: one table.
//!
//! The planner derives the state from facts each time (it is never stored), so this table is the claim that the facts
//! can only change in these ways; the worker checks each step against it and the docs draw it.

use std::fmt;

/// Where a pod is in its life on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Seen, not yet weighed against what the node has.
    Admitting,
    /// The node cannot run it: phase Failed, nothing was started.
    Rejected,
    /// Volumes, sandbox, network.
    Preparing,
    /// Init containers run, one after the other.
    Initializing,
    /// App containers are started and kept.
    Running,
    /// All app containers ended for good; what is left is stopped.
    Completed,
    /// Being stopped: hooks, signals, grace.
    Terminating,
    /// Nothing runs any more; containers, network, volumes and cgroup are taken away.
    Cleaning,
    /// All gone: the last status is written and the object deleted.
    Deleting,
    /// Nothing is left, here or in the API.
    Gone,
}

/// Every way there is, with what leads along it.
pub const WAYS: &[(Stage, &str, Stage)] = &[
    (Stage::Admitting, "the node has room", Stage::Preparing),
    (Stage::Admitting, "the node has no room", Stage::Rejected),
    (Stage::Admitting, "its containers were found running", Stage::Running),
    (Stage::Admitting, "its init containers were found running", Stage::Initializing),
    (Stage::Admitting, "it had ended before", Stage::Completed),
    (Stage::Admitting, "stop asked for", Stage::Terminating),
    (Stage::Admitting, "stop asked for, nothing runs", Stage::Cleaning),
    (Stage::Admitting, "stop asked for, nothing runs", Stage::Completed),
    (Stage::Rejected, "deleted", Stage::Cleaning),
    (Stage::Preparing, "sandbox ready", Stage::Initializing),
    (Stage::Preparing, "sandbox ready", Stage::Running),
    (Stage::Preparing, "nothing left to start", Stage::Completed),
    (Stage::Preparing, "stop asked for", Stage::Terminating),
    (Stage::Preparing, "stop asked for, nothing runs", Stage::Cleaning),
    (Stage::Preparing, "stop asked for, nothing runs", Stage::Completed),
    (Stage::Initializing, "all done", Stage::Running),
    (Stage::Initializing, "sandbox lost", Stage::Preparing),
    (Stage::Initializing, "failed for good", Stage::Completed),
    (Stage::Initializing, "stop asked for", Stage::Terminating),
    (Stage::Initializing, "stop asked for, nothing runs", Stage::Cleaning),
    (Stage::Initializing, "stop asked for, nothing runs", Stage::Completed),
    (Stage::Running, "sandbox lost", Stage::Preparing),
    (Stage::Running, "a sidecar died before any app started", Stage::Initializing),
    (Stage::Running, "all ended for good", Stage::Completed),
    (Stage::Running, "stop asked for", Stage::Terminating),
    (Stage::Running, "stop asked for, nothing runs", Stage::Cleaning),
    (Stage::Running, "stop asked for, nothing runs", Stage::Completed),
    (Stage::Completed, "deleted", Stage::Terminating),
    (Stage::Completed, "deleted, nothing runs", Stage::Cleaning),
    (Stage::Terminating, "stopped by the node: the object stays", Stage::Completed),
    (Stage::Terminating, "all containers ended", Stage::Cleaning),
    (Stage::Cleaning, "all taken away", Stage::Deleting),
    (Stage::Cleaning, "all taken away, object gone before", Stage::Gone),
    (Stage::Deleting, "object deleted", Stage::Gone),
];

/// Whether the table has a way (or no way is needed).
pub fn allowed(from: Stage, to: Stage) -> bool {
    from == to || WAYS.iter().any(|(start, _, end)| (*start, *end) == (from, to))
}

/// The table as a Mermaid state diagram.
pub fn diagram() -> String {
    let ways = WAYS.iter().map(|(from, why, to)| format!("    {from} --> {to}: {why}\n"));
    format!("stateDiagram-v2\n    [*] --> {}\n{}    {} --> [*]\n", Stage::Admitting, ways.collect::<String>(), Stage::Gone)
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_way_leads_back_from_the_end() {
        for (from, _, to) in WAYS {
            let stopping = [Stage::Terminating, Stage::Cleaning, Stage::Deleting, Stage::Gone];
            let starting = [Stage::Admitting, Stage::Preparing, Stage::Initializing, Stage::Running];
            assert!(!(stopping.contains(from) && starting.contains(to)), "{from} → {to}");
            assert!(!(*from == Stage::Completed && starting.contains(to)), "{from} → {to}");
        }
        assert!(!allowed(Stage::Rejected, Stage::Running));
        assert!(diagram().contains("Running --> Terminating: stop asked for"));
    }
}
