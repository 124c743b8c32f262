//! The life of one pod on this node.
//!
//! ```text
//! API watch ─┐                                   ┌─ status ─→ API
//! runtime ───┼─→ Observed ──→ plan(pod, observed, now) ─→ Plan ─┼─ actions ─→ runtime, hooks, volumes
//! probes ────┘    ▲                              └─ probes that shall run, when to look again
//!                 └───────────── Outcome of each action ◄───────┘
//! ```
//!
//! [`plan::plan`] decides everything and does nothing; [`worker`] is the thin shell around it, one task per pod;
//! [`execute`] carries single actions out. What the agent must remember between two looks (back-off, failures, hooks,
//! what is under way) is [`observed::Memory`], and it changes in three pure places only: `notice` (what follows from
//! the pod and the time), `begin` (an action starts) and `finish` (its outcome arrives).
//!
//! The states and the ways between them are the table in [`life`].

pub mod view;

pub mod doom;
pub mod image;
pub mod life;
pub mod observed;
pub mod restart;

pub mod conditions;
pub mod plan;
pub mod resize;
pub mod status;
pub mod termination;

pub mod actuate;
pub mod execute;
pub mod manager;
pub mod orphans;
pub mod patch;
pub mod worker;

#[cfg(test)]
mod chance;
#[cfg(test)]
mod scripts;
#[cfg(test)]
mod worker_tests;
