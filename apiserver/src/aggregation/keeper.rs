//! Keeps APIServices true: makes those of what this server serves, asks servers in the cluster whether they answer and
//! what they serve, and writes what it found.
//!
//! Every apiserver does it, without a leader: each write is guarded, and whoever comes second finds nothing to write.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use balsa_api::kind::Part;
use balsa_api::status::{ApiError, ApiResult};
use balsa_process::identity::Actor;
use futures::StreamExt as _;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::condition::{self, Seen};
use super::local::{self, Step};
use super::{Remote, forward, merge, trust};
use crate::authn::Caller;
use crate::pipeline::graceful::DeleteOptions;
use crate::pipeline::update::Write;
use crate::pipeline::{Call, Target};
use crate::rest::Rest;
use crate::value;

/// How often it is looked whether anything changed.
const LOOK: Duration = Duration::from_millis(500);
/// How soon a server that did not answer is asked again.
const RETRY: Duration = Duration::from_secs(3);
/// How often every server is asked.
const FULL: Duration = Duration::from_secs(30);
/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Servers that are asked at a time.
const AT_ONCE: usize = 8;
/// Largest discovery document taken.
const MAX_DOCUMENT: usize = 8 << 20;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

/// Keeps until `stop`.
pub async fn run(rest: Arc<Rest>, stop: CancellationToken) {
    let (mut seen, mut last, mut settled) = (Vec::new(), None::<Instant>, true);
    while !stop.is_cancelled() {
        let versions = versions(&rest);
        let patience = if settled { FULL } else { RETRY };
        if rest.api.authorizer.is_complete() && (versions != seen || last.is_none_or(|last| last.elapsed() >= patience)) {
            match once(&rest).await {
                Ok(all) => (settled, seen) = (all, versions),
                Err(error) => {
                    tracing::warn!(%error, "cannot keep the APIServices");
                    settled = false;
                }
            }
            last = Some(Instant::now());
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// What decides about APIServices, as versions of the caches. Slices of other Services count only where servers exist.
fn versions(rest: &Rest) -> Vec<(u64, u64)> {
    let always = [("apiregistration.k8s.io", "apiservices"), ("apiextensions.k8s.io", "customresourcedefinitions")];
    let with_servers = [("", "services"), ("discovery.k8s.io", "endpointslices")];
    let more = if rest.api_services().remotes.is_empty() { 0 } else { with_servers.len() };
    let all = always.iter().chain(with_servers.iter().take(more));
    all.filter_map(|(group, plural)| rest.api.caches.resource(group, plural)).map(|cache| cache.version()).collect()
}

fn kind() -> ApiResult<&'static dyn balsa_api::kind::Kind> {
    balsa_api::kinds::find("apiregistration.k8s.io", "v1", "apiservices").ok_or_else(ApiError::no_such_path)
}

/// One round. False: a server is not available, so look again soon.
pub(super) async fn once(rest: &Rest) -> ApiResult<bool> {
    keep_local(rest).await?;
    keep_trust(rest).await?;
    let table = rest.api_services();
    let remotes: Vec<Arc<Remote>> = table.remotes.values().cloned().collect();
    let checks: Vec<_> = remotes.into_iter().map(|remote| keep_remote(rest, remote)).collect();
    let outcomes: Vec<ApiResult<bool>> = futures::stream::iter(checks).buffer_unordered(AT_ONCE).collect().await;
    let known: BTreeSet<String> = table.remotes.values().map(|remote| remote.name.clone()).collect();
    rest.aggregation.discovered.lock().retain(|name, _| known.contains(name));
    let mut settled = true;
    for outcome in outcomes {
        settled &= outcome?;
    }
    Ok(settled)
}

async fn keep_local(rest: &Rest) -> ApiResult<()> {
    let built_in = balsa_api::kinds::all().iter().map(|kind| (kind.names().group, kind.names().version)).collect();
    let definitions = rest.api.caches.resource("apiextensions.k8s.io", "customresourcedefinitions");
    let definitions: Vec<Value> = definitions.map(|cache| cache.list("").iter().map(|object| object.value()).collect()).unwrap_or_default();
    let (kind, call) = (kind()?, Call::internal("aggregation"));
    for step in local::plan(&built_in, &definitions, &rest.api_services().objects) {
        let done = match step {
            Step::Create(object) => rest.api.create(&call, kind, "", object.into()).await.map(drop),
            Step::Delete(name) => {
                let target = Target { kind, namespace: "", name: &name };
                rest.api.delete(&call, target, &DeleteOptions::default()).await.map(drop)
            }
        };
        match done {
            // Another apiserver was faster.
            Err(error) if error.is_already_exists() || error.is_not_found() => {}
            other => other?,
        }
    }
    Ok(())
}

/// The ConfigMap in which servers in the cluster read whom to believe.
async fn keep_trust(rest: &Rest) -> ApiResult<()> {
    let Some(identity) = rest.aggregation.identity() else { return Ok(()) };
    let ours = Actor::from_certificate(identity.certificate()).map_err(ApiError::internal)?;
    let wanted = trust::config_map(&String::from_utf8_lossy(identity.ca_pem()), &ours.user);
    let kind = balsa_api::kinds::find("", "v1", "configmaps").ok_or_else(ApiError::no_such_path)?;
    let target = Target { kind, namespace: trust::NAMESPACE, name: trust::NAME };
    let call = Call::internal("aggregation");
    let done = match rest.api.lookup(target).await? {
        None => rest.api.create(&call, kind, trust::NAMESPACE, wanted.into()).await,
        Some(found) if found.value["data"] != wanted["data"] => {
            let change = |object: &Value| {
                let mut object = object.clone();
                object["data"] = wanted["data"].clone();
                Ok(object)
            };
            rest.api.modify(&call, Write { target, part: Part::Main, by_rules: false }, &change).await
        }
        Some(_) => return Ok(()),
    };
    match done {
        Err(error) if error.is_already_exists() || error.is_not_found() => Ok(()),
        other => other.map(drop),
    }
}

async fn keep_remote(rest: &Rest, remote: Arc<Remote>) -> ApiResult<bool> {
    let condition = look(rest, &remote).await?;
    let available = condition["status"] == "True";
    let kind = kind()?;
    let target = Target { kind, namespace: "", name: &remote.name };
    let Some(found) = rest.api.lookup(target).await? else { return Ok(true) };
    if condition::differs(&found.value, &condition) {
        let call = Call::internal("aggregation");
        let change = |object: &Value| {
            let mut object = object.clone();
            value::set_condition(&mut object, condition.clone(), call.now);
            Ok(object)
        };
        match rest.api.modify(&call, Write { target, part: Part::Status, by_rules: false }, &change).await {
            Err(error) if error.is_not_found() => return Ok(true),
            other => drop(other?),
        }
    }
    if available {
        match discover(rest, &remote).await {
            Ok(entry) => drop(rest.aggregation.discovered.lock().insert(remote.name.clone(), entry)),
            Err(why) => tracing::info!(service = remote.name, why, "a server does not say what it serves"),
        }
    }
    Ok(available)
}

/// The condition that the server deserves.
async fn look(rest: &Rest, remote: &Remote) -> ApiResult<Value> {
    let services = balsa_api::kinds::find("", "v1", "services").ok_or_else(ApiError::no_such_path)?;
    let target = Target { kind: services, namespace: &remote.namespace, name: &remote.service };
    let service = rest.api.lookup(target).await?.map(|found| found.value);
    let slices = rest.slices_of(&remote.namespace, &remote.service)?;
    if let Some(refusal) = condition::refusal(remote, &Seen { service: service.as_ref(), slices: &slices }) {
        return Ok(refusal);
    }
    let url = format!("https://{}:{}{}", remote.host(), remote.port, remote.path());
    let answer = get(rest, remote, &remote.path(), "application/json").await.map(|(status, _)| status.as_u16());
    Ok(condition::answered(&url, &answer))
}

async fn discover(rest: &Rest, remote: &Remote) -> Result<Value, String> {
    let parsed = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).map_err(|error| error.to_string());
    let (status, body) = get(rest, remote, "/apis", AGGREGATED).await?;
    if status == StatusCode::OK
        && let Some(entry) = merge::entry_of(&parsed(&body)?, &remote.group, &remote.version)
    {
        return Ok(entry);
    }
    let (status, body) = get(rest, remote, &remote.path(), "application/json").await?;
    if status != StatusCode::OK {
        return Err(format!("{} answers with {status}", remote.path()));
    }
    Ok(merge::entry_from(&parsed(&body)?, &remote.group, &remote.version))
}

/// A question of our own to the server.
async fn get(rest: &Rest, remote: &Remote, path: &str, accept: &'static str) -> Result<(StatusCode, bytes::Bytes), String> {
    let mut request = Request::get(path).body(Body::empty()).map_err(|error| error.to_string())?;
    let headers = request.headers_mut();
    headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
    let host = HeaderValue::from_str(&format!("{}:{}", remote.host(), remote.port)).map_err(|error| error.to_string())?;
    headers.insert(header::HOST, host);
    let us = Caller { user: "system:kube-aggregator".into(), groups: vec!["system:masters".into()], ..Caller::default() };
    forward::identify(headers, &us);
    let asked = async {
        let response = rest.ask(remote, request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_DOCUMENT).collect().await.map_err(|error| error.to_string())?;
        Ok((status, body.to_bytes()))
    };
    tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err("context deadline exceeded".to_owned()))
}
