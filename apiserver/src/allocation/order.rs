//! What of claims, Services and networks is out of order, and what puts it in order again. Pure.

use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::claim::{Held, Owner};
use super::plan::{Claim, holdings};
use super::range::Network;
use crate::value;

/// How old a claim must be before it counts as left behind: longer than any request may take.
const GRACE_SECONDS: i64 = 120;
/// How long a network stays after its deletion was asked for and nothing needs it, so that every apiserver has heard.
const NETWORK_GRACE_SECONDS: i64 = 10;

/// Keeps a network while addresses of it are in use.
pub const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// The network of the flags.
pub const DEFAULT_NETWORK: &str = "kubernetes";

/// One step of a repair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nobody needs this claim.
    Release(Held),
    /// This Service has a value without a claim.
    Claim(Claim, Owner),
    /// Two Services have one value: only a person can say which is to keep it.
    Report(Claim, Owner, Owner),
}

/// What is out of order. Pure.
pub fn plan(services: &[Value], held: &[Held], now: Timestamp) -> Vec<Step> {
    let needs: Vec<(Owner, Vec<Claim>)> =
        services.iter().map(|service| (Owner::of(service), holdings(service))).filter(|(_, claims)| !claims.is_empty()).collect();
    let mut steps = Vec::new();
    for (owner, claims) in &needs {
        for claim in claims {
            match held.iter().find(|held| held.claim == *claim) {
                None => steps.push(Step::Claim(claim.clone(), owner.clone())),
                Some(Held { owner: Some(holder), .. }) if holder.is(owner) => {}
                Some(Held { owner: Some(holder), .. }) => {
                    let holds = needs.iter().any(|(other, claims)| holder.is(other) && claims.contains(claim));
                    if holds {
                        steps.push(Step::Report(claim.clone(), owner.clone(), holder.clone()));
                    }
                }
                Some(Held { owner: None, .. }) => steps.push(Step::Report(claim.clone(), owner.clone(), Owner::default())),
            }
        }
    }
    for held in held {
        let Some(owner) = &held.owner else { continue };
        let needed = needs.iter().any(|(service, claims)| owner.is(service) && claims.contains(&held.claim));
        if !needed && now.as_second() - held.since.as_second() > GRACE_SECONDS {
            steps.push(Step::Release(held.clone()));
        }
    }
    steps
}

/// What a network needs next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkStep {
    /// Nothing.
    Nothing,
    /// The finalizer that keeps it while addresses of it are in use.
    Protect,
    /// A Ready condition: status, reason, message.
    Condition(&'static str, &'static str, &'static str),
    /// The finalizer may go.
    Let,
}

