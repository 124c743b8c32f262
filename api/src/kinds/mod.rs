//! Every kind that is served: one place for each rule about it.

pub mod address;
pub mod admission;
pub mod api_service;
pub mod autoscaling;
pub mod batch;
pub mod certificates;
pub mod config;
pub mod csi;
mod custom_resource_definition;
mod definition;
pub mod dra;
pub mod event;
pub mod flowcontrol;
pub mod lease;
pub mod namespace;
pub mod networking;
pub mod node;
pub mod pod;
pub mod policy;
pub mod rbac;
mod reviews;
pub mod service;
mod show;
mod signer;
mod simple;
pub mod storage;
#[cfg(test)]
mod tests;
pub mod workload;

use std::sync::OnceLock;

pub use definition::{ALL_VERBS, Definition, NAME as NAME_COLUMN, SCALE};

use crate::kind::Kind;

/// The kinds with rules of their own; those of `simple` and `reviews` join them in [`all`].
const OWN: &[&Definition] = &[
    &namespace::NAMESPACE,
    &node::NODE,
    &pod::POD,
    &config::CONFIG_MAP,
    &config::SECRET,
    &config::SERVICE_ACCOUNT,
    &event::EVENT,
    &event::NEW_EVENT,
    &lease::LEASE,
    &workload::DEPLOYMENT,
    &workload::REPLICA_SET,
    &workload::REPLICATION_CONTROLLER,
    &workload::STATEFUL_SET,
    &workload::DAEMON_SET,
    &batch::JOB,
    &batch::CRON_JOB,
    &service::SERVICE,
    &service::ENDPOINTS,
    &service::ENDPOINT_SLICE,
    &address::IP_ADDRESS,
    &address::SERVICE_CIDR,
    &storage::PERSISTENT_VOLUME,
    &storage::PERSISTENT_VOLUME_CLAIM,
    &storage::STORAGE_CLASS,
    &csi::CSI_NODE,
    &csi::CSI_DRIVER,
    &csi::VOLUME_ATTACHMENT,
    &csi::CSI_STORAGE_CAPACITY,
    &csi::VOLUME_ATTRIBUTES_CLASS,
    &networking::NETWORK_POLICY,
    &networking::INGRESS,
    &networking::INGRESS_CLASS,
    &policy::POD_DISRUPTION_BUDGET,
    &policy::PRIORITY_CLASS,
    &policy::LIMIT_RANGE,
    &policy::RESOURCE_QUOTA,
    &autoscaling::HORIZONTAL_POD_AUTOSCALER,
    &autoscaling::HORIZONTAL_POD_AUTOSCALER_V1,
    &policy::RUNTIME_CLASS,
    &rbac::ROLE,
    &rbac::CLUSTER_ROLE,
    &rbac::ROLE_BINDING,
    &rbac::CLUSTER_ROLE_BINDING,
    &custom_resource_definition::CUSTOM_RESOURCE_DEFINITION,
    &api_service::API_SERVICE,
    &certificates::CERTIFICATE_SIGNING_REQUEST,
    &flowcontrol::FLOW_SCHEMA,
    &flowcontrol::PRIORITY_LEVEL,
    &dra::DEVICE_CLASS,
    &dra::RESOURCE_CLAIM,
    &dra::RESOURCE_CLAIM_TEMPLATE,
    &dra::RESOURCE_SLICE,
];

static ALL: OnceLock<Vec<&'static dyn Kind>> = OnceLock::new();

/// All kinds, those of the core group first.
pub fn all() -> &'static [&'static dyn Kind] {
    ALL.get_or_init(|| {
        let mut all: Vec<&'static dyn Kind> = Vec::new();
        all.extend(OWN.iter().map(|kind| *kind as &dyn Kind));
        all.extend(admission::ALL.iter().map(|kind| *kind as &dyn Kind));
        all.extend(simple::ALL.iter().map(|kind| *kind as &dyn Kind));
        all.extend(reviews::ALL.iter().map(|kind| *kind as &dyn Kind));
        all.sort_by_key(|kind| (kind.names().group, kind.names().plural, kind.names().version));
        all
    })
}

/// A kind by group, version and plural, as URLs name it.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static dyn Kind> {
    all().iter().copied().find(|kind| {
        let names = kind.names();
        names.group == group && names.version == version && names.plural == plural
    })
}

/// A kind by group, version and kind, as objects name it.
pub fn find_kind(group: &str, version: &str, kind: &str) -> Option<&'static dyn Kind> {
    all().iter().copied().find(|found| {
        let names = found.names();
        names.group == group && names.version == version && names.kind == kind
    })
}

/// A type by group, version and kind that can be checked: the kinds, and those that only subresources exchange
/// (`Eviction`, `TokenRequest`, `Scale`).
pub fn find_type(group: &str, version: &str, kind: &str) -> Option<&'static dyn Kind> {
    find_kind(group, version, kind).or_else(|| {
        let mut types = reviews::SUBRESOURCE_TYPES.iter().map(|kind| *kind as &dyn Kind);
        types.find(|found| {
            let names = found.names();
            names.group == group && names.version == version && names.kind == kind
        })
    })
}

/// Checks and normalises an object of any built-in type, `DeleteOptions` and the like included.
/// `None`: there is no such type.
pub fn check_type(
    group: &str,
    version: &str,
    kind: &str,
    object: &mut serde_json::Value,
) -> Option<Result<Vec<String>, crate::kind::TypeMismatch>> {
    crate::schema::schema().of_kind(group, version, kind).map(|message| crate::schema::check::check(object, message))
}
