//! Cluster IPs and node ports: which Service has which.
//!
//! The order is what makes it safe with several apiservers and with crashes at any point: first the claims (each one
//! key, created if absent), then the Service, and only after a Service is gone or changed are its claims removed. So
//! a value is never with two Services; what a crash in between leaves behind is a claim without a Service, which
//! [`repair`] removes after a while. Where it is unknown whether a Service was written, its claims stay.
//!
//! Nothing here routes to an address; that is for whoever watches Services.

pub mod claim;
pub mod order;
pub mod plan;
pub mod range;
pub mod repair;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use balsa_api::field::FieldError;
use balsa_api::status::{ApiError, ApiResult};
use serde_json::{Value, json};

use crate::pipeline::{Api, Call, Target, decode, store_error};
use crate::storage::{prefix_end, resource_prefix};
use crate::value;
use claim::{Claimed, Owner};
use plan::{Claim, Place, Wish};
use range::Network;

/// What was claimed for a write that is under way, and what the write gives up.
#[derive(Debug, Default)]
#[must_use = "claims have to be settled once the outcome of the write is known"]
pub struct Claims {
    owner: Owner,
    made: Vec<Claim>,
    leaving: Vec<Claim>,
}

/// What became of the write that claims were made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It happened.
    Written,
    /// It did not.
    Refused,
    /// Nobody knows: the store did not answer.
    Unknown,
}

impl Fate {
    /// Of a failed write.
    pub fn of_error(error: &ApiError) -> Self {
        if error.code == 504 { Self::Unknown } else { Self::Refused }
    }
}

fn is_service(target: Target<'_>) -> bool {
    let names = target.kind.names();
    names.group.is_empty() && names.plural == "services"
}

const ALLOCATED_PORT: &str = "provided port is already allocated";

/// Whether a network has a Ready condition and is not about to go. Pure.
fn is_ready(network: &Value) -> bool {
    let conditions = network.pointer("/status/conditions").and_then(Value::as_array);
    let ready = conditions.into_iter().flatten().any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
    ready && !value::is_deleting(network)
}

impl Api {
    /// Claims what a new or changed Service needs and writes it into the object. Other kinds need nothing.
    pub async fn allocate(&self, call: &Call, target: Target<'_>, new: &mut Value, old: Option<&Value>) -> ApiResult<Claims> {
        if !is_service(target) {
            return Ok(Claims::default());
        }
        let findings = plan::families(new, old);
        if !findings.is_empty() {
            return Err(ApiError::invalid(&target.kind.gvk(), target.name, &findings));
        }
        let wanted = plan::plan(new, old);
        let mut claims = Claims { owner: Owner::of(new), made: Vec::new(), leaving: wanted.leaving.clone() };
        match self.claim_all(call, target, new, &wanted, &mut claims).await {
            Ok(()) => Ok(claims),
            Err(error) => {
                self.settle(claims, Fate::Refused).await;
                Err(error)
            }
        }
    }

    /// Ends what [`Self::allocate`] began.
    pub async fn settle(&self, claims: Claims, fate: Fate) {
        let given_up = match fate {
            Fate::Written => claims.leaving,
            Fate::Refused => claims.made,
            Fate::Unknown => Vec::new(),
        };
        for claim in given_up {
            self.release(&claim, &claims.owner).await;
        }
    }

    /// Gives back everything of a Service that is gone from the store.
    pub async fn release_all(&self, target: Target<'_>, object: &Value) {
        if is_service(target) {
            let claims = Claims { owner: Owner::of(object), made: Vec::new(), leaving: plan::holdings(object) };
            self.settle(claims, Fate::Written).await;
        }
    }

    async fn claim_all(
        &self,
        call: &Call,
        target: Target<'_>,
        new: &mut Value,
        wanted: &plan::Plan,
        claims: &mut Claims,
    ) -> ApiResult<()> {
        if let Some(wish) = &wanted.address {
            let address = self.claim_address(call, target, wish, claims).await?;
            plan::set_address(new, &address);
        }
        if wanted.ports.is_empty() {
            return Ok(());
        }
        let mut used: BTreeSet<u16> = self.held_ports().await?.into_iter().filter_map(|held| match held.claim {
            Claim::Port(port) => Some(port),
            Claim::Address(_) => None,
        }).collect();
        // What is asked for comes first, lest it is given away to a port that takes any.
        let (asked, any): (Vec<_>, Vec<_>) = wanted.ports.iter().partition(|(_, wish)| *wish != Wish::Any);
        for (place, wish) in asked.into_iter().chain(any) {
            let port = self.claim_port(call, target, place, wish, &mut used, claims).await?;
            plan::set_port(new, place, port);
        }
        Ok(())
    }

    /// The networks that addresses may come from now.
    async fn networks(&self) -> ApiResult<Vec<Network>> {
        let kind = balsa_api::kinds::find("networking.k8s.io", "v1", "servicecidrs").ok_or_else(ApiError::no_such_path)?;
        let prefix = resource_prefix("networking.k8s.io", "servicecidrs");
        let page = self.store.range(&prefix, &prefix_end(&prefix), 0, 0).await.map_err(|error| store_error(error, false))?;
        let mut networks = Vec::new();
        for entry in &page.entries {
            let object = decode(kind, entry)?.value;
            if is_ready(&object) {
                networks.extend(value::strings(&object, "/spec/cidrs").iter().filter_map(|text| Network::parse(text)));
            }
        }
        Ok(networks)
    }

