//! What names of the cluster mean. Pure: a snapshot in, answers out.
//!
//! The measure is Kubernetes' DNS-Based Service Discovery, version 1.1; where it is silent, CoreDNS.
//!
//! | name under `cluster.local` | answer |
//! |---|---|
//! | `SVC.NS.svc` | the cluster IP; without one, every ready endpoint; of an ExternalName an alias |
//! | `HOST.SVC.NS.svc` | the endpoint of that host name, or of its dashed address, of a Service without cluster IP |
//! | `_PORT._PROTO.SVC.NS.svc` | SRV: port and host |
//! | `a-b-c-d.NS.pod` | the address that it spells |
//! | `dns-version` | the specification's version |

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::wire::{Data, Name, Record, Reply, code, kind};
use crate::network::cidr::Cidr;
use crate::network::service::plan::SERVICE_NAME;

/// Seconds that an answer may be remembered.
pub const TTL: u32 = 30;
/// Seconds that "there is none" may be remembered.
pub const NEGATIVE_TTL: u32 = 5;

/// Name, protocol (`tcp`) and number.
type Port = (String, String, u16);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Host {
    name: String,
    ip: IpAddr,
    ports: Vec<Port>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    Address { ips: Vec<IpAddr>, ports: Vec<Port> },
    Headless(Vec<Host>),
    Alias(String),
}

/// What a zone is made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `cluster.local`
    pub domain: String,
    /// Where this server answers.
    pub server: Vec<Ipv4Addr>,
    /// Addresses whose reverse names nobody else knows: those of pods and Services.
    pub own: Vec<Cidr>,
}

/// A snapshot of the cluster's names.
#[derive(Debug, Clone)]
pub struct Zone {
    settings: Settings,
    domain: Name,
    /// Whether all was seen; before that what is not there may be.
    complete: bool,
    namespaces: BTreeMap<String, BTreeMap<String, Entry>>,
    reverse: BTreeMap<IpAddr, BTreeSet<Name>>,
    serial: u32,
}

/// What is known about a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Not a name of the cluster.
    Outside,
    /// The answer.
    Known(Reply),
    /// An alias: the answer so far, and the name under which to ask on.
    Alias(Reply, Name),
}

impl Zone {
    /// A zone that knows nothing yet.
    pub fn empty(settings: Settings) -> Self {
        let domain = Name::parse(&settings.domain).unwrap_or_default();
        Self { settings, domain, complete: false, namespaces: BTreeMap::new(), reverse: BTreeMap::new(), serial: 0 }
    }

