//! A [`Plan`] in nft's language. Pure.
//!
//! Two forms: one that replaces the table, and one that updates it, which keeps the sets of session affinity as they
//! are. Both are one transaction.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::plan::{MARK, MASQUERADE, Plan, REFUSE, Verdict};
use crate::network::cidr::Cidr;

/// Maps and sets that every table has, emptied before an update: (kind, name, type).
const FIXED: [(&str, &str, &str); 7] = [
    ("set", "cluster-ips", "ipv4_addr"),
    ("map", "fronts", "ipv4_addr . inet_proto . inet_service : verdict"),
    ("map", "node-ports", "inet_proto . inet_service : verdict"),
    ("map", "refused", "ipv4_addr . inet_proto . inet_service : verdict"),
    ("map", "refused-node-ports", "inet_proto . inet_service : verdict"),
    ("map", "guarded", "ipv4_addr . inet_proto . inet_service : verdict"),
    ("set", "hairpins", "ipv4_addr . ipv4_addr . inet_proto . inet_service"),
];

/// Chains of the plan and sets of affinity: what comes and goes with Services.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// Chains.
    pub chains: BTreeSet<String>,
    /// Sets.
    pub sets: BTreeSet<String>,
}

impl Names {
    /// What the plan makes.
    pub fn of(plan: &Plan) -> Self {
        Self { chains: plan.chains.keys().cloned().collect(), sets: plan.affinity.keys().cloned().collect() }
    }

    /// What a table has, from nft's JSON. Ours are those with a `/` in their name. Empty for a text that is not nft's.
    pub fn from_json(text: &str) -> Self {
        let value: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
        let items = value.get("nftables").and_then(serde_json::Value::as_array).cloned().unwrap_or_default();
        let all = |kind: &str| -> BTreeSet<String> {
            let names = items.iter().filter_map(|item| item.get(kind)?.get("name")?.as_str());
            names.filter(|name| name.contains('/')).map(str::to_owned).collect()
        };
        Self { chains: all("chain"), sets: all("set") }
    }
}

/// Replaces the table as a whole.
pub fn replacement(table: &str, plan: &Plan, cluster: Cidr) -> String {
    format!("table ip {table} {{}}\ndelete table ip {table}\n{}", body(table, plan, cluster))
}

/// Updates a table that has `present`: rules and elements are all new, affinity stays.
pub fn update(table: &str, plan: &Plan, cluster: Cidr, present: &Names) -> String {
    let wanted = Names::of(plan);
    let mut out = format!("add table ip {table}\nflush table ip {table}\n");
    for (kind, name, type_) in FIXED {
        let _ = writeln!(out, "add {kind} ip {table} {name} {{ type {type_}; }}\nflush {kind} ip {table} {name}");
    }
    for chain in present.chains.difference(&wanted.chains) {
        let _ = writeln!(out, "delete chain ip {table} {chain}");
    }
    for set in present.sets.difference(&wanted.sets) {
        let _ = writeln!(out, "delete set ip {table} {set}");
    }
    out + &body(table, plan, cluster)
}

fn body(table: &str, plan: &Plan, cluster: Cidr) -> String {
    let mut out = format!("table ip {table} {{\n");
    for (set, seconds) in &plan.affinity {
        let _ = writeln!(out, "  set {set} {{ type ipv4_addr; flags dynamic,timeout; timeout {seconds}s; }}");
    }
    for (kind, name, type_) in FIXED {
        let elements = elements(plan, name);
        let _ = writeln!(out, "  {kind} {name} {{\n    type {type_};\n{elements}  }}");
    }
    // Chains may be named before they are defined, but not before they exist.
    for (chain, rules) in &plan.chains {
        let _ = writeln!(out, "  chain {chain} {{\n    {}\n  }}", rules.join("\n    "));
    }
    out + &frame(cluster) + "}\n"
}

fn elements(plan: &Plan, name: &str) -> String {
    let verdict = |verdict: &Verdict| match verdict {
        Verdict::Refuse => format!("goto {REFUSE}"),
        Verdict::Drop => "drop".to_owned(),
    };
    let list: Vec<String> = match name {
        "cluster-ips" => plan.cluster_ips.iter().map(ToString::to_string).collect(),
        "fronts" => plan.fronts.iter().map(|((ip, proto, port), to)| format!("{ip} . {proto} . {port} : goto {to}")).collect(),
        "node-ports" => plan.node_ports.iter().map(|((proto, port), to)| format!("{proto} . {port} : goto {to}")).collect(),
        "refused" => {
            plan.refused.iter().map(|((ip, proto, port), what)| format!("{ip} . {proto} . {port} : {}", verdict(what))).collect()
        }
        "refused-node-ports" => {
            plan.refused_node_ports.iter().map(|((proto, port), what)| format!("{proto} . {port} : {}", verdict(what))).collect()
        }
        "guarded" => plan.guarded.iter().map(|((ip, proto, port), to)| format!("{ip} . {proto} . {port} : goto {to}")).collect(),
        _ => plan.hairpins.iter().map(|(ip, proto, port)| format!("{ip} . {ip} . {proto} . {port}")).collect(),
    };
    if list.is_empty() { String::new() } else { format!("    elements = {{ {} }}\n", list.join(",\n      ")) }
}

/// The chains that every table has.
fn frame(cluster: Cidr) -> String {
    format!(
        "  chain {REFUSE} {{
    reject
  }}
  chain {MARK} {{
    meta mark set meta mark or {MASQUERADE:#x}
  }}
  chain services {{
    ip daddr @cluster-ips ip saddr != {cluster} jump {MARK}
    ip daddr . meta l4proto . th dport vmap @fronts
    ip daddr != 127.0.0.0/8 fib daddr type local meta l4proto . th dport vmap @node-ports
  }}
  chain unreachable {{
    ip daddr . meta l4proto . th dport vmap @refused
  }}
  chain unreachable-node-ports {{
    ip daddr != 127.0.0.0/8 fib daddr type local meta l4proto . th dport vmap @refused-node-ports
  }}
  chain strange-ports {{
    ip daddr @cluster-ips goto {REFUSE}
  }}
  chain guard {{
    ip daddr . meta l4proto . th dport vmap @guarded
  }}
  chain guard-prerouting {{
    type filter hook prerouting priority -110; policy accept;
    ct state new jump guard
  }}
  chain guard-output {{
    type filter hook output priority -110; policy accept;
    ct state new jump guard
  }}
  chain prerouting {{
    type nat hook prerouting priority -100; policy accept;
    jump services
  }}
  chain output {{
    type nat hook output priority -100; policy accept;
    jump services
  }}
  chain postrouting {{
    type nat hook postrouting priority 100; policy accept;
    meta mark and {MASQUERADE:#x} != 0 meta mark set meta mark xor {MASQUERADE:#x} masquerade fully-random
    ct status dnat ip saddr . ip daddr . meta l4proto . th dport @hairpins masquerade fully-random
  }}
  chain filter-input {{
    type filter hook input priority 0; policy accept;
    ct state new jump unreachable-node-ports
    ct state new jump unreachable
  }}
  chain filter-forward {{
    type filter hook forward priority 0; policy accept;
    ct state new jump unreachable
    ct state new jump strange-ports
  }}
  chain filter-output {{
    type filter hook output priority 0; policy accept;
    ct state new jump unreachable
    ct state new jump strange-ports
  }}
"
    )
}
