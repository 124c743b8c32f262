//! Puts claims and Services in order again: claims whose Service is gone go, Services without their claim get it, and
//! the networks that addresses come from get their finalizer and their Ready condition.
//!
//! Every apiserver does it, without a leader: each step is one guarded write, and whoever comes second finds it done.
//! What is to be done is [`super::order`]'s word; here it is looked and carried out.

use std::sync::Arc;
use std::time::Duration;

use balsa_api::status::{ApiError, ApiResult};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::claim::{Claimed, Owner};
pub use super::order::DEFAULT_NETWORK;
use super::order::{FINALIZER, NetworkStep, Step, network_step, plan};
use super::plan::{Claim, holdings};
use crate::pipeline::update::Write;
use crate::pipeline::{Api, Call, Target};
use crate::value;

/// How often it is looked whether anything changed.
const LOOK: Duration = Duration::from_secs(5);
/// How often everything is compared even if nothing changed.
const FULL: Duration = Duration::from_secs(60);

/// Repairs until `stop`.
pub async fn run(api: Arc<Api>, stop: CancellationToken) {
    // Not all apiservers at the same moment.
    let jitter = Duration::from_millis(u64::from(rand::random::<u16>()) % 2000);
    tokio::time::sleep(jitter).await;
    let (mut seen, mut last) = (Vec::new(), None::<Instant>);
    while !stop.is_cancelled() {
        let versions = versions(&api);
        if api.caches.is_loaded() && (versions != seen || last.is_none_or(|last| last.elapsed() >= FULL)) {
            match once(&api, Timestamp::now()).await {
                Ok(settled) => {
                    (seen, last) = (if settled { versions } else { Vec::new() }, Some(Instant::now()));
                }
                Err(error) => tracing::warn!(%error, "cannot repair the claims of Services"),
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

fn kind(group: &str, plural: &str) -> ApiResult<&'static dyn balsa_api::kind::Kind> {
    balsa_api::kinds::find(group, "v1", plural).ok_or_else(ApiError::no_such_path)
}

fn versions(api: &Api) -> Vec<(u64, u64)> {
    [("", "services"), ("networking.k8s.io", "ipaddresses"), ("networking.k8s.io", "servicecidrs")]
        .iter()
        .filter_map(|(group, plural)| api.caches.resource(group, plural))
        .map(|cache| cache.version())
        .collect()
}

fn cached(api: &Api, group: &str, plural: &str) -> ApiResult<Vec<Value>> {
    Ok(api.cache(kind(group, plural)?)?.list("").iter().map(|object| object.value()).collect())
}

/// One round. False: something waits for its time.
pub(super) async fn once(api: &Api, now: Timestamp) -> ApiResult<bool> {
    let mut held = api.held_addresses().await?;
    held.extend(api.held_ports().await?);
    // Read after the claims: a claim is older than its Service.
    let services = cached(api, "", "services")?;
    for step in plan(&services, &held, now) {
        carry_out(api, &step, now).await?;
    }
    let networks = cached(api, "networking.k8s.io", "servicecidrs")?;
    let addresses: Vec<&str> = held.iter().filter_map(|held| match &held.claim {
        Claim::Address(address) => Some(address.as_str()),
        Claim::Port(_) => None,
    }).collect();
    let mut settled = true;
    for network in &networks {
        settled &= !value::is_deleting(network);
        keep_network(api, network, network_step(network, &networks, &addresses, now), now).await?;
    }
    Ok(settled)
}

async fn carry_out(api: &Api, step: &Step, now: Timestamp) -> ApiResult<()> {
    match step {
        Step::Claim(claim, owner) => {
            let live = api.service(owner).await?;
            if live.is_some_and(|service| Owner::of(&service).is(owner) && holdings(&service).contains(claim))
                && api.claim(claim, owner, now).await? == Claimed::Yes
            {
                tracing::warn!(%claim, namespace = owner.namespace, service = owner.name, "was not claimed; repaired");
            }
        }
        Step::Release(held) => {
            let Some(owner) = &held.owner else { return Ok(()) };
            let live = api.service(owner).await?;
            let needed = live.is_some_and(|service| owner.is(&Owner::of(&service)) && holdings(&service).contains(&held.claim));
            if !needed && api.drop_claim(held).await? {
                tracing::warn!(claim = %held.claim, namespace = owner.namespace, service = owner.name, "was left behind; released");
            }
        }
        Step::Report(claim, owner, holder) => {
            tracing::error!(
                %claim, namespace = owner.namespace, service = owner.name,
                holder = format!("{}/{}", holder.namespace, holder.name),
                "is held by somebody else as well; delete one of the two and create it anew"
            );
        }
    }
    Ok(())
}

async fn keep_network(api: &Api, network: &Value, step: NetworkStep, now: Timestamp) -> ApiResult<()> {
    let change = |old: &Value| {
        let mut new = old.clone();
        let mut finalizers = value::finalizers(old);
        match &step {
            NetworkStep::Nothing => {}
            NetworkStep::Protect if finalizers.iter().any(|name| name == FINALIZER) => {}
            NetworkStep::Protect => {
                finalizers.push(FINALIZER.to_owned());
                value::set_finalizers(&mut new, &finalizers);
            }
            NetworkStep::Let => {
                finalizers.retain(|name| name != FINALIZER);
                value::set_finalizers(&mut new, &finalizers);
            }
            NetworkStep::Condition(status, reason, message) => {
                let condition = json!({"type": "Ready", "status": status, "reason": reason, "message": message});
                value::set_condition(&mut new, condition, now);
            }
        }
        Ok(new)
    };
    if step == NetworkStep::Nothing {
        return Ok(());
    }
    let target = Target { kind: kind("networking.k8s.io", "servicecidrs")?, namespace: "", name: value::name(network) };
    let write = Write { target, part: balsa_api::kind::Part::Main, by_rules: false };
    match api.modify(&Call::internal("the life of a ServiceCIDR"), write, &change).await {
        Err(error) if error.is_not_found() => Ok(()),
        outcome => outcome.map(drop),
    }
}

/// Makes the network of the flags usable at once, without waiting for the loop.
pub async fn ready_default(api: &Api, now: Timestamp) -> ApiResult<()> {
    let kind = kind("networking.k8s.io", "servicecidrs")?;
    let target = Target { kind, namespace: "", name: DEFAULT_NETWORK };
    for _ in 0..2 {
        let Some(found) = api.fetch(target).await? else { return Err(target.not_found()) };
        keep_network(api, &found.value, network_step(&found.value, &[], &[], now), now).await?;
    }
    Ok(())
}
