//! Typed calls. Decides per call whether it may be repeated; how is in `endpoints.rs`.

use std::time::Duration;

use balsa_api::meta::GroupVersionResource;
use balsa_process::tls::TlsIdentity;
use balsa_proto::api as wire;
use k8s_openapi::api::core::v1::Pod;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::endpoints::{Endpoints, Repeat, timed};
use crate::error::{Error, Result};
use crate::object::{
    Cause, Decode, DeleteOptions, Deleted, ListOf, ListParams, Object, Patch, WatchParams, decode_object, encode,
    resource_of, wire_resource,
};
use crate::watch::{self, WatchStream};

/// Where the apiservers are and who we are.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// `https://host:6444`, or `http://127.0.0.1:PORT` where `identity` is `None` (tests).
    pub apiservers: Vec<String>,
    /// Our certificate.
    pub identity: Option<TlsIdentity>,
    /// Recorded as the field manager of our writes.
    pub component: String,
}

/// The way to the apiserver. Cheap to clone; all clones share the connections.
///
/// Every call has a deadline (10 s, see [`Client::with_deadline`]) within which it is repeated on another endpoint
/// where that is safe:
///
/// - reads always;
/// - `update*` with a resourceVersion, `delete` with a uid, `patch` by apply or with a resourceVersion in it, and
///   `bind`: if the first sending did happen, the second is refused by its precondition, so the caller sees a
///   conflict (or not-found, for `delete`) and observes again. `bind` looks itself;
/// - every other write only where it certainly was not sent (no connection). Otherwise the caller gets
///   [`Error::Unavailable`] and has to observe before it decides again.
#[derive(Clone)]
pub struct Client {
    pub(crate) endpoints: Endpoints,
    pub(crate) component: String,
    pub(crate) deadline: Duration,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("component", &self.component).finish_non_exhaustive()
    }
}

impl Client {
    /// Never waits for a server: connections are made when they are needed. Fails only on malformed addresses or
    /// where identity and scheme do not fit. Must be called inside a tokio runtime.
    pub fn new(config: ClientConfig) -> anyhow::Result<Self> {
        Ok(Self {
            endpoints: Endpoints::new(&config.apiservers, config.identity.as_ref())?,
            component: config.component,
            deadline: Duration::from_secs(10),
        })
    }

    /// A client whose calls have another deadline.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// A client that writes under another field manager.
    #[must_use]
    pub fn with_component(mut self, component: impl Into<String>) -> Self {
        self.component = component.into();
        self
    }

    /// Reads one object, linearizably. `ns` is empty for cluster-scoped kinds.
    pub async fn get<K: Object>(&self, ns: &str, name: &str) -> Result<K> {
        self.get_as(&resource_of::<K>(), ns, name, "").await
    }

    /// Reads a subresource that has the type of `K` itself or another (`scale`).
    pub async fn get_subresource<K: Decode>(
        &self,
        resource: &GroupVersionResource,
        ns: &str,
        name: &str,
        subresource: &str,
    ) -> Result<K> {
        self.get_as(resource, ns, name, subresource).await
    }

    /// Lists objects; an empty `ns` means all namespaces.
    pub async fn list<K: Object>(&self, ns: &str, params: &ListParams) -> Result<ListOf<K>> {
        self.list_as(&resource_of::<K>(), ns, params).await
    }

    /// Creates an object. Not repeated once it may have been sent.
    pub async fn create<K: Object>(&self, ns: &str, object: &K, cause: &Cause) -> Result<K> {
        self.create_as(&resource_of::<K>(), ns, ("", ""), encode(object)?, cause).await
    }

    /// Replaces an object (but its status). The resourceVersion in it, where set, is the precondition.
    pub async fn update<K: Object>(&self, object: &K, cause: &Cause) -> Result<K> {
        self.update_as(&resource_of::<K>(), "", object.metadata(), encode(object)?, cause).await
    }

    /// Replaces the status of an object. The resourceVersion in it, where set, is the precondition.
    pub async fn update_status<K: Object>(&self, object: &K, cause: &Cause) -> Result<K> {
        self.update_as(&resource_of::<K>(), "status", object.metadata(), encode(object)?, cause).await
    }

    /// Replaces another subresource that has the object's own type: `finalize`, `ephemeralcontainers`.
    pub async fn update_subresource<K: Object>(&self, object: &K, subresource: &str, cause: &Cause) -> Result<K> {
        self.update_as(&resource_of::<K>(), subresource, object.metadata(), encode(object)?, cause).await
    }

