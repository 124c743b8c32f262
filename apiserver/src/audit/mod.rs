//! The audit log: who did what, when, and how it ended, as JSON lines of `audit.k8s.io/v1`.
//!
//! | what | where |
//! |---|---|
//! | which requests, how much of each (pure) | [`policy`] |
//! | what an event says (pure) | [`event`] |
//! | batches to a file or stdout, rotation | [`sink`] |
//!
//! A request has a [`Trail`] from its first moment on; each stage of it that the policy does not omit is one line. What
//! cannot be written in time is dropped and counted: requests do not wait for the log.

pub mod event;
pub mod policy;
pub mod sink;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::Value;

use crate::authn::Caller;
use crate::authz::Decision;
use crate::authz::rbac::Attributes;
use event::Facts;
use policy::{Level, Policy, Treatment};
use sink::Sink;

/// The flags, with kube-apiserver's names.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct AuditFlags {
    /// What is logged of which requests: a Policy of audit.k8s.io/v1, as YAML.
    #[arg(long = "audit-policy-file", env = "BALSA_AUDIT_POLICY_FILE", value_name = "FILE", requires = "path")]
    pub policy: Option<std::path::PathBuf>,
    /// Where to: a file, or `-` for standard output.
    #[arg(long = "audit-log-path", env = "BALSA_AUDIT_LOG_PATH", value_name = "FILE", requires = "policy")]
    pub path: Option<String>,
    /// Megabytes after which the file is set aside and a new one begun; 0: never.
    #[arg(long = "audit-log-maxsize", env = "BALSA_AUDIT_LOG_MAXSIZE", default_value_t = 0)]
    pub max_megabytes: u64,
    /// Files set aside that are kept; 0: all.
    #[arg(long = "audit-log-maxbackup", env = "BALSA_AUDIT_LOG_MAXBACKUP", default_value_t = 0)]
    pub max_backups: usize,
}

/// The stages of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It came in.
    RequestReceived,
    /// The headers of a long answer are on their way.
    ResponseStarted,
    /// It is over.
    ResponseComplete,
}

impl Stage {
    /// As events have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::RequestReceived => "RequestReceived",
            Self::ResponseStarted => "ResponseStarted",
            Self::ResponseComplete => "ResponseComplete",
        }
    }
}

/// Writes the log. Without a policy it writes nothing and costs nothing.
#[derive(Default)]
pub struct Auditor {
    policy: Policy,
    sink: Option<Sink>,
}

/// What is known of a request before it is looked at.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// `Audit-ID`
    pub id: String,
    /// Path and query as they came.
    pub uri: String,
    /// From where, the client's own words first.
    pub addresses: Vec<String>,
    /// `User-Agent`
    pub agent: String,
    /// When.
    pub received: Option<Timestamp>,
}

impl Auditor {
    /// With this policy, to this sink.
    pub fn new(policy: Policy, sink: Sink) -> Self {
        Self { policy, sink: Some(sink) }
    }

    /// From the flags; the log's task ends with `stop`, after what waits was written.
    pub fn start(flags: &AuditFlags, stop: tokio_util::sync::CancellationToken) -> anyhow::Result<Self> {
        let (Some(file), Some(path)) = (&flags.policy, &flags.path) else { return Ok(Self::default()) };
        let text = std::fs::read(file).map_err(|error| anyhow::anyhow!("cannot read {}: {error}", file.display()))?;
        let policy = Policy::parse(&text).map_err(|problem| anyhow::anyhow!("--audit-policy-file {}: {problem}", file.display()))?;
        Ok(Self::new(policy, Sink::start(path, flags.max_megabytes, flags.max_backups, stop)?))
    }

    /// Begins the trail of a request.
    pub fn begin(self: &Arc<Self>, origin: Origin, user: &Caller, acting: Option<&Caller>, asked: &Attributes) -> Trail {
        if self.sink.is_none() {
            return Trail::default();
        }
        // The policy looks at who was authenticated, as the original's: impersonation is found out later.
        let treatment = self.policy.treatment(user, asked);
        if treatment.level == Level::None {
            return Trail::default();
        }
        let facts = Facts::new(origin, user, acting, asked);
        let record = Record { auditor: self.clone(), treatment, facts, over: false };
        record.write(Stage::RequestReceived);
        Trail(Some(Arc::new(Mutex::new(record))))
    }
}

struct Record {
    auditor: Arc<Auditor>,
    treatment: Treatment,
    facts: Facts,
    over: bool,
}

impl Record {
    fn write(&self, stage: Stage) {
        if self.treatment.omits(stage) {
            return;
        }
        let line = self.facts.line(self.treatment.level, stage, Timestamp::now());
        if let Some(sink) = &self.auditor.sink {
            sink.send(line);
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // The client went away, or the process stops: what is known is the last word.
        if !self.over {
            self.write(Stage::ResponseComplete);
        }
    }
}

/// One request's part in the log; nothing for requests that are not logged. Cheap to clone; when the last clone is
/// gone, the request is over.
#[derive(Clone, Default)]
pub struct Trail(Option<Arc<Mutex<Record>>>);

impl Trail {
    /// How much is logged.
    pub fn level(&self) -> Level {
        self.0.as_ref().map_or(Level::None, |record| record.lock().treatment.level)
    }

    /// What the authorizers said; asked only where it is logged.
    pub fn decision(&self, decide: impl FnOnce() -> Decision) {
        let Some(record) = &self.0 else { return };
        let (allowed, reason) = match decide() {
            Decision::Allowed(by) => (true, by),
            Decision::NoOpinion(why) => (false, why),
        };
        record.lock().facts.set_decision(allowed, &reason);
    }

    /// What admission had to say.
    pub fn annotate(&self, annotations: &BTreeMap<String, String>) {
        let Some(record) = &self.0 else { return };
        let mut record = record.lock();
        annotations.iter().for_each(|(key, text)| record.facts.annotate(key.clone(), text.clone()));
    }

    /// The object or patch that was sent.
    pub fn request(&self, decode: impl FnOnce() -> Option<Value>) {
        let Some(record) = self.0.as_ref().filter(|_| self.level() >= Level::Request) else { return };
        let Some(mut object) = decode() else { return };
        let mut record = record.lock();
        if record.treatment.omit_managed_fields {
            event::drop_managed_fields(&mut object);
        }
        record.facts.complete_reference(&object);
        record.facts.request = Some(object);
    }

    /// What is answered: the status code, and the body where there is one that is JSON.
    pub fn response(&self, code: u16, body: Option<&Bytes>) {
        let Some(record) = &self.0 else { return };
        let mut record = record.lock();
        let object: Option<Value> = body.and_then(|bytes| serde_json::from_slice(bytes).ok());
        record.facts.set_status(code, object.as_ref());
        if record.treatment.level < Level::RequestResponse {
            return;
        }
        if let Some(mut object) = object {
            if record.treatment.omit_managed_fields {
                event::drop_managed_fields(&mut object);
            }
            record.facts.response = Some(object);
        }
    }

    /// The answer of a long request begins.
    pub fn started(&self, code: u16) {
        let Some(record) = &self.0 else { return };
        let mut record = record.lock();
        record.facts.set_status(code, None);
        record.write(Stage::ResponseStarted);
    }

    /// The request is over.
    pub fn complete(&self) {
        let Some(record) = &self.0 else { return };
        let mut record = record.lock();
        if !std::mem::replace(&mut record.over, true) {
            record.write(Stage::ResponseComplete);
        }
    }
}