    /// Addresses that this apiserver has heard of as taken, to try others first.
    fn known_addresses(&self) -> ApiResult<BTreeSet<String>> {
        let services = balsa_api::kinds::find("", "v1", "services").ok_or_else(ApiError::no_such_path)?;
        let mut known: BTreeSet<String> =
            self.cache(claim::address_kind()?)?.list("").iter().map(|object| object.name.clone()).collect();
        let of_services = self.cache(services)?.list("");
        known.extend(of_services.iter().map(|object| object.field(services, "spec.clusterIP").to_owned()));
        Ok(known)
    }

    async fn claim_address(&self, call: &Call, target: Target<'_>, wish: &Wish<String>, claims: &mut Claims) -> ApiResult<String> {
        let networks = self.networks().await?;
        let known = self.known_addresses()?;
        match wish {
            Wish::This(address) => {
                let refused = |reason: String| {
                    let detail = format!("failed to allocate IP {address}: {reason}");
                    let finding = FieldError::invalid("spec.clusterIPs", json!([address]), &detail);
                    ApiError::invalid(&target.kind.gvk(), target.name, &[finding])
                };
                fits(address, &networks).map_err(&refused)?;
                let taken = || refused("provided IP is already allocated".to_owned());
                if known.contains(address) && self.is_held(address, claims).await? {
                    return Err(taken());
                }
                self.take(call, Claim::Address(address.clone()), claims).await?.then(|| address.clone()).ok_or_else(taken)
            }
            Wish::Any => {
                for network in &networks {
                    for address in network.candidates(rand::random()).map(|address| address.to_string()) {
                        if !known.contains(&address) && self.take(call, Claim::Address(address.clone()), claims).await? {
                            return Ok(address);
                        }
                    }
                }
                let text = format!("failed to allocate a serviceIP for Service {:?}: range is full", target.name);
                Err(ApiError::internal(text))
            }
        }
    }

    /// Whether an address that is known as taken really is: the cache may be late with a release.
    async fn is_held(&self, address: &str, claims: &Claims) -> ApiResult<bool> {
        if self.held(&Claim::Address(address.to_owned())).await?.is_some() {
            return Ok(true);
        }
        // No claim, but perhaps a Service from before there were claims.
        let services = balsa_api::kinds::find("", "v1", "services").ok_or_else(ApiError::no_such_path)?;
        for object in self.cache(services)?.list("") {
            let holder = Owner { namespace: object.namespace.clone(), name: object.name.clone(), uid: String::new() };
            if object.field(services, "spec.clusterIP") == address && !holder.is(&claims.owner) {
                let live = self.service(&holder).await?;
                if live.is_some_and(|service| plan::holdings(&service).contains(&Claim::Address(address.to_owned()))) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    async fn claim_port(
        &self,
        call: &Call,
        target: Target<'_>,
        place: &Place,
        wish: &Wish<i64>,
        used: &mut BTreeSet<u16>,
        claims: &mut Claims,
    ) -> ApiResult<u16> {
        match wish {
            Wish::This(number) => {
                let refused = |reason: String| port_refusal(target, place, *number, &reason);
                let range = self.settings.node_ports;
                let outside = || {
                    refused(format!("provided port is not in the valid range. The range of valid ports is {range}"))
                };
                let port = u16::try_from(*number).ok().filter(|port| range.contains(*port)).ok_or_else(outside)?;
                let free = used.insert(port) && self.take(call, Claim::Port(port), claims).await?;
                if free { Ok(port) } else { Err(refused(ALLOCATED_PORT.to_owned())) }
            }
            Wish::Any => {
                for port in self.settings.node_ports.candidates(rand::random()) {
                    if used.insert(port) && self.take(call, Claim::Port(port), claims).await? {
                        return Ok(port);
                    }
                }
                Err(ApiError::internal("failed to allocate a nodePort: range is full"))
            }
        }
    }

    /// Claims one value. A dry run takes it for granted if nobody has it. False: it is taken.
    async fn take(&self, call: &Call, claim: Claim, claims: &mut Claims) -> ApiResult<bool> {
        if call.dry_run {
            return Ok(self.held(&claim).await?.is_none());
        }
        let claimed = self.claim(&claim, &claims.owner, call.now).await? == Claimed::Yes;
        if claimed {
            claims.made.push(claim);
        }
        Ok(claimed)
    }
}

/// Whether an address that was asked for may be had from these networks. Pure.
fn fits(address: &str, networks: &[Network]) -> Result<(), String> {
    let parsed: Ipv4Addr = address.parse().map_err(|_| "the provided network does not match the current range".to_owned())?;
    let Some(network) = networks.iter().find(|network| network.contains(parsed)) else {
        return Err("the provided network does not match the current range".to_owned());
    };
    if networks.iter().any(|network| network.is_usable(parsed)) {
        return Ok(());
    }
    Err(format!("the provided IP ({address}) is not in the valid range. The range of valid IPs is {}", network.text))
}

/// Pure.
fn port_refusal(target: Target<'_>, place: &Place, number: i64, reason: &str) -> ApiError {
    match place {
        Place::Health => ApiError::internal(format!("failed to allocate requested HealthCheck NodePort {number}: {reason}")),
        Place::Ports(indices) => {
            let field = format!("spec.ports[{}].nodePort", indices.first().copied().unwrap_or_default());
            ApiError::invalid(&target.kind.gvk(), target.name, &[FieldError::invalid(field, number, reason)])
        }
    }
}