    /// Patches an object, or its `subresource` where not empty.
    pub async fn patch<K: Object>(
        &self,
        ns: &str,
        name: &str,
        subresource: &str,
        patch: Patch,
        cause: &Cause,
    ) -> Result<K> {
        self.patch_as(&resource_of::<K>(), ns, name, subresource, &patch, cause).await
    }

    /// Deletes an object.
    pub async fn delete<K: Object>(
        &self,
        ns: &str,
        name: &str,
        options: DeleteOptions,
        cause: &Cause,
    ) -> Result<Deleted<K>> {
        self.delete_as(&resource_of::<K>(), ns, name, options, cause).await
    }

    /// Creates through a subresource of the object `name`, such as `serviceaccounts/token` or `pods/eviction`.
    #[expect(clippy::too_many_arguments, reason = "the parts of a URL, the body and the cause")]
    pub async fn create_subresource<Req: Serialize, Res: DeserializeOwned>(
        &self,
        resource: &GroupVersionResource,
        ns: &str,
        name: &str,
        subresource: &str,
        request: &Req,
        cause: &Cause,
    ) -> Result<Res> {
        let object = self.send_create(resource, ns, (name, subresource), encode(request)?, cause).await?;
        serde_json::from_slice(&object.body).map_err(|error| Error::Decode(format!("{resource}/{subresource}: {error}")))
    }

    /// Gives the pod (only the one with `uid`, where not empty) to `node`. `Ok` means that it is bound to `node`,
    /// also where an earlier sending of the same call did it.
    pub async fn bind(&self, ns: &str, pod: &str, uid: &str, node: &str, cause: &Cause) -> Result<()> {
        let request = wire::BindRequest {
            namespace: ns.to_owned(),
            pod: pod.to_owned(),
            uid: uid.to_owned(),
            node: node.to_owned(),
            cause: cause.to_wire(),
        };
        let mut sendings = 0;
        let answer = self
            .endpoints
            .call(self.deadline, Repeat::Always, |mut client, time| {
                sendings += 1;
                let request = timed(request.clone(), time);
                async move { client.bind(request).await }
            })
            .await;
        match answer {
            Ok(_) => Ok(()),
            Err(refused) if refused.is_conflict() && sendings > 1 => {
                let pod: Pod = self.get(ns, pod).await?;
                let same_pod = uid.is_empty() || pod.metadata.uid.as_deref() == Some(uid);
                let there = pod.spec.and_then(|spec| spec.node_name).is_some_and(|name| name == node);
                if same_pod && there { Ok(()) } else { Err(refused) }
            }
            Err(error) => Err(error),
        }
    }

    /// Opens a watch. The stream ends after its first error; a later watch goes on after the last revision seen.
    pub async fn watch<K: Object>(&self, ns: &str, params: WatchParams) -> Result<WatchStream<K>> {
        watch::open(self, &resource_of::<K>(), ns, &params).await
    }

    pub(crate) async fn get_as<K: Decode>(
        &self,
        resource: &GroupVersionResource,
        ns: &str,
        name: &str,
        subresource: &str,
    ) -> Result<K> {
        let request = wire::GetRequest {
            resource: wire_resource(resource),
            namespace: ns.to_owned(),
            name: name.to_owned(),
            subresource: subresource.to_owned(),
            resource_version: String::new(),
        };
        let object = self
            .endpoints
            .call(self.deadline, Repeat::Always, |mut client, time| {
                let request = timed(request.clone(), time);
                async move { client.get(request).await }
            })
            .await?;
        decode_object(&object)
    }

    pub(crate) async fn list_as<K: Decode>(
        &self,
        resource: &GroupVersionResource,
        ns: &str,
        params: &ListParams,
    ) -> Result<ListOf<K>> {
        let request = wire::ListRequest {
            resource: wire_resource(resource),
            namespace: ns.to_owned(),
            label_selector: params.label_selector.clone(),
            field_selector: params.field_selector.clone(),
            limit: params.limit,
            continue_token: params.continue_token.clone(),
            resource_version: params.resource_version.clone(),
            resource_version_match: String::new(),
        };
        let answer = self
            .endpoints
            .call(self.deadline, Repeat::Always, |mut client, time| {
                let request = timed(request.clone(), time);
                async move { client.list(request).await }
            })
            .await?;
        let items = answer.items.iter().map(decode_object).collect::<Result<_>>()?;
        Ok(ListOf { items, revision: answer.revision, continue_token: answer.continue_token })
    }

