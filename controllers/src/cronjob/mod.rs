//! CronJob: a Job at every time that a schedule names.
//!
//! The name of a Job is the CronJob's and the minute it is for, so that no time is started twice. Of times that passed
//! unused only the last is made up for, if its starting deadline allows.

pub mod execute;
pub mod plan;
pub mod schedule;

pub use execute::CronJobs;

#[cfg(test)]
mod tests;
