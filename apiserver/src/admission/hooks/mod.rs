//! Admission that the cluster's users configure: webhooks and policies.
//!
//! What is configured is read from the watch caches and made ready once per change. A request is put to mutating
//! policies and mutating webhooks, in up to two rounds, and then to validating policies and validating webhooks. Nobody
//! is asked about webhook configurations and policies themselves.

pub mod conditions;
pub mod matching;
pub mod policy;
pub mod request;
pub mod rounds;
#[cfg(test)]
mod tests;
pub mod variables;
pub mod webhook;

use std::sync::{Arc, OnceLock, Weak};

use balsa_api::meta::GroupVersionKind;
use balsa_api::status::{ApiError, ApiResult};
use parking_lot::Mutex;
use serde_json::Value;

use super::Review;
use crate::pipeline::graceful::DeleteOptions;
use crate::pipeline::subresources::scale;
use crate::pipeline::{Api, Target};
use crate::storage::faces;
use matching::{Hit, NamespaceLabels};
use policy::compiled::{MutatingPolicy, ValidatingPolicy};
use request::{Asked, is_exempt};
use rounds::Rounds;
use webhook::Webhook;
use webhook::client::Dial;

const GROUP: &str = "admissionregistration.k8s.io";
const RESOURCES: [&str; 6] = [
    "mutatingwebhookconfigurations",
    "validatingwebhookconfigurations",
    "mutatingadmissionpolicies",
    "mutatingadmissionpolicybindings",
    "validatingadmissionpolicies",
    "validatingadmissionpolicybindings",
];

/// Everything that is configured, ready to be asked.
#[derive(Debug, Default)]
struct Ready {
    mutating: Vec<Webhook>,
    validating: Vec<Webhook>,
    mutating_policies: Vec<MutatingPolicy>,
    validating_policies: Vec<ValidatingPolicy>,
}

/// Webhooks and policies of this apiserver.
#[derive(Default)]
pub struct Hooks {
    ready: Mutex<Option<(Vec<(u64, u64)>, Arc<Ready>)>>,
    dial: OnceLock<Weak<dyn Dial>>,
}

impl Hooks {
    /// From now on Services can be reached through `dial`.
    pub fn set_dial(&self, dial: Weak<dyn Dial>) {
        self.dial.set(dial).ok();
    }

    /// The way to Services.
    pub fn dial(&self) -> Option<Arc<dyn Dial>> {
        self.dial.get().and_then(Weak::upgrade)
    }

    fn ready(&self, api: &Api) -> Arc<Ready> {
        let caches = RESOURCES.map(|plural| api.caches.resource(GROUP, plural));
        let versions: Vec<(u64, u64)> = caches.iter().flatten().map(|cache| cache.version()).collect();
        let mut ready = self.ready.lock();
        if let Some((of, ready)) = ready.as_ref()
            && *of == versions
        {
            return ready.clone();
        }
        let [mutating, validating, policies, bindings, judging, judged] = caches.map(|cache| -> Vec<Value> {
            cache.map(|cache| cache.list("").iter().map(|object| object.value()).collect()).unwrap_or_default()
        });
        let made = Arc::new(Ready {
            mutating: mutating.iter().flat_map(Webhook::all_of).collect(),
            validating: validating.iter().flat_map(Webhook::all_of).collect(),
            mutating_policies: MutatingPolicy::all_of(&policies, &bindings),
            validating_policies: ValidatingPolicy::all_of(&judging, &judged),
        });
        *ready = Some((versions, made.clone()));
        made
    }
}

/// What is looked up once for a request.
pub struct Around {
    /// The labels of its namespace.
    pub labels: NamespaceLabels,
    /// The namespace.
    pub namespace: Option<Value>,
    /// Other names of its resource.
    pub equivalents: Vec<Hit>,
}

async fn look_around(api: &Api, review: &Review<'_>, asked: &Asked<'_>) -> ApiResult<Around> {
    let equivalents = matching::equivalents(review.target.kind, review.subresource, &api.kinds.all());
    if matching::labels_own_namespace(asked) {
        let labels = asked.object.as_ref().map(|object| Ok(matching::labels_of(object)));
        return Ok(Around { labels, namespace: None, equivalents });
    }
    if asked.namespace.is_empty() {
        return Ok(Around { labels: None, namespace: None, equivalents });
    }
    let Some(kind) = balsa_api::kinds::find("", "v1", "namespaces") else {
        return Ok(Around { labels: None, namespace: None, equivalents });
    };
    let target = Target { kind, namespace: "", name: &asked.namespace };
    let found = api.lookup(target).await?.map(|found| found.value);
    let labels = found.as_ref().map(matching::labels_of).ok_or_else(|| target.not_found());
    // A namespace has no namespace around it.
    let namespace = found.filter(|_| asked.resource.resource != "namespaces");
    Ok(Around { labels: Some(labels), namespace, equivalents })
}

