//! Kinds whose rules are few.

use super::definition::{Definition, PLAIN, SCALE, names, status_of};
use crate::kind::Subresource;
use crate::validate::meta::NameRule;

static NAMESPACE: Definition = Definition {
    names: names!("", "v1", "Namespace", "namespaces", "namespace", ["ns"], []),
    namespaced: false,
    subresources: &[status_of("", "v1", "Namespace"), Subresource { name: "finalize", group: "", version: "v1", kind: "Namespace", verbs: &["update"] }],
    status: true,
    name_rule: NameRule::Label,
    delete_returns_object: true,
    verbs: &["create", "delete", "get", "list", "patch", "update", "watch"],
    ..PLAIN
};

static NODE: Definition = Definition {
    names: names!("", "v1", "Node", "nodes", "node", ["no"], []),
    namespaced: false,
    subresources: &[status_of("", "v1", "Node"), Subresource { name: "proxy", group: "", version: "v1", kind: "NodeProxyOptions", verbs: &["create", "delete", "get", "patch", "update"] }],
    status: true,
    ..PLAIN
};

static POD: Definition = Definition {
    names: names!("", "v1", "Pod", "pods", "pod", ["po"], ["all"]),
    subresources: &[status_of("", "v1", "Pod"), Subresource { name: "ephemeralcontainers", group: "", version: "v1", kind: "Pod", verbs: &["get", "patch", "update"] }, Subresource { name: "resize", group: "", version: "v1", kind: "Pod", verbs: &["get", "patch", "update"] }, Subresource { name: "log", group: "", version: "v1", kind: "Pod", verbs: &["get"] }, Subresource { name: "exec", group: "", version: "v1", kind: "PodExecOptions", verbs: &["create", "get"] }, Subresource { name: "attach", group: "", version: "v1", kind: "PodAttachOptions", verbs: &["create", "get"] }, Subresource { name: "portforward", group: "", version: "v1", kind: "PodPortForwardOptions", verbs: &["create", "get"] }, Subresource { name: "proxy", group: "", version: "v1", kind: "PodProxyOptions", verbs: &["create", "delete", "get", "patch", "update"] }, Subresource { name: "binding", group: "", version: "v1", kind: "Binding", verbs: &["create"] }, Subresource { name: "eviction", group: "policy", version: "v1", kind: "Eviction", verbs: &["create"] }],
    status: true,
    generation: true,
    delete_returns_object: true,
    ..PLAIN
};

static CONFIG_MAP: Definition = Definition {
    names: names!("", "v1", "ConfigMap", "configmaps", "configmap", ["cm"], []),
    ..PLAIN
};

static SECRET: Definition = Definition {
    names: names!("", "v1", "Secret", "secrets", "secret", [], []),
    ..PLAIN
};

static SERVICE_ACCOUNT: Definition = Definition {
    names: names!("", "v1", "ServiceAccount", "serviceaccounts", "serviceaccount", ["sa"], []),
    subresources: &[Subresource { name: "token", group: "authentication.k8s.io", version: "v1", kind: "TokenRequest", verbs: &["create"] }],
    delete_returns_object: true,
    ..PLAIN
};

static EVENT: Definition = Definition {
    names: names!("", "v1", "Event", "events", "event", ["ev"], []),
    create_on_update: true,
    ..PLAIN
};

static POD_TEMPLATE: Definition = Definition {
    names: names!("", "v1", "PodTemplate", "podtemplates", "podtemplate", [], []),
    generation: true,
    delete_returns_object: true,
    ..PLAIN
};

static REPLICATION_CONTROLLER: Definition = Definition {
    names: names!("", "v1", "ReplicationController", "replicationcontrollers", "replicationcontroller", ["rc"], ["all"]),
    subresources: &[status_of("", "v1", "ReplicationController"), SCALE],
    status: true,
    generation: true,
    ..PLAIN
};

static SERVICE: Definition = Definition {
    names: names!("", "v1", "Service", "services", "service", ["svc"], ["all"]),
    subresources: &[status_of("", "v1", "Service"), Subresource { name: "proxy", group: "", version: "v1", kind: "ServiceProxyOptions", verbs: &["create", "delete", "get", "patch", "update"] }],
    status: true,
    name_rule: NameRule::Label,
    delete_returns_object: true,
    create_on_update: true,
    ..PLAIN
};

static ENDPOINTS: Definition = Definition {
    names: names!("", "v1", "Endpoints", "endpoints", "endpoints", ["ep"], []),
    create_on_update: true,
    ..PLAIN
};

static PERSISTENT_VOLUME: Definition = Definition {
    names: names!("", "v1", "PersistentVolume", "persistentvolumes", "persistentvolume", ["pv"], []),
    namespaced: false,
    subresources: &[status_of("", "v1", "PersistentVolume")],
    status: true,
    delete_returns_object: true,
    ..PLAIN
};