    /// The zone of these objects. `serial` grows with each.
    pub fn of<'a>(
        settings: Settings,
        namespaces: impl IntoIterator<Item = String>,
        services: impl IntoIterator<Item = &'a Service>,
        slices: impl IntoIterator<Item = &'a EndpointSlice>,
        serial: u32,
    ) -> Self {
        let mut zone = Self { complete: true, serial, ..Self::empty(settings) };
        zone.namespaces = namespaces.into_iter().map(|name| (name, BTreeMap::new())).collect();
        let mut hosts: BTreeMap<(String, String), BTreeSet<Host>> = BTreeMap::new();
        for slice in slices {
            let service = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
            if let (Some(namespace), Some(service)) = (slice.metadata.namespace.clone(), service) {
                hosts.entry((namespace, service.clone())).or_default().extend(hosts_of(slice));
            }
        }
        for service in services {
            let (Some(namespace), Some(name)) = (&service.metadata.namespace, &service.metadata.name) else { continue };
            let hosts = hosts.remove(&(namespace.clone(), name.clone())).unwrap_or_default();
            if let Some(entry) = entry(service, hosts) {
                zone.add_reverse(namespace, name, &entry);
                zone.namespaces.entry(namespace.clone()).or_default().insert(name.clone(), entry);
            }
        }
        zone
    }

    fn add_reverse(&mut self, namespace: &str, service: &str, entry: &Entry) {
        let named: Vec<(IpAddr, Option<Name>)> = match entry {
            Entry::Address { ips, .. } => ips.iter().map(|ip| (*ip, self.name(&[service, namespace, "svc"]))).collect(),
            Entry::Headless(hosts) => {
                hosts.iter().map(|host| (host.ip, self.name(&[&host.name, service, namespace, "svc"]))).collect()
            }
            Entry::Alias(_) => Vec::new(),
        };
        for (ip, name) in named {
            self.reverse.entry(ip).or_default().extend(name);
        }
    }

    fn name(&self, labels: &[&str]) -> Option<Name> {
        Name::parse(&format!("{}.{}", labels.join("."), self.settings.domain))
    }

    /// Answers a question. `turn` says which of several addresses comes first.
    pub fn answer(&self, name: &Name, kind: u16, turn: usize) -> Answer {
        let Some(labels) = name.labels() else { return Answer::Outside };
        let Some(domain) = self.domain.labels() else { return Answer::Outside };
        if let Some(relative) = labels.strip_suffix(domain.as_slice()) {
            if !self.complete {
                return Answer::Known(Reply { code: code::FAILED, ..Reply::default() });
            }
            let mut answer = self.inside(name, relative, kind);
            if let Answer::Known(reply) = &mut answer {
                let count = reply.answers.len().max(1);
                reply.answers.rotate_left(turn % count);
            }
            return answer;
        }
        let Some(["in-addr", "arpa"]) = labels.get(4..) else { return Answer::Outside };
        let octets: Vec<u8> = labels[..4].iter().rev().filter_map(|label| label.parse().ok()).collect();
        let Some(ip) = octets.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets)) else { return Answer::Outside };
        self.name_of(name, ip, kind)
    }

    fn name_of(&self, name: &Name, ip: Ipv4Addr, asked: u16) -> Answer {
        match self.reverse.get(&IpAddr::V4(ip)) {
            Some(names) if matches!(asked, kind::PTR | kind::ANY) => {
                Answer::Known(found(names.iter().map(|target| record(name, Data::Name(kind::PTR, target.clone())))))
            }
            Some(_) => Answer::Known(self.nothing(code::OK)),
            None if self.settings.own.iter().any(|range| range.contains(ip)) => Answer::Known(self.nothing(code::NO_NAME)),
            None => Answer::Outside,
        }
    }

    /// Under the cluster's domain.
    fn inside(&self, name: &Name, labels: &[&str], asked: u16) -> Answer {
        let reply = match labels {
            [] => self.apex(name, asked),
            ["dns-version"] => self.of_kind(asked, vec![record(name, Data::Txt("1.1.0".to_owned()))], kind::TXT),
            ["dns" | "svc" | "pod"] => self.nothing(code::OK),
            ["ns", "dns"] => {
                let ips: Vec<IpAddr> = self.settings.server.iter().map(|ip| IpAddr::V4(*ip)).collect();
                self.addresses(name, &ips, asked)
            }
            [namespace, "svc" | "pod"] => self.nothing(self.exists(namespace)),
            [dashed, namespace, "pod"] => match (self.exists(namespace), spelt(dashed)) {
                (code::OK, Some(ip)) => self.addresses(name, &[ip], asked),
                _ => self.nothing(code::NO_NAME),
            },
            [rest @ .., service, namespace, "svc"] => {
                let entry = self.namespaces.get(*namespace).and_then(|services| services.get(*service));
                return match entry {
                    Some(entry) => self.service(name, rest, (service, namespace), entry, asked),
                    None => Answer::Known(self.nothing(code::NO_NAME)),
                };
            }
            _ => self.nothing(code::NO_NAME),
        };
        Answer::Known(reply)
    }

    fn exists(&self, namespace: &str) -> u8 {
        if self.namespaces.contains_key(namespace) { code::OK } else { code::NO_NAME }
    }

    fn service(&self, name: &Name, rest: &[&str], place: (&str, &str), entry: &Entry, asked: u16) -> Answer {
        let reply = match (entry, rest) {
            (Entry::Alias(target), []) => match Name::parse(target) {
                Some(target) => {
                    let reply = found([record(name, Data::Name(kind::CNAME, target.clone()))]);
                    if !matches!(asked, kind::CNAME | kind::ANY) {
                        return Answer::Alias(reply, target);
                    }
                    reply
                }
                None => self.nothing(code::FAILED),
            },
            (Entry::Alias(_), _) => self.nothing(code::NO_NAME),
            // Without a ready endpoint such a Service has no name (section 2.4.1).
            (Entry::Headless(hosts), _) if hosts.is_empty() => self.nothing(code::NO_NAME),
            (_, []) if asked == kind::SRV => self.srv(name, place, entry, None, None),
            (Entry::Address { ips, .. }, []) => self.addresses(name, ips, asked),
            (Entry::Headless(hosts), []) => {
                let ips: BTreeSet<IpAddr> = hosts.iter().map(|host| host.ip).collect();
                self.addresses(name, &ips.into_iter().collect::<Vec<_>>(), asked)
            }
            (_, [protocol]) if protocol.starts_with('_') => self.under(name, place, entry, None, protocol, asked),
            (_, [port, protocol]) if port.starts_with('_') && protocol.starts_with('_') => {
                self.under(name, place, entry, Some(port), protocol, asked)
            }
            (Entry::Headless(hosts), [host]) => {
                let ips: BTreeSet<IpAddr> = hosts.iter().filter(|own| own.name == *host).map(|own| own.ip).collect();
                match ips.is_empty() {
                    true => self.nothing(code::NO_NAME),
                    false => self.addresses(name, &ips.into_iter().collect::<Vec<_>>(), asked),
                }
            }
            _ => self.nothing(code::NO_NAME),
        };
        Answer::Known(reply)
    }

    /// `_port._proto` and `_proto` before a Service's name.
    fn under(&self, name: &Name, place: (&str, &str), entry: &Entry, port: Option<&str>, protocol: &str, asked: u16) -> Reply {
        let port = port.map(|port| port.trim_start_matches('_'));
        let protocol = protocol.trim_start_matches('_');
        let reply = self.srv(name, place, entry, port, Some(protocol));
        match (reply.answers.is_empty(), port) {
            (true, _) => self.nothing(code::NO_NAME),
            (false, Some(_)) if matches!(asked, kind::SRV | kind::ANY) => reply,
            (false, _) => self.nothing(code::OK),
        }
    }

    /// SRV records; ports without a name have none of their own.
    fn srv(&self, name: &Name, (service, namespace): (&str, &str), entry: &Entry, port: Option<&str>, protocol: Option<&str>) -> Reply {
        let fits = |own: &&Port| port.is_none_or(|port| own.0 == port && !port.is_empty()) && protocol.is_none_or(|word| own.1 == word);
        let mut reply = found([]);
        let mut add = |host: Option<Name>, ips: &[IpAddr], ports: &[Port]| {
            let Some(host) = host else { return };
            let numbers: BTreeSet<u16> = ports.iter().filter(fits).map(|own| own.2).collect();
            if numbers.is_empty() {
                return;
            }
            reply.answers.extend(numbers.into_iter().map(|number| record(name, Data::Srv(0, 100, number, host.clone()))));
            reply.additional.extend(ips.iter().map(|ip| record(&host, data(*ip))));
        };
        match entry {
            Entry::Address { ips, ports } => add(self.name(&[service, namespace, "svc"]), ips, ports),
            Entry::Headless(hosts) => {
                for host in hosts {
                    add(self.name(&[&host.name, service, namespace, "svc"]), &[host.ip], &host.ports);
                }
            }
            Entry::Alias(_) => {}
        }
        reply.additional.sort();
        reply.additional.dedup();
        if reply.answers.is_empty() { self.nothing(code::OK) } else { reply }
    }

    fn addresses(&self, name: &Name, ips: &[IpAddr], asked: u16) -> Reply {
        let fits = |ip: &&IpAddr| match ip {
            IpAddr::V4(_) => matches!(asked, kind::A | kind::ANY),
            IpAddr::V6(_) => matches!(asked, kind::AAAA | kind::ANY),
        };
        let records: Vec<Record> = ips.iter().filter(fits).map(|ip| record(name, data(*ip))).collect();
        if records.is_empty() { self.nothing(code::OK) } else { found(records) }
    }

    fn of_kind(&self, asked: u16, records: Vec<Record>, own: u16) -> Reply {
        if asked == own || asked == kind::ANY { found(records) } else { self.nothing(code::OK) }
    }

    fn apex(&self, name: &Name, asked: u16) -> Reply {
        let server = self.name(&["ns", "dns"]).map(|server| record(name, Data::Name(kind::NS, server)));
        let mut records = Vec::new();
        if matches!(asked, kind::NS | kind::ANY) {
            records.extend(server);
        }
        if matches!(asked, kind::SOA | kind::ANY) {
            records.extend(self.start());
        }
        if records.is_empty() { self.nothing(code::OK) } else { found(records) }
    }

    fn start(&self) -> Option<Record> {
        let (server, person) = (self.name(&["ns", "dns"])?, self.name(&["hostmaster"])?);
        let numbers = [self.serial, 7200, 1800, 86400, NEGATIVE_TTL];
        Some(Record { name: self.domain.clone(), ttl: NEGATIVE_TTL, data: Data::Soa(server, person, numbers) })
    }

    /// No such name, or none of that type, with the record that says for how long that holds.
    fn nothing(&self, code: u8) -> Reply {
        Reply { code, authoritative: true, authority: self.start().into_iter().collect(), ..Reply::default() }
    }
}

