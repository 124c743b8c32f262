//! One leader among the copies of a process, by a Lease that it renews.
//!
//! Thin: reads and writes the Lease, keeps the time. [`rules`] decides.

mod health;
pub mod rules;
#[cfg(all(test, feature = "test-util"))]
mod tests;

use std::future::Future;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::health::LeaderHealth;
use self::rules::{Action, Election, Record};
use crate::client::Client;
use crate::error::{Error, Result};
use crate::object::Cause;

/// Who competes for what, and how fast a dead leader is replaced.
#[derive(Debug, Clone)]
pub struct LeaderConfig {
    /// Of the Lease.
    pub namespace: String,
    /// Of the Lease.
    pub name: String,
    /// Ours; differs between the copies *and between two lives of one copy*.
    pub identity: String,
    /// A leader that has not renewed for this long is replaced.
    pub lease: Duration,
    /// A leader that cannot renew for this long stops. Less than `lease`.
    pub renew: Duration,
    /// Between two tries.
    pub retry: Duration,
    /// Hears how the lease does.
    pub health: LeaderHealth,
}

impl LeaderConfig {
    /// Answers for `/healthz`: an error while we lead and have not renewed the lease for too long.
    pub fn check(&self) -> impl Fn() -> std::result::Result<(), String> + Send + Sync + 'static {
        let (health, name, lease) = (self.health.clone(), self.name.clone(), self.lease);
        move || health.check(&name, lease)
    }

    /// The usual times (15 s, 10 s, 2 s) on a Lease in `kube-system`. To `process` a random part is added, so that a
    /// restarted process does not take itself for the leader that it was.
    pub fn new(name: &str, process: &str) -> Self {
        Self {
            namespace: "kube-system".to_owned(),
            name: name.to_owned(),
            identity: format!("{process}_{}", uuid::Uuid::new_v4()),
            lease: Duration::from_secs(15),
            renew: Duration::from_secs(10),
            retry: Duration::from_secs(2),
            health: LeaderHealth::default(),
        }
    }
}

/// Competes until `stop`; whenever we lead, runs `work` once.
///
/// `work` gets a token that is cancelled when leadership is lost or `stop` is: it has to end soon then, and is
/// dropped if it has not ended when the Lease may have gone to somebody else. If it ends by itself, the Lease is
/// released and the competition starts anew. On `stop` the Lease is released, so that another takes over at once.
pub async fn run<F, Fut>(client: Client, config: LeaderConfig, stop: CancellationToken, mut work: F)
where
    F: FnMut(CancellationToken) -> Fut,
    Fut: Future<Output = ()>,
{
    let client = client.with_deadline(config.retry.max(Duration::from_secs(1)).min(config.renew / 2));
    let mut candidate = Candidate { client, election: Election::new(config.identity.clone(), config.lease), config };
    while !stop.is_cancelled() {
        if !candidate.acquire(&stop).await {
            return;
        }
        tracing::info!(lease = candidate.config.name, identity = candidate.config.identity, "leading");
        candidate.config.health.renewed(Instant::now());
        let lost = stop.child_token();
        let held = {
            let work = work(lost.clone());
            tokio::pin!(work);
            let ended = tokio::select! {
                () = &mut work => true,
                () = candidate.keep(&lost) => false,
            };
            lost.cancel();
            if !ended {
                let rest = candidate.config.lease.saturating_sub(candidate.config.renew);
                if tokio::time::timeout(rest, &mut work).await.is_err() {
                    tracing::warn!(lease = candidate.config.name, "the work of a leader did not end in time: dropped");
                }
            }
            ended || stop.is_cancelled()
        };
        tracing::info!(lease = candidate.config.name, "leading no longer");
        candidate.config.health.leads_no_longer();
        if held {
            candidate.release().await;
        }
        if !stop.is_cancelled() {
            tokio::time::sleep(candidate.config.retry).await;
        }
    }
}

struct Candidate {
    client: Client,
    config: LeaderConfig,
    election: Election,
}

