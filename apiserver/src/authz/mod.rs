//! Who may do what: the rules of RBAC over the roles and bindings that the caches hold.

pub mod rbac;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use balsa_api::meta::GroupVersionResource;
use balsa_api::status::ApiError;
use parking_lot::Mutex;

use crate::authn::Caller;
use crate::watch_cache::Caches;
use rbac::{Attributes, Policy};

const GROUP: &str = "rbac.authorization.k8s.io";
const RESOURCES: [&str; 4] = ["clusterroles", "clusterrolebindings", "roles", "rolebindings"];

/// Answers from a policy that is made anew when a role or binding has changed.
pub struct Authorizer {
    caches: Arc<Caches>,
    policy: Mutex<Option<(Vec<(u64, u64)>, Arc<Policy>)>>,
    complete: AtomicBool,
}

impl Authorizer {
    /// Over these caches.
    pub fn new(caches: Arc<Caches>) -> Self {
        Self { caches, policy: Mutex::new(None), complete: AtomicBool::new(false) }
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

    /// Whether the caller may, and by what.
    pub fn allows(&self, caller: &Caller, attributes: &Attributes) -> Option<String> {
        self.policy().allows(caller, attributes)
    }

    /// 403 unless the caller may; 503 while the roles that might allow it are not known yet.
    pub fn check(&self, caller: &Caller, attributes: &Attributes) -> Result<(), ApiError> {
        // Asked first: the roles may come in between the two.
        let complete = self.is_complete();
        if self.allows(caller, attributes).is_some() {
            Ok(())
        } else if complete {
            Err(forbidden(caller, attributes))
        } else {
            Err(ApiError::unavailable("the bootstrap roles are not in place yet").with_retry_after(1))
        }
    }
}

/// The 403 in Kubernetes' words. Pure.
pub fn forbidden(caller: &Caller, attributes: &Attributes) -> ApiError {
    let user = &caller.user;
    let Attributes { verb, group, resource, subresource, namespace, name, path, version } = attributes;
    if !path.is_empty() {
        let message = format!("forbidden: User \"{user}\" cannot {verb} path \"{path}\"");
        return ApiError::new(403, "Forbidden", message);
    }
    let full = if subresource.is_empty() { resource.clone() } else { format!("{resource}/{subresource}") };
    let scope = if namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace \"{namespace}\"")
    };
    let detail = format!("User \"{user}\" cannot {verb} resource \"{full}\" in API group \"{group}\" {scope}");
    let about = GroupVersionResource::new(group, version, resource);
    ApiError::forbidden(&about, name, &detail)
}
