//! Volumes that bind a pod to nodes. Binding them is not there yet: a pod that needs it is refused, visibly.

use k8s_openapi::api::core::v1::Volume;

use crate::framework::{ClusterChange, Filter, Prepared};
use crate::model::{PodInfo, Snapshot};

pub(super) struct Volumes;

/// What this scheduler cannot provide for.
fn obstacle(pod: &PodInfo) -> Option<String> {
    let spec = pod.object.spec.as_ref()?;
    let claim = |volume: &Volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(claim), _) => Some(claim.claim_name.clone()),
        (None, Some(_)) => Some(format!("{}-{}", pod.name, volume.name)),
        (None, None) => None,
    };
    if let Some(claim) = spec.volumes.iter().flatten().find_map(claim) {
        return Some(format!("binding of persistentvolumeclaim \"{claim}\" is not supported by this scheduler yet"));
    }
    let claims = spec.resource_claims.iter().flatten().next()?;
    Some(format!("allocation of resource claim \"{}\" is not supported by this scheduler yet", claims.name))
}

impl Filter for Volumes {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }

    fn prepare<'s>(&self, pod: &'s PodInfo, _: &'s Snapshot) -> Prepared<'s> {
        obstacle(pod).map_or(Prepared::Skip, Prepared::Reject)
    }

    fn may_help(&self, _: &PodInfo, _: &ClusterChange<'_>) -> bool {
        false
    }
}