fn record(name: &Name, data: Data) -> Record {
    Record { name: name.clone(), ttl: TTL, data }
}

fn data(ip: IpAddr) -> Data {
    match ip {
        IpAddr::V4(ip) => Data::A(ip),
        IpAddr::V6(ip) => Data::Aaaa(ip),
    }
}

fn found(records: impl IntoIterator<Item = Record>) -> Reply {
    Reply { authoritative: true, answers: records.into_iter().collect(), ..Reply::default() }
}

/// The address that a dashed name spells: `10-244-0-5`, `fd00--1`.
fn spelt(dashed: &str) -> Option<IpAddr> {
    let v4 = || dashed.replace('-', ".").parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    let v6 = || dashed.replace('-', ":").parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    v4().or_else(v6)
}

fn dashed(ip: IpAddr) -> String {
    ip.to_string().replace(['.', ':'], "-")
}

fn hosts_of(slice: &EndpointSlice) -> Vec<Host> {
    let ports: Vec<Port> = slice
        .ports
        .iter()
        .flatten()
        .filter_map(|port| {
            let protocol = port.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase();
            Some((port.name.clone().unwrap_or_default(), protocol, u16::try_from(port.port?).ok()?))
        })
        .collect();
    let ready = slice.endpoints.iter().flatten().filter(|endpoint| {
        endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false)
    });
    ready
        .flat_map(|endpoint| {
            let ips = endpoint.addresses.iter().filter_map(|address| address.parse::<IpAddr>().ok());
            let named = endpoint.hostname.clone().filter(|name| !name.is_empty());
            ips.map(move |ip| (named.clone().unwrap_or_else(|| dashed(ip)), ip))
        })
        .map(|(name, ip)| Host { name, ip, ports: ports.clone() })
        .collect()
}

/// A Service whose address is not given out yet has no name yet.
fn entry(service: &Service, hosts: BTreeSet<Host>) -> Option<Entry> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return spec.external_name.clone().map(Entry::Alias);
    }
    let first = spec.cluster_ip.as_deref().unwrap_or_default();
    if first == "None" {
        return Some(Entry::Headless(hosts.into_iter().collect()));
    }
    let all = spec.cluster_ips.iter().flatten().map(String::as_str);
    let ips: BTreeSet<IpAddr> = all.chain([first]).filter_map(|ip| ip.parse().ok()).collect();
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        let protocol = port.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase();
        Some((port.name.clone().unwrap_or_default(), protocol, u16::try_from(port.port).ok()?))
    });
    (!ips.is_empty()).then(|| Entry::Address { ips: ips.into_iter().collect(), ports: ports.collect() })
}
