//! Services as maps and chains. Pure: (services, slices, this node) → [`Plan`].
//!
//! Names of chains say whose they are (`cluster/NAMESPACE/NAME/tcp/80`), so that `nft list ruleset` can be read. The
//! rules are those of kube-proxy's nftables mode.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::backends::{self, Backend, Choice, Protocol, Target, Uses};
use crate::network::cidr::Cidr;

/// The label that ties a slice to its Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Services with this label are somebody else's to route.
const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";

/// Bit of the packet mark that asks for a source address of the node's. The kube-proxy's.
pub const MASQUERADE: u32 = 0x4000;
/// The chain that refuses.
pub const REFUSE: &str = "refuse";
/// The chain that marks for masquerading.
pub const MARK: &str = "mark-for-masquerade";

/// An address, protocol and port on which a Service is reached.
pub type Front = (Ipv4Addr, Protocol, u16);

/// What happens to what leads nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Connection refused: nothing answers anywhere.
    Refuse,
    /// Silence: others would answer, but the policy `Local` does not let us ask them.
    Drop,
}

/// What is known of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its zone; empty where it has none.
    pub zone: &'a str,
    /// Addresses of all pods: what comes from elsewhere is from outside.
    pub cluster_cidr: Cidr,
    /// Addresses that the node answers itself; Services that have them are not routed.
    pub own: &'a [Ipv4Addr],
}

/// Everything that the table says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// All cluster IPs: a port of theirs that no Service has is refused.
    pub cluster_ips: BTreeSet<Ipv4Addr>,
    /// Which chain a destination goes to.
    pub fronts: BTreeMap<Front, String>,
    /// Which chain a port of the node goes to.
    pub node_ports: BTreeMap<(Protocol, u16), String>,
    /// Destinations without endpoints.
    pub refused: BTreeMap<Front, Verdict>,
    /// Ports of the node without endpoints.
    pub refused_node_ports: BTreeMap<(Protocol, u16), Verdict>,
    /// Destinations that only some sources may use.
    pub guarded: BTreeMap<Front, String>,
    /// Endpoints that are pods of this node: what they send to themselves needs another source.
    pub hairpins: BTreeSet<(Ipv4Addr, Protocol, u16)>,
    /// Rules by chain.
    pub chains: BTreeMap<String, Vec<String>>,
    /// Sets of clients that stay with an endpoint: seconds by name.
    pub affinity: BTreeMap<String, u32>,
    /// Serving endpoints of UDP fronts.
    pub udp: BTreeMap<Target, BTreeSet<Target>>,
    /// Serving endpoints of UDP node ports.
    pub udp_node_ports: BTreeMap<u16, BTreeSet<Target>>,
}

/// Plans the table.
pub fn plan<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    node: Node<'_>,
) -> Plan {
    let mut by_service: BTreeMap<(&str, &str), Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in slices {
        let labels = slice.metadata.labels.as_ref();
        if let (Some(namespace), Some(name)) =
            (slice.metadata.namespace.as_deref(), labels.and_then(|labels| labels.get(SERVICE_NAME)))
        {
            by_service.entry((namespace, name.as_str())).or_default().push(slice);
        }
    }
    let mut plan = Plan::default();
    // Two Services may claim one external address; that the later by name has it does not depend on the order here.
    let mut services: Vec<&Service> = services.into_iter().collect();
    services.sort_by_key(|service| (&service.metadata.namespace, &service.metadata.name));
    for service in services {
        let Some(routed) = routed(service, node) else { continue };
        let slices = by_service.get(&(routed.namespace, routed.name)).map_or(&[][..], Vec::as_slice);
        for port in service.spec.iter().flat_map(|spec| spec.ports.iter().flatten()) {
            if let Some(port) = service_port(&routed, port, slices, node) {
                port.write(&mut plan);
            }
        }
    }
    plan
}

/// A Service with an address of its own.
struct Routed<'a> {
    namespace: &'a str,
    name: &'a str,
    cluster_ip: Ipv4Addr,
    external_ips: Vec<Ipv4Addr>,
    balancer_ips: Vec<Ipv4Addr>,
    sources: Vec<Cidr>,
    internal_local: bool,
    external_local: bool,
    external: bool,
    affinity: Option<u32>,
}