/// Pure. `networks` are all of them, `addresses` those that are in use.
pub fn network_step(network: &Value, networks: &[Value], addresses: &[&str], now: Timestamp) -> NetworkStep {
    let protected = value::finalizers(network).iter().any(|name| name == FINALIZER);
    let ready = |status: &'static str, reason: &'static str, message: &'static str| {
        let conditions = network.pointer("/status/conditions").and_then(Value::as_array);
        let same = conditions.into_iter().flatten().any(|condition| {
            condition["type"] == "Ready" && condition["status"] == status && condition["reason"].as_str().unwrap_or_default() == reason
        });
        if same { NetworkStep::Nothing } else { NetworkStep::Condition(status, reason, message) }
    };
    if !value::is_deleting(network) {
        if !protected {
            return NetworkStep::Protect;
        }
        return match value::name(network) {
            DEFAULT_NETWORK => ready("True", "", "Kubernetes default Service CIDR is ready"),
            _ => ready("True", "", "Kubernetes Service CIDR is ready"),
        };
    }
    if !protected {
        return NetworkStep::Nothing;
    }
    let parsed = |object: &Value| -> Vec<Network> {
        value::strings(object, "/spec/cidrs").iter().filter_map(|text| Network::parse(text)).collect()
    };
    let (own, others): (Vec<Network>, Vec<Network>) = (
        parsed(network),
        networks.iter().filter(|other| value::name(other) != value::name(network)).flat_map(parsed).collect(),
    );
    let orphaned = addresses.iter().filter_map(|text| text.parse().ok()).any(|address| {
        own.iter().any(|network| network.contains(address)) && !others.iter().any(|network| network.contains(address))
    });
    if orphaned {
        let message = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
        return ready("False", "Terminating", message);
    }
    let asked: Timestamp = value::text(network, "/metadata/deletionTimestamp").parse().unwrap_or(Timestamp::UNIX_EPOCH);
    if now.as_second() - asked.as_second() < NETWORK_GRACE_SECONDS { NetworkStep::Nothing } else { NetworkStep::Let }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn service(name: &str, uid: &str, address: &str, port: u16) -> Value {
        json!({"metadata": {"namespace": "n", "name": name, "uid": uid}, "spec": {"type": "NodePort", "clusterIP": address,
            "clusterIPs": [address], "ports": [{"port": 80, "nodePort": port}]}})
    }

    fn held(claim: Claim, name: &str, uid: &str) -> Held {
        let owner = Owner { namespace: "n".into(), name: name.into(), uid: uid.into() };
        Held { claim, owner: Some(owner), since: at(0), revision: 5 }
    }

    #[test]
    fn claims_and_services_are_compared_both_ways() {
        let services = [service("a", "1", "10.0.0.5", 30005), service("b", "2", "10.0.0.6", 30006)];
        let address = |text: &str| Claim::Address(text.into());
        let fine = [
            held(address("10.0.0.5"), "a", "1"),
            held(Claim::Port(30005), "a", "1"),
            held(address("10.0.0.6"), "b", ""),
            held(Claim::Port(30006), "b", "2"),
        ];
        assert_eq!(plan(&services, &fine, at(9999)), []);
        let owner = |name: &str, uid: &str| Owner { namespace: "n".into(), name: name.into(), uid: uid.into() };
        assert_eq!(plan(&services, &fine[..3], at(9999)), [Step::Claim(Claim::Port(30006), owner("b", "2"))]);
        // The Service of that name is another one by now: its predecessor's claim goes, after a while.
        let left = held(Claim::Port(30007), "a", "0");
        let mut all = fine.to_vec();
        all.push(left.clone());
        assert_eq!(plan(&services, &all, at(GRACE_SECONDS)), []);
        assert_eq!(plan(&services, &all, at(GRACE_SECONDS + 1)), [Step::Release(left)]);
        // An object that somebody made for another purpose is not ours to remove.
        let foreign = Held { owner: None, ..held(address("10.0.0.9"), "x", "x") };
        assert_eq!(plan(&[], &[foreign], at(9999)), []);
        let twice = [service("a", "1", "10.0.0.5", 30005), service("c", "3", "10.0.0.5", 30008)];
        let claims = [fine[0].clone(), fine[1].clone(), held(Claim::Port(30008), "c", "3")];
        assert_eq!(plan(&twice, &claims, at(9999)), [Step::Report(address("10.0.0.5"), owner("c", "3"), owner("a", "1"))]);
    }

    #[test]
    fn a_network_goes_when_nothing_needs_it() {
        let mut network = json!({"metadata": {"name": "n"}, "spec": {"cidrs": ["10.1.0.0/24"]}});
        assert_eq!(network_step(&network, &[], &[], at(0)), NetworkStep::Protect);
        network["metadata"]["finalizers"] = json!([FINALIZER]);
        let NetworkStep::Condition("True", "", _) = network_step(&network, &[], &[], at(0)) else { panic!("ready") };
        network["status"] = json!({"conditions": [{"type": "Ready", "status": "True"}]});
        assert_eq!(network_step(&network, &[], &[], at(0)), NetworkStep::Nothing);
        network["metadata"]["deletionTimestamp"] = at(0).to_string().into();
        let NetworkStep::Condition("False", "Terminating", _) = network_step(&network, &[], &["10.1.0.9"], at(60)) else {
            panic!("in use")
        };
        assert_eq!(network_step(&network, &[], &["10.2.0.9"], at(9)), NetworkStep::Nothing);
        assert_eq!(network_step(&network, &[], &["10.2.0.9"], at(10)), NetworkStep::Let);
        let wider = json!({"metadata": {"name": "w"}, "spec": {"cidrs": ["10.1.0.0/16"]}});
        assert_eq!(network_step(&network, &[wider], &["10.1.0.9"], at(10)), NetworkStep::Let);
    }
}
