//! Who may do what: the node authorizer for node agents, then the rules of RBAC over the roles and bindings that the
//! caches hold. One yes is enough; the reasons of all noes are said.

pub mod cover;
pub mod grants;
pub mod node;
pub mod rbac;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use balsa_api::meta::GroupVersionResource;
use balsa_api::status::ApiError;
use parking_lot::Mutex;

use crate::authn::Caller;
use crate::bootstrap::roles;
use crate::watch_cache::Caches;
use node::NodeAuthorizer;
use rbac::{Attributes, Policy};

/// The group of roles and bindings.
pub const GROUP: &str = "rbac.authorization.k8s.io";
const RESOURCES: [&str; 4] = ["clusterroles", "clusterrolebindings", "roles", "rolebindings"];

/// Answers from a policy that is made anew when a role or binding has changed.
pub struct Authorizer {
    caches: Arc<Caches>,
    policy: Mutex<Option<(Vec<(u64, u64)>, Arc<Policy>)>>,
    nodes: NodeAuthorizer,
    complete: AtomicBool,
}

/// What the authorizers say of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It may happen; by what, where there is something to say.
    Allowed(String),
    /// Nobody allows it; why, where there is something to say.
    NoOpinion(String),
}

impl Authorizer {
    /// Over these caches.
    pub fn new(caches: Arc<Caches>) -> Self {
        let nodes = NodeAuthorizer::new(caches.clone(), roles::rules_of_nodes());
        Self { caches, policy: Mutex::new(None), nodes, complete: AtomicBool::new(false) }
    }

    /// From now on the caches are known to hold the bootstrap roles, so that a no is a no.
    pub fn set_complete(&self) {
        self.complete.store(true, Ordering::Release);
    }

    /// See [`Self::set_complete`].
    pub fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    /// The policy as of now.
    pub fn policy(&self) -> Arc<Policy> {
        let caches: Vec<_> = RESOURCES.iter().filter_map(|plural| self.caches.resource(GROUP, plural)).collect();
        let versions: Vec<(u64, u64)> = caches.iter().map(|cache| cache.version()).collect();
        let mut policy = self.policy.lock();
        if let Some((of, policy)) = policy.as_ref()
            && *of == versions
        {
            return policy.clone();
        }
        let objects = |plural: &str| -> Vec<serde_json::Value> {
            let cache = self.caches.resource(GROUP, plural);
            cache.map(|cache| cache.list("").iter().map(|object| object.value()).collect()).unwrap_or_default()
        };
        let [cluster_roles, cluster_bindings, roles, bindings] = RESOURCES.map(objects);
        let made = Arc::new(Policy::new(&cluster_roles, &cluster_bindings, &roles, &bindings));
        *policy = Some((versions, made.clone()));
        made
    }

    /// What the authorizers say.
    pub fn decide(&self, caller: &Caller, attributes: &Attributes) -> Decision {
        let mut reason = String::new();
        if let Some(node) = caller.node() {
            match self.nodes.decide(node, attributes) {
                Ok(()) => return Decision::Allowed(String::new()),
                Err(why) => reason = why,
            }
        }
        match self.policy().allows(caller, attributes) {
            Some(by) => Decision::Allowed(by),
            None => Decision::NoOpinion(reason),
        }
    }

    /// Whether the caller may, and by what.
    pub fn allows(&self, caller: &Caller, attributes: &Attributes) -> Option<String> {
        match self.decide(caller, attributes) {
            Decision::Allowed(by) => Some(by),
            Decision::NoOpinion(_) => None,
        }
    }

    /// 403 unless the caller may; 503 while the roles that might allow it are not known yet.
    pub fn check(&self, caller: &Caller, attributes: &Attributes) -> Result<(), ApiError> {
        // Asked first: the roles may come in between the two.
        let complete = self.is_complete();
        match self.decide(caller, attributes) {
            Decision::Allowed(_) => Ok(()),
            Decision::NoOpinion(reason) if complete => Err(forbidden(caller, attributes, &reason)),
            Decision::NoOpinion(_) => {
                Err(ApiError::unavailable("the bootstrap roles are not in place yet").with_retry_after(1))
            }
        }
    }
}

/// The 403 in Kubernetes' words. Pure.
pub fn forbidden(caller: &Caller, attributes: &Attributes, reason: &str) -> ApiError {
    let user = &caller.user;
    let because = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    let Attributes { verb, group, resource, subresource, namespace, name, path, version, fields: _ } = attributes;
    if !path.is_empty() {
        let message = format!("forbidden: User \"{user}\" cannot {verb} path \"{path}\"{because}");
        return ApiError::new(403, "Forbidden", message);
    }
    let full = if subresource.is_empty() { resource.clone() } else { format!("{resource}/{subresource}") };
    let scope = if namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace \"{namespace}\"")
    };
    let detail = format!("User \"{user}\" cannot {verb} resource \"{full}\" in API group \"{group}\" {scope}{because}");
    let about = GroupVersionResource::new(group, version, resource);
    ApiError::forbidden(&about, name, &detail)
}
