//! What is left in a namespace, by resource, read from the apiserver (not from caches: empty has to mean empty).

use balsa_api::meta::GroupVersionResource;
use balsa_client::{Client, ListParams};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize as _;
use serde_json::Value;

use super::plan::{Observed, Remaining};
use crate::runtime::definitions;

const PAGE: u64 = 500;

/// Every resource of namespaces that can be listed and deleted. One of several that show the same objects is enough,
/// but to delete twice does no harm.
pub fn resources() -> Vec<GroupVersionResource> {
    let can = |verbs: &[&str], verb: &str| verbs.contains(&verb);
    balsa_api::kinds::all()
        .iter()
        .filter(|kind| kind.namespaced() && can(kind.verbs(), "list") && can(kind.verbs(), "delete"))
        // The same objects as the core group's.
        .filter(|kind| !(kind.names().plural == "events" && !kind.names().group.is_empty()))
        // The same objects as those of v2.
        .filter(|kind| (kind.names().group, kind.names().version) != ("autoscaling", "v1"))
        .map(|kind| kind.gvr())
        .collect()
}

fn remaining(object: &Value) -> Option<Remaining> {
    let meta = ObjectMeta::deserialize(object.get("metadata")?).ok()?;
    Some(Remaining {
        name: meta.name?,
        uid: meta.uid.unwrap_or_default(),
        finalizers: meta.finalizers.unwrap_or_default(),
        deleting: meta.deletion_timestamp.is_some(),
    })
}

async fn list(client: &Client, resource: &GroupVersionResource, namespace: &str) -> Result<Vec<Remaining>, balsa_client::Error> {
    let mut left = Vec::new();
    let mut params = ListParams { limit: PAGE, ..ListParams::default() };
    loop {
        let page = client.list_raw(resource, namespace, &params).await?;
        left.extend(page.items.iter().filter_map(remaining));
        if page.continue_token.is_empty() {
            return Ok(left);
        }
        params.continue_token = page.continue_token;
    }
}

/// Lists everything, of custom resources too.
pub async fn observe(client: &Client, namespace: &str) -> Observed {
    let mut observed = Observed::default();
    let mut all = resources();
    let built_in = all.len();
    match definitions::read(client).await {
        Ok(custom) => all.extend(custom.into_iter().filter(|one| one.namespaced).map(|one| one.resource)),
        Err(error) => observed.failures.push(format!("cannot list custom resources: {error}")),
    }
    for (index, resource) in all.into_iter().enumerate() {
        match list(client, &resource, namespace).await {
            Ok(left) if left.is_empty() => {}
            // Its definition has gone in between, and its objects with it.
            Err(error) if index >= built_in && error.is_not_found() => {}
            Ok(left) => observed.content.push((resource, left)),
            Err(error) => observed.failures.push(format!("cannot list {resource}: {error}")),
        }
    }
    observed
}
