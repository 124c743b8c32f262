//! Probes: does a container start, live, serve?
//!
//! [`threshold`] decides from single answers (pure); [`check`] makes single attempts; [`prober`] is the loop that
//! waits and asks. What follows from a result is the pod planner's matter.

pub mod check;
pub mod http;
pub mod prober;
pub mod threshold;

use std::fmt;

use k8s_openapi::api::core::v1::{Container, Probe};

/// Which probe of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `startupProbe`
    Startup,
    /// `livenessProbe`
    Liveness,
    /// `readinessProbe`
    Readiness,
}

impl Kind {
    /// The probe in a container's spec.
    pub fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        })
    }
}

/// What one attempt gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Well.
    Success,
    /// Well, with a remark (a redirect to another host).
    Warning(String),
    /// Not well.
    Failure(String),
    /// The attempt itself went wrong; counts as nothing.
    Unknown(String),
}
