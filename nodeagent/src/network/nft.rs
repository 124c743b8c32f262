//! The node's packet rules, as text for `nft -f`. Building the text is pure; applying it replaces the table as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::records::Record;

/// `nft` that takes longer is killed.
const DEADLINE: Duration = Duration::from_secs(10);

/// A port of the node that leads to a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Forward {
    /// On which address of the node; `None` for all.
    pub host_ip: Option<Ipv4Addr>,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: &'static str,
    /// The node's port.
    pub host_port: u16,
    /// The pod.
    pub pod_ip: Ipv4Addr,
    /// The pod's port.
    pub pod_port: u16,
}

/// Everything that the rules depend on.
#[derive(Debug, Clone)]
pub struct Rules<'a> {
    /// Name of the table.
    pub table: &'a str,
    /// The pods' bridge.
    pub bridge: &'a str,
    /// Addresses of all pods.
    pub cluster_cidr: &'a str,
    /// Addresses of all services.
    pub service_cidr: Option<&'a str>,
    /// hostPorts.
    pub forwards: Vec<Forward>,
}

/// The forwards of some sandboxes. Of two for the same port the first sandbox's counts: the scheduler does not let
/// that happen, but a leftover may.
pub fn forwards<'a>(records: impl Iterator<Item = &'a Record>) -> Vec<Forward> {
    let mut by_port = BTreeMap::new();
    for record in records {
        let pod_ip = record.ips.iter().find_map(|ip| match ip {
            IpAddr::V4(ip) => Some(*ip),
            IpAddr::V6(_) => None,
        });
        let Some(pod_ip) = pod_ip else { continue };
        for port in record.ports() {
            let host_ip = match port.host_ip {
                None => None,
                Some(IpAddr::V4(ip)) if ip.is_unspecified() => None,
                Some(IpAddr::V4(ip)) => Some(ip),
                Some(IpAddr::V6(_)) => continue,
            };
            let protocol = match port.protocol.to_ascii_uppercase().as_str() {
                "UDP" => "udp",
                "SCTP" => "sctp",
                _ => "tcp",
            };
            let (host_port, pod_port) = (port.host_port, port.container_port);
            by_port
                .entry((host_ip, protocol, host_port))
                .or_insert(Forward { host_ip, protocol, host_port, pod_ip, pod_port });
        }
    }
    by_port.into_values().collect()
}

/// The whole table, replacing what is there in one transaction.
pub fn table(rules: &Rules<'_>) -> String {
    let Rules { table, bridge, cluster_cidr, .. } = rules;
    let any = elements(&rules.forwards, None);
    let one = elements(&rules.forwards, Some(()));
    let refuse = rules.service_cidr.map_or_else(String::new, |services| {
        // What no service rule has translated or refused before would leave by the default route.
        format!("ip daddr {services} fib daddr type != local reject with icmp type port-unreachable")
    });
    let hairpins: BTreeSet<Ipv4Addr> = rules.forwards.iter().map(|forward| forward.pod_ip).collect();
    let hairpins: Vec<String> = hairpins.into_iter().map(|ip| format!("{ip} . {ip}")).collect();
    let hairpins =
        if hairpins.is_empty() { String::new() } else { format!("elements = {{ {} }}", hairpins.join(", ")) };
    format!(
        "table ip {table} {{}}
delete table ip {table}
table ip {table} {{
  map hostports {{
    type inet_proto . inet_service : ipv4_addr . inet_service
    {any}
  }}
  map hostports_of_address {{
    type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service
    {one}
  }}
  set hairpins {{
    type ipv4_addr . ipv4_addr
    {hairpins}
  }}
  chain hostports {{
    dnat ip to ip daddr . meta l4proto . th dport map @hostports_of_address
    dnat ip to meta l4proto . th dport map @hostports
  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    fib daddr type local jump hostports
  }}
  chain output {{
    type nat hook output priority -100; policy accept;
    fib daddr type local jump hostports
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {cluster_cidr} ip daddr != {cluster_cidr} oifname != \"{bridge}\" masquerade
    ip saddr 127.0.0.0/8 oifname \"{bridge}\" masquerade
    ct status dnat ip saddr . ip daddr @hairpins masquerade
  }}
  chain forward {{
    type filter hook forward priority 20; policy accept;
    {refuse}
  }}
  chain local_out {{
    type filter hook output priority 20; policy accept;
    {refuse}
  }}
}}
"
    )
}

