//! Writes of pods on behalf of an owner: each is remembered until the cache shows it, and told as an event. No policy.

use std::sync::Arc;

use balsa_client::informer::Change;
use balsa_client::{Cause, DeleteOptions, Error, Object, Patch};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::{Context, Flights};
use crate::common::{Key, Note, owners, pods};

/// The hands of one controller.
#[derive(Clone)]
pub struct PodControl {
    /// The way out.
    pub context: Context,
    /// What the cache may not show yet, by UID of the owner.
    pub flights: Flights,
}

fn parts<K: Object>(owner: &K) -> (&str, &str, &str) {
    let meta = owner.metadata();
    (
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default(),
        meta.uid.as_deref().unwrap_or_default(),
    )
}

impl PodControl {
    /// With nothing in flight.
    pub fn new(context: &Context) -> Self {
        Self { context: context.clone(), flights: Flights::default() }
    }

    /// Creates a pod. That its namespace is going is told by the error alone, not by an event.
    pub async fn create<K: Object>(&self, owner: &K, pod: &Pod, why: &Cause) -> Result<(), Error> {
        let (namespace, _, uid) = parts(owner);
        match self.context.client.create(namespace, pod, why).await {
            Ok(created) => {
                self.flights.created(uid, &created.metadata, self.context.now());
                let text = format!("Created pod: {}", pods::name(&created));
                self.context.note(owner, &Note::normal("SuccessfulCreate", text));
                Ok(())
            }
            Err(error) => {
                if !error.is_namespace_terminating() {
                    self.context.note(owner, &Note::warning("FailedCreate", format!("Error creating: {error}")));
                }
                Err(error)
            }
        }
    }

    /// Deletes the pod of this name and UID; one that is gone already is fine.
    pub async fn delete<K: Object>(&self, owner: &K, pod: &str, pod_uid: &str, why: &Cause) -> Result<(), Error> {
        let (namespace, _, uid) = parts(owner);
        let options = DeleteOptions { uid: Some(pod_uid.to_owned()), ..DeleteOptions::default() };
        match self.context.client.delete::<Pod>(namespace, pod, options, why).await {
            Ok(_) => {
                self.flights.deleted(uid, pod_uid, self.context.now());
                self.context.note(owner, &Note::normal("SuccessfulDelete", format!("Deleted pod: {pod}")));
                Ok(())
            }
            Err(error) if error.is_not_found() => {
                self.flights.deleted(uid, pod_uid, self.context.now());
                Ok(())
            }
            Err(error) => {
                self.context.note(owner, &Note::warning("FailedDelete", format!("Error deleting: {error}")));
                Err(error)
            }
        }
    }

    /// Patches a pod of the owner's namespace; one that is gone needs none.
    pub async fn patch(&self, namespace: &str, pod: &str, patch: Patch, why: &Cause) -> Result<(), Error> {
        match self.context.client.patch::<Pod>(namespace, pod, "", patch, why).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// Puts the owner's reference on a pod, if the owner still is what the cache says: it may be going, or another may
    /// have taken its name.
    pub async fn adopt<K: Object>(&self, owner: &K, pod: &str, patch: Value, why: &Cause) -> Result<(), Error> {
        let (namespace, name, uid) = parts(owner);
        let live: K = self.context.client.get(namespace, name).await?;
        let meta = live.metadata();
        if meta.uid.as_deref() != Some(uid) || meta.deletion_timestamp.is_some() {
            return Ok(());
        }
        self.patch(namespace, pod, Patch::Merge(patch), why).await
    }

    /// Looks live at creations that stay unconfirmed for long.
    pub async fn look_at_doubtful(&self, namespace: &str, owner_uid: &str, now: Timestamp) -> Result<(), Error> {
        for (uid, name) in self.flights.doubtful(owner_uid, now) {
            let still_ours = match self.context.client.get::<Pod>(namespace, &name).await {
                Ok(pod) => pods::uid(&pod) == uid && owners::is_controlled_by(&pod.metadata, owner_uid),
                Err(error) if error.is_not_found() => false,
                Err(error) => return Err(error),
            };
            if !still_ours {
                self.flights.confirm(owner_uid, &uid, true);
            }
        }
        Ok(())
    }
}

/// The keys of owners of `kind` that a change of a pod concerns; `orphan` finds those that may want a pod of nobody's.
/// What the change confirms of our writes is noted.
pub fn owners_of(change: &Change<Pod>, kind: &str, flights: &Flights, orphan: impl Fn(&str, &Pod) -> Vec<Key>) -> Vec<Key> {
    let mut keys = Vec::new();
    for (pod, gone) in [(&change.old, change.new.is_none()), (&change.new, false)] {
        let Some(pod) = pod else { continue };
        if gone || change.new.as_ref().is_some_and(|new| Arc::ptr_eq(new, pod)) {
            flights.seen(&pod.metadata, gone);
        }
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        match owners::controller_of(&pod.metadata) {
            Some(reference) if reference.kind == kind => keys.push(Key::new(namespace, &reference.name)),
            Some(_) => {}
            None => keys.extend(orphan(namespace, pod)),
        }
    }
    keys
}
