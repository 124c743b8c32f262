//! Why a pod is where it is, or nowhere: the verdicts of its last attempt, kept for a while, over gRPC.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use balsa_proto::scheduler as wire;
use parking_lot::Mutex;
use tonic::{Request, Response, Status};

use crate::cycle::{Outcome, Rejected};
use crate::model::PodInfo;

/// So many pods are remembered.
const PODS: usize = 2000;
/// So many nodes per pod: those that passed first.
const NODES: usize = 200;

#[derive(Default)]
struct Memory {
    pods: BTreeMap<String, (u64, wire::ExplainResponse)>,
    order: VecDeque<(u64, String)>,
    clock: u64,
    leading: bool,
}

/// The last attempts. Clones share them.
#[derive(Clone, Default)]
pub struct Explanations {
    memory: Arc<Mutex<Memory>>,
}

fn rejection(rejected: &Rejected) -> wire::NodeVerdict {
    let reasons = rejected.reasons.iter();
    let rejections = reasons
        .map(|reason| wire::Rejection { plugin: rejected.plugin.to_owned(), reason: reason.to_string() })
        .collect();
    wire::NodeVerdict { node: rejected.node.to_string(), rejections, score: 0 }
}

impl Explanations {
    /// Whether this copy schedules at all.
    pub fn leading(&self, leading: bool) {
        let mut memory = self.memory.lock();
        *memory = Memory { leading, ..Memory::default() };
    }

    /// Remembers an attempt, made at `at_ms` (Unix time).
    pub fn attempt(&self, pod: &PodInfo, outcome: &Outcome, at_ms: i64) {
        let (node, scores, rejected) = match outcome {
            Outcome::Node(choice) => (choice.node.to_string(), choice.scores.as_slice(), &choice.rejected),
            Outcome::Unschedulable(diagnosis) => (String::new(), [].as_slice(), &diagnosis.rejected),
        };
        let passed = scores.iter().map(|(node, score)| wire::NodeVerdict {
            node: node.to_string(),
            rejections: Vec::new(),
            score: *score,
        });
        let mut nodes: Vec<_> = passed.chain(rejected.iter().map(rejection)).take(NODES).collect();
        if let Outcome::Unschedulable(diagnosis) = outcome
            && !diagnosis.always.is_empty()
        {
            let plugin = diagnosis.plugins.first().copied().unwrap_or_default().to_owned();
            let reason = diagnosis.always.clone();
            nodes.push(wire::NodeVerdict {
                node: "*".to_owned(),
                rejections: vec![wire::Rejection { plugin, reason }],
                score: 0,
            });
        }
        let response = wire::ExplainResponse { node, nodes, attempted_at_ms: at_ms };
        let mut memory = self.memory.lock();
        memory.clock += 1;
        let clock = memory.clock;
        memory.pods.insert(pod.key(), (clock, response));
        memory.order.push_back((clock, pod.key()));
        while memory.pods.len() > PODS || memory.order.len() > 2 * PODS {
            let Some((mark, key)) = memory.order.pop_front() else { break };
            if memory.pods.get(&key).is_some_and(|(last, _)| *last == mark) {
                memory.pods.remove(&key);
            }
        }
    }
}

#[tonic::async_trait]
impl wire::scheduler_server::Scheduler for Explanations {
    async fn explain(&self, request: Request<wire::ExplainRequest>) -> Result<Response<wire::ExplainResponse>, Status> {
        let request = request.into_inner();
        let memory = self.memory.lock();
        if !memory.leading {
            return Err(Status::failed_precondition(
                "this copy of the scheduler does not lead: ask the holder of the Lease kube-system/kube-scheduler",
            ));
        }
        let key = format!("{}/{}", request.namespace, request.pod);
        match memory.pods.get(&key) {
            Some((_, response)) => Ok(Response::new(response.clone())),
            None => Err(Status::not_found(format!(
                "no attempt to schedule pod {key} is remembered: it was not tried since this copy leads, or long ago"
            ))),
        }
    }
}