    /// `parent` is (name, subresource), both empty for a plain create.
    pub(crate) async fn create_as<K: Decode>(
        &self,
        resource: &GroupVersionResource,
        ns: &str,
        parent: (&str, &str),
        body: bytes::Bytes,
        cause: &Cause,
    ) -> Result<K> {
        decode_object(&self.send_create(resource, ns, parent, body, cause).await?)
    }

    async fn send_create(
        &self,
        resource: &GroupVersionResource,
        ns: &str,
        (name, subresource): (&str, &str),
        body: bytes::Bytes,
        cause: &Cause,
    ) -> Result<wire::Object> {
        let request = wire::CreateRequest {
            resource: wire_resource(resource),
            namespace: ns.to_owned(),
            name: name.to_owned(),
            subresource: subresource.to_owned(),
            body,
            dry_run: false,
            field_manager: self.component.clone(),
            cause: cause.to_wire(),
        };
        self.endpoints
            .call(self.deadline, Repeat::IfNotSent, |mut client, time| {
                let request = timed(request.clone(), time);
                async move { client.create(request).await }
            })
            .await
    }

    pub(crate) async fn update_as<K: Decode>(
        &self,
        resource: &GroupVersionResource,
        subresource: &str,
        meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
        body: bytes::Bytes,
        cause: &Cause,
    ) -> Result<K> {
        let guarded = meta.resource_version.as_deref().is_some_and(|version| !version.is_empty());
        let request = wire::UpdateRequest {
            resource: wire_resource(resource),
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            subresource: subresource.to_owned(),
            body,
            dry_run: false,
            field_manager: self.component.clone(),
            cause: cause.to_wire(),
        };
        let object = self
            .endpoints
            .call(self.deadline, repeat_if(guarded), |mut client, time| {
                let request = timed(request.clone(), time);
                async move { client.update(request).await }
            })
            .await?;
        decode_object(&object)
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of a URL, the patch and the cause")]
    pub(crate) async fn patch_as<K: Decode>(
        &self,
        resource: &GroupVersionResource,
        ns: &str,
        name: &str,
        subresource: &str,
        patch: &Patch,
        cause: &Cause,
    ) -> Result<K> {
        let (kind, body) = patch.to_wire()?;
        let request = wire::PatchRequest {
            resource: wire_resource(resource),
            namespace: ns.to_owned(),
            name: name.to_owned(),
            subresource: subresource.to_owned(),
            r#type: kind.into(),
            patch: body,
            dry_run: false,
            field_manager: self.component.clone(),
            force: matches!(patch, Patch::Apply(_)),
            cause: cause.to_wire(),
        };
        let object = self
            .endpoints
            .call(self.deadline, repeat_if(patch.is_repeatable()), |mut client, time| {
                let request = timed(request.clone(), time);
                async move { client.patch(request).await }
            })
            .await?;
        decode_object(&object)
    }

    pub(crate) async fn delete_as<K: Decode>(
        &self,
        resource: &GroupVersionResource,
        ns: &str,
        name: &str,
        options: DeleteOptions,
        cause: &Cause,
    ) -> Result<Deleted<K>> {
        let guarded = options.uid.is_some();
        let request = wire::DeleteRequest {
            resource: wire_resource(resource),
            namespace: ns.to_owned(),
            name: name.to_owned(),
            grace_period_seconds: options.grace_period_seconds,
            propagation_policy: options.propagation.unwrap_or_default(),
            precondition_uid: options.uid.unwrap_or_default(),
            precondition_resource_version: options.resource_version.unwrap_or_default(),
            dry_run: false,
            cause: cause.to_wire(),
        };
        let answer = self
            .endpoints
            .call(self.deadline, repeat_if(guarded), |mut client, time| {
                let request = timed(request.clone(), time);
                async move { client.delete(request).await }
            })
            .await?;
        let object = answer.object.filter(|object| !object.body.is_empty());
        Ok(Deleted { object: object.as_ref().map(decode_object).transpose()?, gone: answer.gone })
    }
}

fn repeat_if(safe: bool) -> Repeat {
    if safe { Repeat::Always } else { Repeat::IfNotSent }
}
