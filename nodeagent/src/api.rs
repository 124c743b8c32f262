//! What the pod life cycle asks of the API server, and nothing more: the seam that tests replace.

use async_trait::async_trait;
use balsa_api::meta::GroupVersionResource;
use balsa_client::events::{EventRecorder, EventType, object_reference, with_field_path};
use balsa_client::informer::Cache;
use balsa_client::{Cause, Client, DeleteOptions, Error, Patch};
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service,
};
use serde_json::Value;
use thiserror::Error as ThisError;

/// Why the API server did not answer as hoped.
#[derive(Debug, Clone, ThisError, PartialEq, Eq)]
pub enum ApiFailure {
    /// There is no such object (any more): `configmap "x" not found`.
    #[error("{0}")]
    NotFound(String),
    /// Another object has this name now, or somebody wrote in between.
    #[error("{0}")]
    Conflict(String),
    /// Any other refusal, or no answer.
    #[error("{0}")]
    Other(String),
}

impl From<Error> for ApiFailure {
    fn from(error: Error) -> Self {
        match &error {
            error if error.is_not_found() => Self::NotFound(error.to_string()),
            error if error.is_conflict() => Self::Conflict(error.to_string()),
            error => Self::Other(error.to_string()),
        }
    }
}

/// A token for a service account, bound to a pod.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// The token itself. Never logged.
    pub token: String,
    /// When it ends.
    pub expires_at: Timestamp,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

/// The result of a call to the API server.
pub type ApiResult<T> = Result<T, ApiFailure>;

/// The API server as pods need it.
#[async_trait]
pub trait PodApi: Send + Sync + 'static {
    /// Writes a strategic merge patch to the pod's status.
    async fn patch_status(&self, pod: &Pod, patch: Value, why: &str) -> ApiResult<()>;
    /// Deletes the object at once, if it is still this one.
    async fn delete_pod(&self, pod: &Pod, why: &str) -> ApiResult<()>;
    /// Reads a ConfigMap.
    async fn config_map(&self, namespace: &str, name: &str) -> ApiResult<ConfigMap>;
    /// Reads a Secret.
    async fn secret(&self, namespace: &str, name: &str) -> ApiResult<Secret>;
    /// Reads a claim.
    async fn claim(&self, namespace: &str, name: &str) -> ApiResult<PersistentVolumeClaim>;
    /// Reads a volume.
    async fn volume(&self, name: &str) -> ApiResult<PersistentVolume>;
    /// All services of a namespace, as far as they are known.
    fn services(&self, namespace: &str) -> Vec<Service>;
    /// A token for the pod's service account.
    async fn token(&self, pod: &Pod, audience: Option<&str>, seconds: i64) -> ApiResult<Token>;
    /// Tells an event about the pod or, with a field path, about a container of it.
    fn event(&self, pod: &Pod, field_path: &str, warning: bool, reason: &str, message: &str);
}

/// The real one.
#[derive(Clone)]
pub struct RealApi {
    client: Client,
    events: EventRecorder,
    services: Cache<Service>,
}

impl RealApi {
    /// Over a client; services come from an informer's cache.
    pub fn new(client: Client, events: EventRecorder, services: Cache<Service>) -> Self {
        Self { client, events, services }
    }
}

fn names(pod: &Pod) -> (&str, &str) {
    (pod.metadata.namespace.as_deref().unwrap_or_default(), pod.metadata.name.as_deref().unwrap_or_default())
}

/// Kubernetes names the kind of a missing object in one word without its group: `configmap "x" not found`.
fn missing<T>(kind: &str, name: &str, result: balsa_client::Result<T>) -> ApiResult<T> {
    result.map_err(|error| match error.is_not_found() {
        true => ApiFailure::NotFound(format!("{kind} \"{name}\" not found")),
        false => ApiFailure::from(error),
    })
}

#[async_trait]
impl PodApi for RealApi {
    async fn patch_status(&self, pod: &Pod, patch: Value, why: &str) -> ApiResult<()> {
        let (namespace, name) = names(pod);
        let cause = Cause::new(why).seen(&pod.metadata);
        self.client.patch::<Pod>(namespace, name, "status", Patch::Strategic(patch), &cause).await?;
        Ok(())
    }

    async fn delete_pod(&self, pod: &Pod, why: &str) -> ApiResult<()> {
        let (namespace, name) = names(pod);
        let options =
            DeleteOptions { grace_period_seconds: Some(0), uid: pod.metadata.uid.clone(), ..DeleteOptions::default() };
        self.client.delete::<Pod>(namespace, name, options, &Cause::new(why).seen(&pod.metadata)).await?;
        Ok(())
    }

    async fn config_map(&self, namespace: &str, name: &str) -> ApiResult<ConfigMap> {
        missing("configmap", name, self.client.get(namespace, name).await)
    }

    async fn secret(&self, namespace: &str, name: &str) -> ApiResult<Secret> {
        missing("secret", name, self.client.get(namespace, name).await)
    }

    async fn claim(&self, namespace: &str, name: &str) -> ApiResult<PersistentVolumeClaim> {
        missing("persistentvolumeclaim", name, self.client.get(namespace, name).await)
    }

    async fn volume(&self, name: &str) -> ApiResult<PersistentVolume> {
        missing("persistentvolume", name, self.client.get("", name).await)
    }

    fn services(&self, namespace: &str) -> Vec<Service> {
        self.services.by_namespace(namespace).iter().map(|service| Service::clone(service)).collect()
    }

    async fn token(&self, pod: &Pod, audience: Option<&str>, seconds: i64) -> ApiResult<Token> {
        let (namespace, name) = names(pod);
        let account = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.service_account_name.clone())
            .unwrap_or_else(|| "default".to_owned());
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: audience.map(|audience| vec![audience.to_owned()]),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: Some(name.to_owned()),
                    uid: pod.metadata.uid.clone(),
                }),
                expiration_seconds: Some(seconds),
            }),
            ..TokenRequest::default()
        };
        let accounts = GroupVersionResource::new("", "v1", "serviceaccounts");
        let answer: TokenRequest = missing(
            "serviceaccount",
            &account,
            self.client
                .create_subresource(&accounts, namespace, &account, "token", &request, &Cause::new("token for a pod"))
                .await,
        )?;
        let status = answer.status.unwrap_or_default();
        match (status.token, status.expiration_timestamp) {
            (Some(token), Some(expires_at)) => Ok(Token { token, expires_at: expires_at.0 }),
            _ => Err(ApiFailure::Other("token request without a token in the answer".to_owned())),
        }
    }

    fn event(&self, pod: &Pod, field_path: &str, warning: bool, reason: &str, message: &str) {
        let mut reference = object_reference(pod);
        if !field_path.is_empty() {
            reference = with_field_path(reference, field_path);
        }
        let kind = if warning { EventType::Warning } else { EventType::Normal };
        self.events.event(&reference, kind, reason, message);
    }
}

/// Credentials for pulls of a pod's images.
pub async fn pull_secrets(api: &dyn PodApi, pod: &Pod) -> (Vec<Secret>, Vec<String>) {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for reference in pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten()) {
        match api.secret(namespace, &reference.name).await {
            Ok(secret) => found.push(secret),
            Err(_) => missing.push(reference.name.clone()),
        }
    }
    (found, missing)
}
