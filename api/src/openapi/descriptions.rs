//! What the types' fields mean, for people: taken from the schemas of `k8s-openapi`.

use std::sync::OnceLock;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use k8s_openapi::schemars::SchemaGenerator;
use k8s_openapi::schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

/// The description of a type (`io.k8s.api.core.v1.Pod`) and of its properties, with what is required.
pub(super) fn of(name: &str) -> Option<&'static Value> {
    static ALL: OnceLock<Map<String, Value>> = OnceLock::new();
    ALL.get_or_init(collect).get(name)
}

macro_rules! collect {
    ($generator:ident; $($group:ident :: $version:ident :: { $($kind:ident),* $(,)? })*) => {
        $($(let _ = $generator.subschema_for::<k8s_openapi::api::$group::$version::$kind>();)*)*
    };
}

fn collect() -> Map<String, Value> {
    let mut generator: SchemaGenerator = SchemaSettings::default().into_generator();
    collect! { generator;
        core::v1::{Namespace, Node, Pod, ConfigMap, Secret, ServiceAccount, Event, Binding, PodTemplate,
            ReplicationController, Service, Endpoints, PersistentVolume, PersistentVolumeClaim, LimitRange, ResourceQuota}
        apps::v1::{Deployment, ReplicaSet, StatefulSet, DaemonSet, ControllerRevision}
        batch::v1::{Job, CronJob}
        coordination::v1::{Lease}
        discovery::v1::{EndpointSlice}
        events::v1::{Event}
        scheduling::v1::{PriorityClass}
        storage::v1::{StorageClass, CSINode, CSIDriver, VolumeAttachment, CSIStorageCapacity, VolumeAttributesClass}
        policy::v1::{PodDisruptionBudget}
        rbac::v1::{Role, ClusterRole, RoleBinding, ClusterRoleBinding}
        certificates::v1::{CertificateSigningRequest}
        flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration}
        networking::v1::{NetworkPolicy, Ingress, IngressClass, IPAddress, ServiceCIDR}
        resource::v1::{DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice}
        node::v1::{RuntimeClass}
        autoscaling::v2::{HorizontalPodAutoscaler}
        authentication::v1::{TokenReview, SelfSubjectReview}
        authorization::v1::{SubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview, LocalSubjectAccessReview}
    }
    let _ = generator.subschema_for::<CustomResourceDefinition>();
    let _ = generator.subschema_for::<APIService>();
    generator.take_definitions(false)
}
