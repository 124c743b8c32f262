//! A [`Plan`] in nft's language: the whole table, replacing what is there. Pure.
//!
//! Pods with the same rules share a chain, rules with the same peers a set; they are numbered.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use super::plan::{Allow, Peers, Plan, Ports};
use crate::network::service::backends::Protocol;

/// Where a packet that may leave its pod goes on.
const ENTER: &str = "enter";

type Pairs = BTreeSet<(Ipv4Addr, Protocol, u16)>;

#[derive(Default)]
struct Shared<'a> {
    ingress: BTreeMap<&'a [Allow], usize>,
    egress: BTreeMap<&'a [Allow], usize>,
    peers: BTreeMap<&'a BTreeSet<Ipv4Addr>, usize>,
    pairs: BTreeMap<&'a Pairs, usize>,
}

fn number<K: Ord>(map: &mut BTreeMap<K, usize>, key: K) {
    let next = map.len() + 1;
    map.entry(key).or_insert(next);
}

impl<'a> Shared<'a> {
    fn of(plan: &'a Plan) -> Self {
        let mut shared = Self::default();
        for rules in plan.values() {
            for (list, map) in [(&rules.ingress, &mut shared.ingress), (&rules.egress, &mut shared.egress)] {
                if let Some(list) = list {
                    number(map, list.as_slice());
                }
            }
            for allow in rules.ingress.iter().chain(&rules.egress).flatten() {
                match allow {
                    Allow::Peers(Peers::Pods(ips), _) => number(&mut shared.peers, ips),
                    Allow::Pairs(pairs) => number(&mut shared.pairs, pairs),
                    Allow::Peers(Peers::Any | Peers::Block(..), _) => {}
                }
            }
        }
        shared
    }
}

/// The whole table; an empty plan gives one that lets all through.
pub fn table(table: &str, plan: &Plan) -> String {
    let shared = Shared::of(plan);
    let mut out = format!("table ip {table} {{}}\ndelete table ip {table}\ntable ip {table} {{\n");
    for (ips, number) in &shared.peers {
        let _ = writeln!(out, "  set peers-{number} {{\n    type ipv4_addr;\n{}  }}", elements(ips.iter().map(ToString::to_string)));
    }
    for (pairs, number) in &shared.pairs {
        let list = pairs.iter().map(|(ip, protocol, port)| format!("{ip} . {protocol} . {port}"));
        let type_ = "ipv4_addr . inet_proto . inet_service";
        let _ = writeln!(out, "  set pairs-{number} {{\n    type {type_};\n{}  }}", elements(list));
    }
    // What is gone to must be there first: ingress chains, `enter`, egress chains, the hook.
    for (rules, number) in &shared.ingress {
        let rules = rules.iter().flat_map(|allow| lines(allow, "saddr", "accept", &shared));
        let _ = writeln!(out, "  chain ingress-{number} {{\n{}    drop\n  }}", rules.collect::<String>());
    }
    let to = plan.iter().filter_map(|(ip, rules)| {
        let number = shared.ingress.get(rules.ingress.as_deref()?)?;
        Some(format!("{ip} : goto ingress-{number}"))
    });
    let _ = writeln!(out, "  map ingress {{\n    type ipv4_addr : verdict;\n{}  }}", elements(to));
    let _ = writeln!(out, "  chain {ENTER} {{\n    ip daddr vmap @ingress\n    accept\n  }}");
    for (rules, number) in &shared.egress {
        let rules = rules.iter().flat_map(|allow| lines(allow, "daddr", &format!("goto {ENTER}"), &shared));
        let _ = writeln!(out, "  chain egress-{number} {{\n{}    drop\n  }}", rules.collect::<String>());
    }
    let from = plan.iter().filter_map(|(ip, rules)| {
        let number = shared.egress.get(rules.egress.as_deref()?)?;
        Some(format!("{ip} : goto egress-{number}"))
    });
    let _ = writeln!(out, "  map egress {{\n    type ipv4_addr : verdict;\n{}  }}", elements(from));
    let selves = elements(plan.keys().map(|ip| format!("{ip} . {ip}")));
    let _ = writeln!(out, "  set selves {{\n    type ipv4_addr . ipv4_addr;\n{selves}  }}");
    out.push_str(
        "  chain forward {
    type filter hook forward priority 10; policy accept;
    ct state established,related accept
    ip saddr . ip daddr @selves accept
    ip saddr vmap @egress
    goto enter
  }
}
",
    );
    out
}

fn elements(list: impl Iterator<Item = String>) -> String {
    let list: Vec<String> = list.collect();
    if list.is_empty() { String::new() } else { format!("    elements = {{ {} }}\n", list.join(",\n      ")) }
}

/// The rules for something allowed; `end`: which address is the other end's.
fn lines(allow: &Allow, end: &str, verdict: &str, shared: &Shared) -> Vec<String> {
    let (peers, ports) = match allow {
        Allow::Peers(peers, ports) => (peers, ports),
        Allow::Pairs(pairs) => {
            let number = shared.pairs.get(pairs).copied().unwrap_or_default();
            return vec![format!("    ip daddr . meta l4proto . th dport @pairs-{number} {verdict}\n")];
        }
    };
    let peers = match peers {
        Peers::Any => String::new(),
        Peers::Pods(ips) => format!("ip {end} @peers-{} ", shared.peers.get(ips).copied().unwrap_or_default()),
        Peers::Block(range, except) => {
            let range = if range.prefix() == 0 { String::new() } else { format!("ip {end} {range} ") };
            let parts: Vec<String> = except.iter().map(ToString::to_string).collect();
            // A part of no bits is everything: nothing is left.
            if except.iter().any(|part| part.prefix() == 0) {
                return Vec::new();
            }
            if parts.is_empty() { range } else { format!("{range}ip {end} != {{ {} }} ", parts.join(", ")) }
        }
    };
    with_ports(ports).into_iter().map(|ports| format!("    {peers}{ports}{verdict}\n")).collect()
}

fn with_ports(ports: &Ports) -> Vec<String> {
    let Some(ports) = ports else { return vec![String::new()] };
    let rules = ports.iter().map(|(protocol, ranges)| {
        if ranges.as_slice() == [(0, u16::MAX)] {
            return format!("meta l4proto {protocol} ");
        }
        let ranges: Vec<String> = ranges
            .iter()
            .map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") })
            .collect();
        format!("{protocol} dport {{ {} }} ", ranges.join(", "))
    });
    rules.collect()
}
