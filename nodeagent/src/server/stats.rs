//! Use of resources as the kubelet's `/stats/summary` has it.
//!
//! What the node uses is the sum of its pods: several nodes share one machine here, and the machine's own figures would
//! count each of them several times. Rates need two looks; the first one leaves them out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use crate::runtime::{ContainerState, ContainerStatus, PodRef, Runtime, RuntimeResult, Usage};

/// Engine calls at one time.
const PARALLEL: usize = 4;
/// The shortest time that a rate is computed over.
const SPAN: Duration = Duration::from_secs(1);

/// Answers the question, and remembers the last answer for the rates.
pub struct Stats {
    node_name: String,
    runtime: Arc<dyn Runtime>,
    started: Timestamp,
    looks: Mutex<Looks>,
}

/// Container id → when, CPU nanoseconds then, and the rate that was computed last.
type Looks = BTreeMap<String, (Timestamp, u64, Option<u64>)>;

/// One running container, measured.
#[derive(Debug, Clone)]
pub struct Sample {
    /// What was measured.
    pub container: ContainerStatus,
    /// Since when it runs.
    pub started_at: Timestamp,
    /// When it was measured.
    pub at: Timestamp,
    /// The measure.
    pub usage: Usage,
}

impl Stats {
    /// For the node `node_name`, whose agent starts now.
    pub fn new(node_name: String, runtime: Arc<dyn Runtime>) -> Self {
        Self { node_name, runtime, started: Timestamp::now(), looks: Mutex::default() }
    }

    /// The summary as JSON.
    pub async fn summary(&self) -> RuntimeResult<Vec<u8>> {
        let running = self.runtime.list_containers().await?.into_iter().filter_map(|container| match container.state {
            ContainerState::Running { started_at } => Some((container, started_at)),
            ContainerState::Created | ContainerState::Exited { .. } => None,
        });
        let measure = |(container, started_at): (ContainerStatus, Timestamp)| async move {
            // A container that ends meanwhile is simply not there any more.
            let usage = self.runtime.usage(&container.id).await.ok()?;
            Some(Sample { container, started_at, at: Timestamp::now(), usage })
        };
        let samples: Vec<Sample> = futures::stream::iter(running)
            .map(measure)
            .buffer_unordered(PARALLEL)
            .filter_map(std::future::ready)
            .collect()
            .await;
        let rates = rates(&mut self.looks.lock(), &samples);
        let summary = summary(&self.node_name, self.started, Timestamp::now(), samples, &rates);
        Ok(serde_json::to_vec(&summary).unwrap_or_default())
    }
}

/// Nanoseconds of CPU per second for every container that was looked at before; forgets those that are gone.
fn rates(looks: &mut Looks, samples: &[Sample]) -> BTreeMap<String, u64> {
    looks.retain(|id, _| samples.iter().any(|sample| sample.container.id == *id));
    let mut rates = BTreeMap::new();
    for sample in samples {
        let look = looks.entry(sample.container.id.clone()).or_insert((sample.at, sample.usage.cpu_nanos, None));
        let elapsed = sample.at.as_nanosecond() - look.0.as_nanosecond();
        if elapsed >= i128::try_from(SPAN.as_nanos()).unwrap_or(i128::MAX) {
            let used = i128::from(sample.usage.cpu_nanos.saturating_sub(look.1));
            let rate = u64::try_from(used * 1_000_000_000 / elapsed).unwrap_or_default();
            *look = (sample.at, sample.usage.cpu_nanos, Some(rate));
        }
        if let Some(rate) = look.2 {
            rates.insert(sample.container.id.clone(), rate);
        }
    }
    rates
}

#[derive(Default)]
struct Sum {
    cpu_nanos: u64,
    rate: Option<u64>,
    memory_bytes: u64,
    pids: u64,
}

