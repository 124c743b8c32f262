//! Decides what of a namespace's standard objects is missing or altered.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::common::Plan;

/// The ServiceAccount of pods that name none.
pub const SERVICE_ACCOUNT: &str = "default";
/// The ConfigMap with the certificate that the API's is checked against.
pub const ROOT_CA: &str = "kube-root-ca.crt";
/// Its key.
pub const ROOT_CA_KEY: &str = "ca.crt";

/// What there is.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// The namespace, where it exists.
    pub namespace: Option<Arc<Namespace>>,
    /// Its ServiceAccount `default` exists.
    pub has_service_account: bool,
    /// Its ConfigMap `kube-root-ca.crt`.
    pub root_ca: Option<Arc<ConfigMap>>,
}

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Create the ServiceAccount.
    CreateServiceAccount(Box<ServiceAccount>),
    /// Create the ConfigMap.
    CreateRootCa(Box<ConfigMap>),
    /// Put the ConfigMap right (with the resourceVersion it was seen with).
    UpdateRootCa(Box<ConfigMap>),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CreateServiceAccount(_) => "create serviceaccount default",
            Self::CreateRootCa(_) => "create configmap kube-root-ca.crt",
            Self::UpdateRootCa(_) => "put configmap kube-root-ca.crt right",
        })
    }
}

/// The decision. `root_ca`: PEM text; empty where the cluster has none (plaintext tests), then no ConfigMap is made.
pub fn plan(root_ca: &str, observed: &Observed) -> Plan<Action> {
    let mut plan = Plan::default();
    let Some(namespace) = &observed.namespace else { return plan };
    let phase = namespace.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Active");
    if namespace.metadata.deletion_timestamp.is_some() || phase != "Active" {
        return plan;
    }
    let meta = |name: &str| ObjectMeta {
        name: Some(name.to_owned()),
        namespace: namespace.metadata.name.clone(),
        ..ObjectMeta::default()
    };
    if !observed.has_service_account {
        plan.reasons.push("no ServiceAccount default".to_owned());
        let account = ServiceAccount { metadata: meta(SERVICE_ACCOUNT), ..ServiceAccount::default() };
        plan.actions.push(Action::CreateServiceAccount(Box::new(account)));
    }
    if root_ca.is_empty() {
        return plan;
    }
    let data = BTreeMap::from([(ROOT_CA_KEY.to_owned(), root_ca.to_owned())]);
    match &observed.root_ca {
        None => {
            plan.reasons.push("no ConfigMap kube-root-ca.crt".to_owned());
            let mut metadata = meta(ROOT_CA);
            let text = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal \
                        endpoints such as the internal service IP or kubernetes.default.svc. No other usage is \
                        guaranteed across distributions of Kubernetes clusters.";
            metadata.annotations = Some(BTreeMap::from([("kubernetes.io/description".to_owned(), text.to_owned())]));
            let map = ConfigMap { metadata, data: Some(data), ..ConfigMap::default() };
            plan.actions.push(Action::CreateRootCa(Box::new(map)));
        }
        Some(map) if map.metadata.deletion_timestamp.is_none() && map.data.as_ref() != Some(&data) => {
            plan.reasons.push("ConfigMap kube-root-ca.crt was altered".to_owned());
            let mut map = ConfigMap::clone(map);
            map.data = Some(data);
            plan.actions.push(Action::UpdateRootCa(Box::new(map)));
        }
        Some(_) => {}
    }
    plan
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::NamespaceStatus;

    use super::*;

    fn texts(observed: &Observed) -> Vec<String> {
        plan("PEM", observed).actions.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn missing_and_altered_objects_come_back() {
        let namespace = Namespace {
            metadata: ObjectMeta { name: Some("ns".to_owned()), ..ObjectMeta::default() },
            ..Namespace::default()
        };
        let mut observed = Observed { namespace: Some(Arc::new(namespace.clone())), ..Observed::default() };
        assert_eq!(texts(&observed), ["create serviceaccount default", "create configmap kube-root-ca.crt"]);
        for action in plan("PEM", &observed).actions {
            match action {
                Action::CreateServiceAccount(_) => observed.has_service_account = true,
                Action::CreateRootCa(map) | Action::UpdateRootCa(map) => observed.root_ca = Some(Arc::new(*map)),
            }
        }
        assert!(plan("PEM", &observed).is_quiet());
        let mut altered = ConfigMap::clone(observed.root_ca.as_ref().unwrap());
        altered.data.as_mut().unwrap().insert("more".to_owned(), "x".to_owned());
        observed.root_ca = Some(Arc::new(altered));
        assert_eq!(texts(&observed), ["put configmap kube-root-ca.crt right"]);
        let status = Some(NamespaceStatus { phase: Some("Terminating".to_owned()), conditions: None });
        observed.namespace = Some(Arc::new(Namespace { status, ..namespace }));
        assert_eq!(texts(&observed), Vec::<String>::new(), "a namespace that ends is left alone");
    }
}