/// Mutating policies and webhooks, one round.
pub async fn mutate(api: &Api, review: &Review<'_>, object: &mut Value, rounds: &mut Rounds) -> ApiResult<()> {
    let ready = api.hooks.ready(api);
    if (ready.mutating.is_empty() && ready.mutating_policies.is_empty()) || is_exempt(review.target.kind) {
        return Ok(());
    }
    let mut asked = Asked::write(review, object);
    mutate_asked(api, &ready, review, &mut asked, rounds).await?;
    match asked.object {
        // Of a scale only the number of replicas counts.
        Some(new) if review.subresource == "scale" => *object = scale::rescale(review.target, object, &new)?,
        Some(new) => *object = new,
        None => {}
    }
    Ok(())
}

async fn mutate_asked(
    api: &Api,
    ready: &Ready,
    review: &Review<'_>,
    asked: &mut Asked<'_>,
    rounds: &mut Rounds,
) -> ApiResult<()> {
    let around = look_around(api, review, asked).await?;
    policy::mutating::mutate(api, &ready.mutating_policies, review, asked, &around, rounds).await?;
    webhook::mutate(api, &ready.mutating, review, asked, &around, rounds).await
}

/// Validating policies and webhooks.
pub async fn validate(api: &Api, review: &Review<'_>, object: &Value) -> ApiResult<()> {
    let ready = api.hooks.ready(api);
    if (ready.validating.is_empty() && ready.validating_policies.is_empty()) || is_exempt(review.target.kind) {
        return Ok(());
    }
    validate_asked(api, &ready, review, &Asked::write(review, object)).await
}

async fn validate_asked(api: &Api, ready: &Ready, review: &Review<'_>, asked: &Asked<'_>) -> ApiResult<()> {
    let around = look_around(api, review, asked).await?;
    policy::validating::validate(api, &ready.validating_policies, asked, &around).await?;
    webhook::validate(api, &ready.validating, asked, &around).await
}

/// A deletion: everybody may refuse it, nobody can change anything.
pub async fn delete(api: &Api, review: &Review<'_>, old: &Value, options: &DeleteOptions) -> ApiResult<()> {
    external(api, review, || Asked::delete(review, old, options)).await.map(drop)
}

/// A post to a subresource that exchanges another type: the object as webhooks and policies leave it.
pub async fn post(api: &Api, review: &Review<'_>, object: Value) -> ApiResult<Value> {
    let after = external(api, review, || Asked::post(review, &object)).await?;
    Ok(after.unwrap_or(object))
}

/// A connection to what runs.
pub async fn connect(api: &Api, review: &Review<'_>, options: &Value) -> ApiResult<()> {
    external(api, review, || Asked::connect(review, options)).await.map(drop)
}

async fn external<'a>(
    api: &Api,
    review: &Review<'a>,
    asked: impl FnOnce() -> Asked<'a>,
) -> ApiResult<Option<Value>> {
    let ready = api.hooks.ready(api);
    let nobody = ready.mutating.is_empty()
        && ready.mutating_policies.is_empty()
        && ready.validating.is_empty()
        && ready.validating_policies.is_empty();
    if nobody || is_exempt(review.target.kind) {
        return Ok(None);
    }
    let mut asked = asked();
    mutate_asked(api, &ready, review, &mut asked, &mut Rounds::default()).await?;
    validate_asked(api, &ready, review, &asked).await?;
    Ok(asked.object)
}

/// The request with its objects as the rule that matched names them.
async fn convert<'a>(api: &Api, asked: &Asked<'a>, hit: &Hit) -> ApiResult<Asked<'a>> {
    let mut shown = asked.clone();
    if hit.kind != asked.kind {
        for object in shown.object.iter_mut().chain(&mut shown.old) {
            *object = converted(api, object.take(), &asked.kind, &hit.kind).await?;
        }
    }
    Ok(shown)
}

/// A changed object in the request's own kind.
async fn convert_back(api: &Api, object: Value, shown: &Asked<'_>, asked: &Asked<'_>) -> ApiResult<Value> {
    let before = shown.object.as_ref().map_or("", |object| crate::value::text(object, "/apiVersion"));
    let (group, version) = before.rsplit_once('/').unwrap_or(("", before));
    let from = GroupVersionKind::new(group, version, &asked.kind.kind);
    if before.is_empty() || from == asked.kind {
        return Ok(object);
    }
    converted(api, object, &from, &asked.kind).await
}

/// An object of one version as that of another.
async fn converted(api: &Api, object: Value, from: &GroupVersionKind, to: &GroupVersionKind) -> ApiResult<Value> {
    let find = |of: &GroupVersionKind| {
        let found = api.kinds.find_kind(&of.group, &of.version, &of.kind);
        found.ok_or_else(|| ApiError::internal(format!("unable to convert to {}: unknown kind", of.api_version())))
    };
    let (source, target) = (find(from)?, find(to)?);
    if let Some(custom) = target.custom() {
        let all = api.converter.convert(custom, vec![object], &to.api_version()).await?;
        return all.into_iter().next().ok_or_else(|| ApiError::internal("a conversion gave nothing back"));
    }
    let stored = faces::to_stored(&*source, &object).unwrap_or(object);
    let mut object = faces::from_stored(&*target, stored);
    crate::value::set_type(&mut object, &*target);
    Ok(object)
}

/// The refusal of a request for a reason of its own: `pods "x" is forbidden: DETAIL`.
fn forbidden(asked: &Asked<'_>, detail: &str) -> ApiError {
    ApiError::forbidden(&asked.resource, &asked.shown_name(), detail)
}
