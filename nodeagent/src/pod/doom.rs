//! Why a container has to end although its pod goes on, and since when. Pure.

use std::fmt;

use jiff::Timestamp;

/// Why a container is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The pod ends.
    PodStops,
    /// Its liveness probe failed.
    Liveness,
    /// Its startup probe failed.
    Startup,
    /// Its image was changed.
    Changed,
    /// Its postStart hook failed.
    PostStart,
    /// Its sandbox died.
    Sandbox,
    /// Its resources were changed, and that needs a restart.
    Resize,
}

/// A container that has to end, whatever the pod does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doom {
    /// Which instance.
    pub id: String,
    /// From when the grace counts.
    pub since: Timestamp,
    /// Seconds.
    pub grace_seconds: i64,
    /// Why.
    pub why: Why,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PodStops => "pod stops",
            Self::Liveness => "liveness probe failed",
            Self::Startup => "startup probe failed",
            Self::Changed => "definition changed",
            Self::PostStart => "postStart hook failed",
            Self::Sandbox => "sandbox changed",
            Self::Resize => "resize",
        })
    }
}