impl Candidate {
    /// Returns true when we lead, false on `stop`.
    async fn acquire(&mut self, stop: &CancellationToken) -> bool {
        let mut reported = String::new();
        loop {
            match self.attempt().await {
                Ok(true) => return true,
                Ok(false) => {
                    let holder = self.election.holder().to_owned();
                    if holder != reported {
                        tracing::info!(lease = self.config.name, %holder, "another copy leads");
                        reported = holder;
                    }
                }
                Err(error) => tracing::info!(lease = self.config.name, %error, "cannot compete for the lease yet"),
            }
            // Jitter as client-go has it, so that two copies do not collide for ever.
            let pause = self.config.retry.mul_f64(1.0 + rand::random::<f64>() * 0.2);
            tokio::select! {
                () = stop.cancelled() => return false,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Renews; returns when that has failed for too long, somebody else leads, or `stop`.
    async fn keep(&mut self, stop: &CancellationToken) {
        let mut renewed = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.config.retry) => {}
            }
            let deadline = renewed + self.config.renew;
            let started = Instant::now();
            match tokio::time::timeout_at(deadline, self.attempt()).await {
                Ok(Ok(true)) => {
                    renewed = started;
                    self.config.health.renewed(started);
                }
                Ok(Ok(false)) => {
                    tracing::warn!(lease = self.config.name, holder = self.election.holder(), "lost the lease");
                    return;
                }
                Ok(Err(error)) => tracing::info!(lease = self.config.name, %error, "cannot renew the lease yet"),
                Err(_) => {}
            }
            if Instant::now() >= deadline {
                tracing::warn!(lease = self.config.name, "could not renew the lease for {:?}", self.config.renew);
                return;
            }
        }
    }

    /// One try to get or keep the Lease: whether we lead.
    async fn attempt(&mut self) -> Result<bool> {
        let (namespace, name) = (self.config.namespace.clone(), self.config.name.clone());
        let lease = match self.client.get::<Lease>(&namespace, &name).await {
            Ok(lease) => Some(lease),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        };
        let record = lease.as_ref().map(record_of);
        match self.election.decide(record, Timestamp::now(), Instant::now().into_std()) {
            Action::Wait => Ok(false),
            Action::Write(record) => {
                let cause = Cause::new(format!("leader election: {}", self.config.identity));
                let written = self.write(lease, &record, &cause).await;
                match written {
                    Ok(()) => {
                        self.election.wrote(record, Instant::now().into_std());
                        Ok(true)
                    }
                    // Somebody was faster: not an error, look again.
                    Err(error) if error.is_conflict() || error.is_already_exists() => {
                        Err(Error::Unavailable("another copy wrote the lease in between".to_owned()))
                    }
                    Err(error) => Err(error),
                }
            }
        }
    }

    async fn write(&self, lease: Option<Lease>, record: &Record, cause: &Cause) -> Result<()> {
        match lease {
            None => {
                let mut lease = Lease {
                    metadata: ObjectMeta {
                        name: Some(self.config.name.clone()),
                        namespace: Some(self.config.namespace.clone()),
                        ..ObjectMeta::default()
                    },
                    spec: None,
                };
                put_record(&mut lease, record);
                self.client.create(&self.config.namespace, &lease, cause).await.map(drop)
            }
            Some(mut lease) => {
                put_record(&mut lease, record);
                self.client.update(&lease, cause).await.map(drop)
            }
        }
    }

    /// Gives the Lease away, so that nobody has to wait for it to expire. Best effort.
    async fn release(&mut self) {
        let release = async {
            let lease = self.client.get::<Lease>(&self.config.namespace, &self.config.name).await?;
            let Some(record) = self.election.release(record_of(&lease), Timestamp::now()) else { return Ok(()) };
            self.write(Some(lease), &record, &Cause::new("leader election: released")).await
        };
        if let Err(error) = release.await {
            tracing::info!(lease = self.config.name, %error, "could not release the lease; it expires by itself");
        }
    }
}

fn record_of(lease: &Lease) -> Record {
    let spec = lease.spec.clone().unwrap_or_default();
    Record {
        holder: spec.holder_identity.unwrap_or_default(),
        lease_seconds: spec.lease_duration_seconds.unwrap_or(0),
        acquired: spec.acquire_time.map(|time| time.0),
        renewed: spec.renew_time.map(|time| time.0),
        transitions: spec.lease_transitions.unwrap_or(0),
    }
}

fn put_record(lease: &mut Lease, record: &Record) {
    let spec = lease.spec.get_or_insert_default();
    spec.holder_identity = Some(record.holder.clone());
    spec.lease_duration_seconds = Some(record.lease_seconds);
    spec.acquire_time = record.acquired.map(micros);
    spec.renew_time = record.renewed.map(micros);
    spec.lease_transitions = Some(record.transitions);
}

/// Kubernetes' MicroTime has no nanoseconds.
fn micros(time: Timestamp) -> MicroTime {
    MicroTime(Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(time))
}