/// `elements = {…}` of the forwards for all addresses, or for one.
fn elements(forwards: &[Forward], of_address: Option<()>) -> String {
    let mut text = String::new();
    for forward in forwards.iter().filter(|forward| forward.host_ip.is_some() == of_address.is_some()) {
        text.push_str(if text.is_empty() { "elements = { " } else { ", " });
        if let Some(ip) = forward.host_ip {
            let _ = write!(text, "{ip} . ");
        }
        let Forward { protocol, host_port, pod_ip, pod_port, .. } = forward;
        let _ = write!(text, "{protocol} . {host_port} : {pod_ip} . {pod_port}");
    }
    if !text.is_empty() {
        text.push_str(" }");
    }
    text
}

/// Carries the text out: all of it or nothing.
pub async fn apply(text: &str) -> Result<(), String> {
    run(&["-f", "-"], text).await.map(drop)
}

/// Whether our table is there, by one of its chains.
pub async fn is_there(table: &str, chain: &str) -> bool {
    run(&["list", "chain", "ip", table, chain], "").await.is_ok()
}

/// What a table has, without the elements of its sets, as JSON.
pub async fn list(table: &str) -> Result<String, String> {
    run(&["-j", "-t", "list", "table", "ip", table], "").await
}

/// Removes our table; one that is not there is removed.
pub async fn delete(table: &str) -> Result<(), String> {
    apply(&format!("table ip {table} {{}}\ndelete table ip {table}\n")).await
}

async fn run(arguments: &[&str], input: &str) -> Result<String, String> {
    let run = async {
        let mut child = Command::new("nft")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(DEADLINE, run)
        .await
        .map_err(|_| format!("nft did not end in {DEADLINE:?}"))?
        .map_err(|error| format!("nft could not be run: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let problem: String = String::from_utf8_lossy(&output.stderr).trim().chars().take(2000).collect();
    Err(format!("nft failed: {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::records::PodName;

    fn record(id: &str, ip: &str, ports: &str) -> Record {
        Record {
            id: id.into(),
            pod: PodName { namespace: "ns".into(), name: id.into(), uid: id.into() },
            ips: ip.parse().into_iter().collect(),
            host_ports: ports.into(),
        }
    }

    fn text(forwards: Vec<Forward>, service_cidr: Option<&str>) -> String {
        let rules = Rules { table: "t", bridge: "cni0", cluster_cidr: "10.244.0.0/16", service_cidr, forwards };
        table(&rules)
    }

    #[test]
    fn each_port_has_one_pod() {
        let records = [
            record("a", "10.244.1.2", "*/8080/80/TCP,127.0.0.1/53/5353/UDP,0.0.0.0/81/81/TCP"),
            record("b", "10.244.1.3", "*/8080/80/TCP,::1/9/9/TCP"),
            record("c", "", "*/7/7/TCP"),
        ];
        let all = forwards(records.iter());
        let text = text(all, None);
        assert!(text.contains("elements = { tcp . 81 : 10.244.1.2 . 81, tcp . 8080 : 10.244.1.2 . 80 }"), "{text}");
        assert!(text.contains("elements = { 127.0.0.1 . udp . 53 : 10.244.1.2 . 5353 }"), "{text}");
        assert!(text.contains("elements = { 10.244.1.2 . 10.244.1.2 }"), "only what a pod sends to itself: {text}");
    }

    #[test]
    fn the_table_is_replaced_as_a_whole_and_nothing_else_is_touched() {
        let text = text(vec![], Some("10.96.0.0/16"));
        assert!(text.starts_with("table ip t {}\ndelete table ip t\ntable ip t {"), "{text}");
        assert!(!text.contains("flush") && !text.contains("elements"), "{text}");
        assert_eq!(text.matches("ip daddr 10.96.0.0/16 fib daddr type != local reject").count(), 2);
        assert!(text.contains("ip saddr 10.244.0.0/16 ip daddr != 10.244.0.0/16 oifname != \"cni0\" masquerade"));
    }
}