impl Sum {
    fn add(&mut self, usage: &Usage, rate: Option<u64>) {
        self.cpu_nanos += usage.cpu_nanos;
        self.memory_bytes += usage.memory_bytes;
        self.pids += usage.pids;
        if let Some(rate) = rate {
            *self.rate.get_or_insert(0) += rate;
        }
    }

    fn write(&self, at: Timestamp, into: &mut Map<String, Value>) {
        let time = at.to_string();
        let mut cpu = json!({"time": time, "usageCoreNanoSeconds": self.cpu_nanos});
        if let Some(rate) = self.rate {
            cpu["usageNanoCores"] = rate.into();
        }
        into.insert("cpu".to_owned(), cpu);
        let memory = json!({"time": time, "usageBytes": self.memory_bytes, "workingSetBytes": self.memory_bytes});
        into.insert("memory".to_owned(), memory);
    }
}

fn summary(
    node: &str,
    started: Timestamp,
    now: Timestamp,
    samples: Vec<Sample>,
    rates: &BTreeMap<String, u64>,
) -> Value {
    let mut pods: BTreeMap<PodRef, Vec<Sample>> = BTreeMap::new();
    for sample in samples {
        pods.entry(sample.container.pod.clone()).or_default().push(sample);
    }
    let mut all = Sum::default();
    let pods: Vec<Value> = pods
        .into_iter()
        .map(|(pod, mut samples)| {
            samples.sort_by(|a, b| a.container.name.cmp(&b.container.name));
            let mut sum = Sum::default();
            let containers: Vec<Value> = samples
                .iter()
                .map(|sample| {
                    let rate = rates.get(&sample.container.id).copied();
                    sum.add(&sample.usage, rate);
                    all.add(&sample.usage, rate);
                    let mut one = Sum::default();
                    one.add(&sample.usage, rate);
                    let mut map = Map::new();
                    map.insert("name".to_owned(), sample.container.name.clone().into());
                    map.insert("startTime".to_owned(), sample.started_at.to_string().into());
                    one.write(sample.at, &mut map);
                    map.into()
                })
                .collect();
            let mut map = Map::new();
            map.insert("podRef".to_owned(), json!({"name": pod.name, "namespace": pod.namespace, "uid": pod.uid}));
            let since = samples.iter().map(|sample| sample.started_at).min().unwrap_or(now);
            map.insert("startTime".to_owned(), since.to_string().into());
            map.insert("containers".to_owned(), containers.into());
            map.insert("process_stats".to_owned(), json!({"process_count": sum.pids}));
            sum.write(now, &mut map);
            map.into()
        })
        .collect();
    let mut own = Map::new();
    own.insert("nodeName".to_owned(), node.into());
    own.insert("startTime".to_owned(), started.to_string().into());
    all.write(now, &mut own);
    json!({"node": own, "pods": pods})
}

#[cfg(test)]
mod tests {
    use super::super::testing::container;
    use super::*;

    #[test]
    fn a_rate_needs_two_looks_and_sums_up() {
        let sample = |seconds: i64, cpu_nanos: u64| Sample {
            container: container("c", 0, "running"),
            started_at: Timestamp::UNIX_EPOCH,
            at: Timestamp::from_second(seconds).unwrap(),
            usage: Usage { cpu_nanos, memory_bytes: 4096, pids: 2 },
        };
        let mut looks = Looks::new();
        assert!(rates(&mut looks, &[sample(10, 1_000_000_000)]).is_empty());
        let second = sample(12, 2_000_000_000);
        let rates = rates(&mut looks, std::slice::from_ref(&second));
        assert_eq!(rates.get("c-0"), Some(&500_000_000));
        let now = Timestamp::from_second(12).unwrap();
        let summary = summary("n1", Timestamp::UNIX_EPOCH, now, vec![second], &rates);
        assert_eq!(summary["node"]["cpu"]["usageNanoCores"], 500_000_000);
        assert_eq!(summary["pods"][0]["containers"][0]["memory"]["workingSetBytes"], 4096);
        assert_eq!(summary["pods"][0]["podRef"]["name"], "web");
    }
}