static PERSISTENT_VOLUME_CLAIM: Definition = Definition {
    names: names!("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", "persistentvolumeclaim", ["pvc"], []),
    subresources: &[status_of("", "v1", "PersistentVolumeClaim")],
    status: true,
    delete_returns_object: true,
    ..PLAIN
};

static LIMIT_RANGE: Definition = Definition {
    names: names!("", "v1", "LimitRange", "limitranges", "limitrange", ["limits"], []),
    create_on_update: true,
    ..PLAIN
};

static RESOURCE_QUOTA: Definition = Definition {
    names: names!("", "v1", "ResourceQuota", "resourcequotas", "resourcequota", ["quota"], []),
    subresources: &[status_of("", "v1", "ResourceQuota")],
    status: true,
    delete_returns_object: true,
    ..PLAIN
};

static DEPLOYMENT: Definition = Definition {
    names: names!("apps", "v1", "Deployment", "deployments", "deployment", ["deploy"], ["all"]),
    subresources: &[status_of("apps", "v1", "Deployment"), SCALE],
    status: true,
    generation: true,
    ..PLAIN
};

static REPLICA_SET: Definition = Definition {
    names: names!("apps", "v1", "ReplicaSet", "replicasets", "replicaset", ["rs"], ["all"]),
    subresources: &[status_of("apps", "v1", "ReplicaSet"), SCALE],
    status: true,
    generation: true,
    ..PLAIN
};

static STATEFUL_SET: Definition = Definition {
    names: names!("apps", "v1", "StatefulSet", "statefulsets", "statefulset", ["sts"], ["all"]),
    subresources: &[status_of("apps", "v1", "StatefulSet"), SCALE],
    status: true,
    generation: true,
    ..PLAIN
};

static DAEMON_SET: Definition = Definition {
    names: names!("apps", "v1", "DaemonSet", "daemonsets", "daemonset", ["ds"], ["all"]),
    subresources: &[status_of("apps", "v1", "DaemonSet")],
    status: true,
    generation: true,
    ..PLAIN
};

static CONTROLLER_REVISION: Definition = Definition {
    names: names!("apps", "v1", "ControllerRevision", "controllerrevisions", "controllerrevision", [], []),
    ..PLAIN
};

static JOB: Definition = Definition {
    names: names!("batch", "v1", "Job", "jobs", "job", [], ["all"]),
    subresources: &[status_of("batch", "v1", "Job")],
    status: true,
    generation: true,
    ..PLAIN
};

static CRON_JOB: Definition = Definition {
    names: names!("batch", "v1", "CronJob", "cronjobs", "cronjob", ["cj"], ["all"]),
    subresources: &[status_of("batch", "v1", "CronJob")],
    status: true,
    generation: true,
    ..PLAIN
};

static LEASE: Definition = Definition {
    names: names!("coordination.k8s.io", "v1", "Lease", "leases", "lease", [], []),
    create_on_update: true,
    unconditional_update: false,
    ..PLAIN
};

static ENDPOINT_SLICE: Definition = Definition {
    names: names!("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", "endpointslice", [], []),
    generation: true,
    ..PLAIN
};

static NEW_EVENT: Definition = Definition {
    names: names!("events.k8s.io", "v1", "Event", "events", "event", ["ev"], []),
    create_on_update: true,
    ..PLAIN
};

static PRIORITY_CLASS: Definition = Definition {
    names: names!("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", "priorityclass", ["pc"], []),
    namespaced: false,
    generation: true,
    ..PLAIN
};

static STORAGE_CLASS: Definition = Definition {
    names: names!("storage.k8s.io", "v1", "StorageClass", "storageclasses", "storageclass", ["sc"], []),
    namespaced: false,
    delete_returns_object: true,
    ..PLAIN
};

static CSI_NODE: Definition = Definition {
    names: names!("storage.k8s.io", "v1", "CSINode", "csinodes", "csinode", [], []),
    namespaced: false,
    delete_returns_object: true,
    unconditional_update: false,
    ..PLAIN
};

static CSI_DRIVER: Definition = Definition {
    names: names!("storage.k8s.io", "v1", "CSIDriver", "csidrivers", "csidriver", [], []),
    namespaced: false,
    delete_returns_object: true,
    unconditional_update: false,
    ..PLAIN
};

static VOLUME_ATTACHMENT: Definition = Definition {
    names: names!("storage.k8s.io", "v1", "VolumeAttachment", "volumeattachments", "volumeattachment", [], []),
    namespaced: false,
    subresources: &[status_of("storage.k8s.io", "v1", "VolumeAttachment")],
    status: true,
    delete_returns_object: true,
    unconditional_update: false,
    ..PLAIN
};