fn routed<'a>(service: &'a Service, node: Node<'_>) -> Option<Routed<'a>> {
    let spec = service.spec.as_ref()?;
    let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
    let elsewhere = service.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(OTHER_PROXY));
    if kind == "ExternalName" || elsewhere {
        return None;
    }
    let cluster_ip: Ipv4Addr = spec.cluster_ip.as_deref()?.parse().ok()?;
    if node.own.contains(&cluster_ip) {
        return None;
    }
    let (namespace, name) = (service.metadata.namespace.as_deref()?, service.metadata.name.as_deref()?);
    // They become names in nft's language.
    let clean = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.');
    if !clean(namespace) || !clean(name) || namespace.len() + name.len() > 180 {
        return None;
    }
    let parse = |ips: &Option<Vec<String>>| ips.iter().flatten().filter_map(|ip| ip.parse().ok()).collect::<Vec<_>>();
    let ingress = service.status.iter().filter_map(|status| status.load_balancer.as_ref()).flat_map(|one| one.ingress.iter().flatten());
    // A balancer in mode Proxy sends to node ports; its address is not ours to take.
    let vips = ingress.filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"));
    let balancer_ips: Vec<Ipv4Addr> = match kind {
        "LoadBalancer" => vips.filter_map(|ingress| ingress.ip.as_deref()?.parse().ok()).collect(),
        _ => Vec::new(),
    };
    let external_ips = parse(&spec.external_ips);
    let external = kind == "NodePort" || kind == "LoadBalancer" || !external_ips.is_empty();
    let client = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds = client.and_then(|client| u32::try_from(client.timeout_seconds?).ok()).filter(|seconds| *seconds > 0);
    Some(Routed {
        namespace,
        name,
        cluster_ip,
        external_ips,
        balancer_ips,
        sources: spec.load_balancer_source_ranges.iter().flatten().filter_map(|text| text.trim().parse().ok()).collect(),
        internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        external_local: external && spec.external_traffic_policy.as_deref() == Some("Local"),
        external,
        affinity: (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| seconds.unwrap_or(10_800)),
    })
}

/// One port of a Service on this node.
struct Port<'a> {
    service: &'a Routed<'a>,
    protocol: Protocol,
    port: u16,
    node_port: Option<u16>,
    backends: Vec<Backend>,
    choice: Choice,
    cluster_cidr: Cidr,
}

fn service_port<'a>(
    service: &'a Routed<'a>,
    port: &ServicePort,
    slices: &[&EndpointSlice],
    node: Node<'_>,
) -> Option<Port<'a>> {
    let protocol = Protocol::parse(port.protocol.as_deref())?;
    let number = |port: i32| u16::try_from(port).ok().filter(|port| *port != 0);
    let backends = backends::of_port(slices, port.name.as_deref().unwrap_or_default(), protocol, node.name);
    let uses = Uses {
        cluster: !service.internal_local || service.external,
        local: service.internal_local || service.external_local,
    };
    Some(Port {
        protocol,
        port: number(port.port)?,
        node_port: port.node_port.and_then(number).filter(|_| service.external),
        choice: backends::choose(&backends, uses, node.name, node.zone),
        backends,
        service,
        cluster_cidr: node.cluster_cidr,
    })
}

