//! Claims in the store: one key for each address and each node port that a Service has, made before the Service is
//! written and removed after it is gone. Whoever creates the key has the value; there is no other lock.
//!
//! An address is claimed by its `IPAddress` object, as in Kubernetes; a node port by a key of our own.

use balsa_api::kind::Kind;
use balsa_api::names;
use balsa_api::status::{ApiError, ApiResult};
use bytes::Bytes;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::plan::Claim;
use crate::pipeline::{Api, Target, decode, encode, store_error};
use crate::storage::{Entry, ROOT, Written, envelope, prefix_end, resource_prefix};
use crate::value;

/// Who makes and removes `IPAddress` objects by itself.
pub const MANAGED_BY: &str = "ipallocator.k8s.io";
const MANAGED_BY_LABEL: &str = "ipaddress.kubernetes.io/managed-by";
const FAMILY_LABEL: &str = "ipaddress.kubernetes.io/ip-family";
/// An `IPAddress` names its Service, but not which Service of that name: this does.
const OWNER_UID: &str = "balsa/service-uid";

/// Whose a claim is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owner {
    /// metadata.namespace
    pub namespace: String,
    /// metadata.name
    pub name: String,
    /// metadata.uid; empty where a claim does not say.
    pub uid: String,
}

impl Owner {
    /// The Service as an owner.
    pub fn of(service: &Value) -> Self {
        Self {
            namespace: value::namespace(service).to_owned(),
            name: value::name(service).to_owned(),
            uid: value::uid(service).to_owned(),
        }
    }

    /// Whether both are the same Service, as far as they say.
    pub fn is(&self, other: &Self) -> bool {
        let same_uid = self.uid.is_empty() || other.uid.is_empty() || self.uid == other.uid;
        same_uid && self.namespace == other.namespace && self.name == other.name
    }
}

/// A claim as it lies in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Of what.
    pub claim: Claim,
    /// By whom. `None`: an `IPAddress` that is not about a Service, or that somebody else looks after.
    pub owner: Option<Owner>,
    /// Since when.
    pub since: Timestamp,
    /// Revision of its key.
    pub revision: u64,
}

/// How a claim ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    /// It is ours.
    Yes,
    /// Somebody has it.
    Taken,
}

/// The kind of address claims.
pub fn address_kind() -> ApiResult<&'static dyn Kind> {
    balsa_api::kinds::find("networking.k8s.io", "v1", "ipaddresses").ok_or_else(ApiError::no_such_path)
}

/// Where claims of node ports lie.
pub fn port_prefix() -> String {
    format!("{ROOT}balsa-nodeports/")
}

fn key(claim: &Claim) -> String {
    match claim {
        Claim::Address(address) => format!("{}{address}", resource_prefix("networking.k8s.io", "ipaddresses")),
        Claim::Port(port) => format!("{}{port:05}", port_prefix()),
    }
}

/// The `IPAddress` object of a claim.
fn address_object(address: &str, owner: &Owner, now: Timestamp) -> Value {
    let family = if address.contains(':') { "IPv6" } else { "IPv4" };
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
        "metadata": {"name": address, "uid": names::new_uid(), "creationTimestamp": value::timestamp(now),
            "labels": {FAMILY_LABEL: family, MANAGED_BY_LABEL: MANAGED_BY}, "annotations": {OWNER_UID: owner.uid}},
        "spec": {"parentRef": {"resource": "services", "namespace": owner.namespace, "name": owner.name}}})
}

fn encoded(claim: &Claim, owner: &Owner, now: Timestamp) -> ApiResult<Bytes> {
    Ok(match claim {
        Claim::Address(address) => encode(address_kind()?, &address_object(address, owner, now)),
        Claim::Port(_) => {
            let held = json!({"namespace": owner.namespace, "name": owner.name, "uid": owner.uid, "since": value::timestamp(now)});
            Bytes::from(held.to_string())
        }
    })
}

fn since(text: &str) -> Timestamp {
    // What does not say since when it is there is as old as can be.
    text.parse().unwrap_or(Timestamp::UNIX_EPOCH)
}