static CSI_STORAGE_CAPACITY: Definition = Definition {
    names: names!("storage.k8s.io", "v1", "CSIStorageCapacity", "csistoragecapacities", "csistoragecapacity", [], []),
    delete_returns_object: true,
    unconditional_update: false,
    ..PLAIN
};

static VOLUME_ATTRIBUTES_CLASS: Definition = Definition {
    names: names!("storage.k8s.io", "v1", "VolumeAttributesClass", "volumeattributesclasses", "volumeattributesclass", ["vac"], []),
    namespaced: false,
    delete_returns_object: true,
    ..PLAIN
};

static POD_DISRUPTION_BUDGET: Definition = Definition {
    names: names!("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", "poddisruptionbudget", ["pdb"], []),
    subresources: &[status_of("policy", "v1", "PodDisruptionBudget")],
    status: true,
    generation: true,
    unconditional_update: false,
    ..PLAIN
};

static ROLE: Definition = Definition {
    names: names!("rbac.authorization.k8s.io", "v1", "Role", "roles", "role", [], []),
    name_rule: NameRule::PathSegment,
    create_on_update: true,
    ..PLAIN
};

static CLUSTER_ROLE: Definition = Definition {
    names: names!("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles", "clusterrole", [], []),
    namespaced: false,
    name_rule: NameRule::PathSegment,
    create_on_update: true,
    ..PLAIN
};

static ROLE_BINDING: Definition = Definition {
    names: names!("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings", "rolebinding", [], []),
    name_rule: NameRule::PathSegment,
    create_on_update: true,
    ..PLAIN
};

static CLUSTER_ROLE_BINDING: Definition = Definition {
    names: names!("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings", "clusterrolebinding", [], []),
    namespaced: false,
    name_rule: NameRule::PathSegment,
    create_on_update: true,
    ..PLAIN
};

static NETWORK_POLICY: Definition = Definition {
    names: names!("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", "networkpolicy", ["netpol"], []),
    generation: true,
    ..PLAIN
};

static INGRESS: Definition = Definition {
    names: names!("networking.k8s.io", "v1", "Ingress", "ingresses", "ingress", ["ing"], []),
    subresources: &[status_of("networking.k8s.io", "v1", "Ingress")],
    status: true,
    generation: true,
    ..PLAIN
};

static INGRESS_CLASS: Definition = Definition {
    names: names!("networking.k8s.io", "v1", "IngressClass", "ingressclasses", "ingressclass", [], []),
    namespaced: false,
    generation: true,
    ..PLAIN
};

static RUNTIME_CLASS: Definition = Definition {
    names: names!("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses", "runtimeclass", [], []),
    namespaced: false,
    create_on_update: true,
    unconditional_update: false,
    ..PLAIN
};

static HORIZONTAL_POD_AUTOSCALER: Definition = Definition {
    names: names!("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", "horizontalpodautoscaler", ["hpa"], ["all"]),
    subresources: &[status_of("autoscaling", "v2", "HorizontalPodAutoscaler")],
    status: true,
    ..PLAIN
};

/// All of them.
pub const ALL: &[&Definition] = &[
    &NAMESPACE,
    &NODE,
    &POD,
    &CONFIG_MAP,
    &SECRET,
    &SERVICE_ACCOUNT,
    &EVENT,
    &POD_TEMPLATE,
    &REPLICATION_CONTROLLER,
    &SERVICE,
    &ENDPOINTS,
    &PERSISTENT_VOLUME,
    &PERSISTENT_VOLUME_CLAIM,
    &LIMIT_RANGE,
    &RESOURCE_QUOTA,
    &DEPLOYMENT,
    &REPLICA_SET,
    &STATEFUL_SET,
    &DAEMON_SET,
    &CONTROLLER_REVISION,
    &JOB,
    &CRON_JOB,
    &LEASE,
    &ENDPOINT_SLICE,
    &NEW_EVENT,
    &PRIORITY_CLASS,
    &STORAGE_CLASS,
    &CSI_NODE,
    &CSI_DRIVER,
    &VOLUME_ATTACHMENT,
    &CSI_STORAGE_CAPACITY,
    &VOLUME_ATTRIBUTES_CLASS,
    &POD_DISRUPTION_BUDGET,
    &ROLE,
    &CLUSTER_ROLE,
    &ROLE_BINDING,
    &CLUSTER_ROLE_BINDING,
    &NETWORK_POLICY,
    &INGRESS,
    &INGRESS_CLASS,
    &RUNTIME_CLASS,
    &HORIZONTAL_POD_AUTOSCALER,
];
