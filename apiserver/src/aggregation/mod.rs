//! Aggregation: versions of API groups that servers in the cluster serve, as APIService objects say.
//!
//! [`local`] says which objects stand for what this server serves itself, [`condition`] whether a server in the cluster
//! is available, [`merge`] how its groups join ours in discovery: all three are pure. [`keeper`] looks, asks and writes;
//! [`forward`] passes requests on, with the caller's identity in headers that only our certificate may send.

pub mod condition;
pub mod forward;
pub mod keeper;
pub mod local;
pub mod merge;
pub mod trust;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use balsa_api::cursor::{find, text};
use balsa_process::tls::TlsIdentity;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use serde_json::Value;

use crate::proxy::connect::Trust;
use crate::rest::Rest;

/// A server in the cluster that serves one version of a group.
#[derive(Debug, Clone)]
pub struct Remote {
    /// Of the APIService: `v1beta1.metrics.k8s.io`
    pub name: String,
    /// `metrics.k8s.io`
    pub group: String,
    /// `v1beta1`
    pub version: String,
    /// Namespace of the Service.
    pub namespace: String,
    /// The Service.
    pub service: String,
    /// The Service's port.
    pub port: u16,
    /// Whose certificate the server may show.
    pub trust: Trust,
    /// Whether the last look found it available.
    pub available: bool,
}

impl Remote {
    /// From an APIService; `None` where this server serves the version itself. Pure.
    pub fn of(object: &Value) -> Option<Self> {
        balsa_api::kinds::api_service::is_remote(object).then(|| {
            let port = find(object, "spec.service.port").as_u64().and_then(|port| u16::try_from(port).ok());
            let skips = find(object, "spec.insecureSkipTLSVerify") == &Value::Bool(true);
            let bundle = STANDARD.decode(text(object, "spec.caBundle")).unwrap_or_default();
            Self {
                name: text(object, "metadata.name").to_owned(),
                group: text(object, "spec.group").to_owned(),
                version: text(object, "spec.version").to_owned(),
                namespace: text(object, "spec.service.namespace").to_owned(),
                service: text(object, "spec.service.name").to_owned(),
                port: port.unwrap_or(443),
                trust: if skips { Trust::Anybody } else { Trust::Bundle(bundle) },
                available: condition::is_available(object),
            }
        })
    }

    /// The name that the server's certificate must bear.
    pub fn host(&self) -> String {
        format!("{}.{}.svc", self.service, self.namespace)
    }

    /// `/apis/metrics.k8s.io/v1beta1`
    pub fn path(&self) -> String {
        format!("/apis/{}/{}", self.group, self.version)
    }
}

/// All APIServices as of one state of the cache.
#[derive(Default)]
pub struct Table {
    /// The state: (generation, revision).
    version: (u64, u64),
    /// The objects themselves.
    pub objects: Vec<Value>,
    /// Those that lead elsewhere, by group and version.
    pub remotes: BTreeMap<(String, String), Arc<Remote>>,
}

/// What is known of the servers in the cluster.
pub struct Aggregation {
    identity: Option<TlsIdentity>,
    table: Mutex<Arc<Table>>,
    /// What each said it serves, by APIService: an entry of an aggregated discovery document.
    discovered: Mutex<BTreeMap<String, Value>>,
}

impl Aggregation {
    /// `identity`: what servers in the cluster are shown; without one they cannot know that it is us.
    pub fn new(identity: Option<TlsIdentity>) -> Self {
        Self { identity, table: Mutex::default(), discovered: Mutex::default() }
    }

    /// The certificate that we show, and its key.
    pub fn identity(&self) -> Option<&TlsIdentity> {
        self.identity.as_ref()
    }

    fn discovered(&self) -> BTreeMap<String, Value> {
        self.discovered.lock().clone()
    }
}

impl Rest {
    /// The APIServices as the cache has them now.
    pub(crate) fn api_services(&self) -> Arc<Table> {
        let Some(cache) = self.api.caches.resource("apiregistration.k8s.io", "apiservices") else { return Arc::default() };
        let version = cache.version();
        let mut table = self.aggregation.table.lock();
        if table.version != version || table.objects.is_empty() {
            let objects: Vec<Value> = cache.list("").iter().map(|object| object.value()).collect();
            let remotes = objects.iter().filter_map(Remote::of);
            let remotes = remotes.map(|remote| ((remote.group.clone(), remote.version.clone()), Arc::new(remote))).collect();
            *table = Arc::new(Table { version, objects, remotes });
        }
        table.clone()
    }

    /// The server in the cluster that serves this version of a group, if one does. The core group is always ours.
    pub(crate) fn remote(&self, group: &str, version: &str) -> Option<Arc<Remote>> {
        if group.is_empty() {
            return None;
        }
        let table = self.api_services();
        if table.remotes.is_empty() {
            return None;
        }
        table.remotes.get(&(group.to_owned(), version.to_owned())).cloned()
    }

    /// `/apis`, with the groups of others.
    pub(crate) fn aggregated_groups(&self, own: Value) -> Value {
        merge::groups(own, &self.api_services().objects)
    }

    /// `/apis/GROUP`, with the versions of others.
    pub(crate) fn aggregated_group(&self, group: &str, own: Option<Value>) -> Option<Value> {
        merge::group(group, own, &self.api_services().objects)
    }

    /// The aggregated form of `/apis`, with what others said they serve.
    pub(crate) fn aggregated_document(&self, own: Value) -> Value {
        merge::document(own, &self.api_services().objects, &self.aggregation.discovered())
    }
}