/// An `IPAddress` object as a claim.
pub fn held_address(object: &Value, revision: u64) -> Held {
    let parent = |member: &str| value::text(object, &format!("/spec/parentRef/{member}")).to_owned();
    let is_ours = value::label(object, MANAGED_BY_LABEL) == Some(MANAGED_BY);
    let about_service = parent("group").is_empty() && parent("resource") == "services";
    let uid = object.pointer("/metadata/annotations").and_then(|all| all.get(OWNER_UID)).and_then(Value::as_str);
    let owner = Owner { namespace: parent("namespace"), name: parent("name"), uid: uid.unwrap_or_default().to_owned() };
    Held {
        claim: Claim::Address(value::name(object).to_owned()),
        owner: (is_ours && about_service).then_some(owner),
        since: since(value::text(object, "/metadata/creationTimestamp")),
        revision,
    }
}

/// A node port's key and value as a claim. `None`: it is not one of ours.
pub fn held_port(entry: &Entry) -> Option<Held> {
    let port = entry.key.strip_prefix(&port_prefix())?.parse().ok()?;
    let held: Value = serde_json::from_slice(&entry.value).ok()?;
    let text = |member: &str| held.get(member).and_then(Value::as_str).unwrap_or_default().to_owned();
    Some(Held {
        claim: Claim::Port(port),
        owner: Some(Owner { namespace: text("namespace"), name: text("name"), uid: text("uid") }),
        since: since(&text("since")),
        revision: entry.revision,
    })
}

impl Api {
    /// Claims a value for a Service.
    pub(super) async fn claim(&self, claim: &Claim, owner: &Owner, now: Timestamp) -> ApiResult<Claimed> {
        let written = self.store.put(&key(claim), encoded(claim, owner, now)?, 0, None).await;
        match written.map_err(|error| store_error(error, true))? {
            Written::Done(_) => Ok(Claimed::Yes),
            Written::Conflict(_) => Ok(Claimed::Taken),
        }
    }

    /// The claim as the store has it now.
    pub(super) async fn held(&self, claim: &Claim) -> ApiResult<Option<Held>> {
        let (entry, _) = self.store.get(&key(claim)).await.map_err(|error| store_error(error, false))?;
        let Some(entry) = entry else { return Ok(None) };
        match claim {
            Claim::Address(_) => Ok(Some(held_address(&decode(address_kind()?, &entry)?.value, entry.revision))),
            Claim::Port(_) => Ok(held_port(&entry)),
        }
    }

    /// Gives a claim back, if it still is this Service's. What cannot be given back now, the repair loop finds.
    pub(super) async fn release(&self, claim: &Claim, owner: &Owner) {
        if let Err(error) = self.try_release(claim, owner).await {
            tracing::warn!(%claim, %error, "a claim was not given back; the repair loop will");
        }
    }

    async fn try_release(&self, claim: &Claim, owner: &Owner) -> ApiResult<()> {
        match self.held(claim).await? {
            Some(held) if held.owner.as_ref().is_some_and(|holder| holder.is(owner)) => self.drop_claim(&held).await.map(drop),
            _ => Ok(()),
        }
    }

    /// Removes a claim as it was read. False: it changed since.
    pub(super) async fn drop_claim(&self, held: &Held) -> ApiResult<bool> {
        let written = self.store.delete(&key(&held.claim), held.revision).await;
        Ok(matches!(written.map_err(|error| store_error(error, true))?, Written::Done(_)))
    }

    /// All claims of node ports.
    pub(super) async fn held_ports(&self) -> ApiResult<Vec<Held>> {
        let prefix = port_prefix();
        let page = self.store.range(&prefix, &prefix_end(&prefix), 0, 0).await;
        Ok(page.map_err(|error| store_error(error, false))?.entries.iter().filter_map(held_port).collect())
    }

    /// All claims of addresses.
    pub(super) async fn held_addresses(&self) -> ApiResult<Vec<Held>> {
        let prefix = resource_prefix("networking.k8s.io", "ipaddresses");
        let page = self.store.range(&prefix, &prefix_end(&prefix), 0, 0).await;
        let entries = page.map_err(|error| store_error(error, false))?.entries;
        let read = |entry: &Entry| envelope::decode(entry.value.clone(), entry.revision).map(|object| held_address(&object, entry.revision));
        entries.iter().map(read).collect::<Result<_, _>>().map_err(|error| store_error(error, false))
    }

    /// The Service of a claim, linearizably.
    pub(super) async fn service(&self, owner: &Owner) -> ApiResult<Option<Value>> {
        let kind = balsa_api::kinds::find("", "v1", "services").ok_or_else(ApiError::no_such_path)?;
        let target = Target { kind, namespace: &owner.namespace, name: &owner.name };
        Ok(self.fetch(target).await?.map(|found| found.value))
    }
}
