//! Conditions of a Job: reading, setting, and the two by which it ends.

use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus};
use k8s_openapi::jiff::Timestamp;

use crate::common::time;

/// The condition of that type, where it is True.
pub fn holds<'a>(status: &'a JobStatus, kind: &str) -> Option<&'a JobCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == kind && condition.status == "True")
}

/// Whether a Job has ended.
pub fn is_finished(job: &Job) -> bool {
    job.status.as_ref().is_some_and(|status| holds(status, "Complete").or_else(|| holds(status, "Failed")).is_some())
}

/// A condition that is True as of `now`.
pub fn condition(kind: &str, reason: &str, message: &str, now: Timestamp) -> JobCondition {
    JobCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: time::api(now),
        last_transition_time: time::api(now),
    }
}

/// Sets a condition. One that is not there and False is left away. Says whether anything changed.
pub fn set(status: &mut JobStatus, wanted: JobCondition) -> bool {
    let conditions = status.conditions.get_or_insert_default();
    match conditions.iter_mut().find(|present| present.type_ == wanted.type_) {
        Some(present) => {
            let same = present.status == wanted.status && present.reason == wanted.reason && present.message == wanted.message;
            if !same {
                *present = wanted;
            }
            !same
        }
        None if wanted.status == "False" => false,
        None => {
            conditions.push(wanted);
            true
        }
    }
}

/// How a Job will end. Decided once, then carried by the status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// Complete or Failed.
    pub success: bool,
    /// `BackoffLimitExceeded`
    pub reason: String,
    /// For a person.
    pub message: String,
}

impl Ending {
    /// It will fail.
    pub fn failure(reason: &str, message: impl Into<String>) -> Self {
        Self { success: false, reason: reason.to_owned(), message: message.into() }
    }

    /// It will be complete.
    pub fn success(reason: &str, message: impl Into<String>) -> Self {
        Self { success: true, reason: reason.to_owned(), message: message.into() }
    }

    /// What the status already says.
    pub fn stored(status: &JobStatus) -> Option<Self> {
        let of = |condition: &JobCondition, success: bool| Self {
            success,
            reason: condition.reason.clone().unwrap_or_default(),
            message: condition.message.clone().unwrap_or_default(),
        };
        let success = holds(status, "SuccessCriteriaMet").map(|condition| of(condition, true));
        success.or_else(|| holds(status, "FailureTarget").map(|condition| of(condition, false)))
    }

    /// The condition that announces it.
    pub fn announced(&self, now: Timestamp) -> JobCondition {
        condition(if self.success { "SuccessCriteriaMet" } else { "FailureTarget" }, &self.reason, &self.message, now)
    }

    /// The condition that makes it so.
    pub fn done(&self, now: Timestamp) -> JobCondition {
        condition(if self.success { "Complete" } else { "Failed" }, &self.reason, &self.message, now)
    }
}