impl Port<'_> {
    fn chain(&self, what: &str) -> String {
        let Routed { namespace, name, .. } = self.service;
        format!("{what}/{namespace}/{name}/{}/{}", self.protocol, self.port)
    }

    fn endpoint_chain(&self, (ip, port): Target) -> String {
        format!("{}/{ip}/{port}", self.chain("endpoint"))
    }

    fn affinity_set(&self, seconds: u32, (ip, port): Target) -> String {
        format!("{}/{ip}/{port}/{seconds}", self.chain("affinity"))
    }

    fn targets(&self, local: bool) -> &[Target] {
        if local { &self.choice.local } else { &self.choice.cluster }
    }

    fn policy_chain(&self, local: bool) -> String {
        self.chain(if local { "local" } else { "cluster" })
    }

    fn write(&self, plan: &mut Plan) {
        plan.cluster_ips.insert(self.service.cluster_ip);
        self.write_internal(plan);
        self.write_external(plan);
        self.write_targets(plan);
        self.write_udp(plan);
    }

    fn write_internal(&self, plan: &mut Plan) {
        let front = (self.service.cluster_ip, self.protocol, self.port);
        let local = self.service.internal_local;
        if self.targets(local).is_empty() {
            plan.refused.insert(front, self.nowhere());
        } else {
            plan.fronts.insert(front, self.policy_chain(local));
        }
    }

    fn nowhere(&self) -> Verdict {
        if self.choice.any { Verdict::Drop } else { Verdict::Refuse }
    }

    fn write_external(&self, plan: &mut Plan) {
        let service = self.service;
        if !service.external {
            return;
        }
        let chain = self.chain("external");
        let addresses = service.external_ips.iter().chain(&service.balancer_ips);
        let reached = !self.targets(service.external_local).is_empty();
        for front in addresses.map(|ip| (*ip, self.protocol, self.port)) {
            if self.choice.any {
                plan.fronts.insert(front, chain.clone());
            }
            if !reached {
                plan.refused.insert(front, self.nowhere());
            }
        }
        if let Some(port) = self.node_port {
            if self.choice.any {
                plan.node_ports.insert((self.protocol, port), chain.clone());
            }
            if !reached {
                plan.refused_node_ports.insert((self.protocol, port), self.nowhere());
            }
        }
        if self.choice.any {
            plan.chains.insert(chain, self.external_rules(reached));
        }
        self.write_guard(plan);
    }

    fn external_rules(&self, reached: bool) -> Vec<String> {
        let mut rules = Vec::new();
        if self.service.external_local {
            // Pods and the node itself are not "external": they get any endpoint, as if by way of a balancer outside.
            let cluster = (!self.choice.cluster.is_empty()).then(|| self.policy_chain(false));
            if let Some(cluster) = cluster {
                rules.push(format!("ip saddr {} goto {cluster}", self.cluster_cidr));
                rules.push(format!("fib saddr type local jump {MARK}"));
                rules.push(format!("fib saddr type local goto {cluster}"));
            }
        } else {
            // The endpoint may be on another node, whose answer has to come back this way.
            rules.push(format!("jump {MARK}"));
        }
        if reached {
            rules.push(format!("goto {}", self.policy_chain(self.service.external_local)));
        }
        rules
    }

    /// `loadBalancerSourceRanges`: who may use a balancer's address.
    fn write_guard(&self, plan: &mut Plan) {
        let service = self.service;
        if service.sources.is_empty() || service.balancer_ips.is_empty() {
            return;
        }
        let chain = self.chain("guard");
        // One rule per range: ranges may overlap, which a set would refuse.
        let mut rules: Vec<String> = service.sources.iter().map(|range| format!("ip saddr {range} return")).collect();
        rules.push("drop".to_owned());
        plan.chains.insert(chain.clone(), rules);
        for ip in &service.balancer_ips {
            plan.guarded.insert((*ip, self.protocol, self.port), chain.clone());
        }
    }

    fn write_targets(&self, plan: &mut Plan) {
        let service = self.service;
        let uses_cluster = !service.internal_local || service.external;
        let uses_local = service.internal_local || service.external_local;
        for (local, used) in [(false, uses_cluster), (true, uses_local)] {
            let targets = self.targets(local);
            if used && !targets.is_empty() {
                let rules = match service.affinity {
                    Some(seconds) => self.sticky(targets, seconds, plan),
                    None => vec![self.spread(targets)],
                };
                plan.chains.insert(self.policy_chain(local), rules);
            }
        }
        let reached: BTreeSet<Target> = self.choice.cluster.iter().chain(&self.choice.local).copied().collect();
        let here = self.backends.iter().filter(|backend| backend.local && reached.contains(&backend.target));
        plan.hairpins.extend(here.map(|backend| (backend.target.0, self.protocol, backend.target.1)));
    }

    /// Each endpoint with the same chance.
    fn spread(&self, targets: &[Target]) -> String {
        let elements: Vec<String> =
            targets.iter().enumerate().map(|(index, (ip, port))| format!("{index} : {ip} . {port}")).collect();
        format!(
            "meta l4proto {} dnat ip to numgen random mod {} map {{ {} }}",
            self.protocol,
            targets.len(),
            elements.join(", ")
        )
    }

    /// The endpoint that the client had, else any.
    fn sticky(&self, targets: &[Target], seconds: u32, plan: &mut Plan) -> Vec<String> {
        let mut rules = Vec::new();
        let mut elements = Vec::new();
        for (index, target) in targets.iter().enumerate() {
            let (chain, set) = (self.endpoint_chain(*target), self.affinity_set(seconds, *target));
            rules.push(format!("ip saddr @{set} goto {chain}"));
            elements.push(format!("{index} : goto {chain}"));
            let (ip, port) = target;
            let endpoint =
                vec![format!("update @{set} {{ ip saddr }}"), format!("meta l4proto {} dnat to {ip}:{port}", self.protocol)];
            plan.chains.insert(chain, endpoint);
            plan.affinity.insert(set, seconds);
        }
        rules.push(format!("numgen random mod {} vmap {{ {} }}", targets.len(), elements.join(", ")));
        rules
    }

    fn write_udp(&self, plan: &mut Plan) {
        let serving: BTreeSet<Target> =
            self.backends.iter().filter(|backend| backend.serving).map(|backend| backend.target).collect();
        if self.protocol != Protocol::Udp || serving.is_empty() {
            return;
        }
        let service = self.service;
        for ip in [service.cluster_ip].iter().chain(&service.external_ips).chain(&service.balancer_ips) {
            plan.udp.insert((*ip, self.port), serving.clone());
        }
        if let Some(port) = self.node_port {
            plan.udp_node_ports.insert(port, serving);
        }
    }
}
