//! Files that the agent writes for containers: /etc/hosts, /etc/resolv.conf; and a pod's host name.
//!
//! Pure: texts only. The volume code writes them.

use k8s_openapi::api::core::v1::{Pod, PodDNSConfig};

use crate::pod::view;

/// How names are resolved on this node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dns {
    /// The cluster's DNS service; empty where there is none.
    pub cluster: Vec<String>,
    /// `cluster.local`
    pub domain: String,
    /// The node's own /etc/resolv.conf.
    pub node: String,
}

/// A resolver's configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Resolver {
    nameservers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

/// The pod's host name and, where it has one, its domain.
pub fn hostname(pod: &Pod, node_name: &str, cluster_domain: &str) -> (String, Option<String>) {
    let spec = view::spec(pod);
    if view::host_network(pod) {
        return (node_name.to_owned(), None);
    }
    let given = spec.hostname_override.as_deref().or(spec.hostname.as_deref()).filter(|name| !name.is_empty());
    let mut host: String = given.unwrap_or_else(|| view::name(pod)).chars().take(63).collect();
    while host.ends_with(['-', '.']) {
        host.pop();
    }
    let domain = spec
        .subdomain
        .as_deref()
        .filter(|subdomain| !subdomain.is_empty() && spec.hostname_override.is_none())
        .map(|subdomain| format!("{subdomain}.{}.svc.{cluster_domain}", view::namespace(pod)));
    match domain {
        Some(domain) if spec.set_hostname_as_fqdn == Some(true) => (format!("{host}.{domain}"), Some(domain)),
        domain => (host, domain),
    }
}

/// /etc/hosts of a pod with a network of its own.
pub fn hosts(pod: &Pod, pod_ips: &[String], host: &str, domain: Option<&str>) -> String {
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n\
         127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\n\
         fe00::1\tip6-allnodes\n\
         fe00::2\tip6-allrouters\n",
    );
    for ip in pod_ips {
        let short = host.split('.').next().unwrap_or(host);
        text.push_str(&match domain {
            Some(domain) => format!("{ip}\t{short}.{domain}\t{short}\n"),
            None => format!("{ip}\t{host}\n"),
        });
    }
    text + &aliases(pod)
}

/// /etc/hosts of a pod on the node's network.
pub fn host_network_hosts(pod: &Pod, node_file: &str) -> String {
    format!("# Kubernetes-managed hosts file (host network).\n{node_file}{}", aliases(pod))
}

fn aliases(pod: &Pod) -> String {
    let spec = view::spec(pod);
    let aliases = spec.host_aliases.as_deref().unwrap_or_default();
    if aliases.is_empty() {
        return String::new();
    }
    let lines = aliases.iter().map(|alias| {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        format!("{}\t{names}\n", alias.ip)
    });
    format!("\n# Entries added by HostAliases.\n{}", lines.collect::<String>())
}

/// /etc/resolv.conf, and texts of DNSConfigForming events.
pub fn resolv_conf(pod: &Pod, dns: &Dns) -> (String, Vec<String>) {
    let spec = view::spec(pod);
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let cluster_first = match policy {
        "ClusterFirst" => !view::host_network(pod),
        "ClusterFirstWithHostNet" => true,
        _ => false,
    };
    let mut resolver = match policy {
        "None" => Resolver::default(),
        _ if cluster_first && !dns.cluster.is_empty() => {
            let (namespace, domain) = (view::namespace(pod), &dns.domain);
            let own = parse(&dns.node);
            let mut searches =
                vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
            searches.extend(own.searches);
            Resolver { nameservers: dns.cluster.clone(), searches, options: vec!["ndots:5".to_owned()] }
        }
        _ => parse(&dns.node),
    };
    if let Some(config) = &spec.dns_config {
        merge(&mut resolver, config);
    }
    let warnings = limit(&mut resolver);
    (text(&resolver), warnings)
}

/// The node's /etc/resolv.conf as its pods can use it: a resolver on a loopback address means nothing inside a pod. Where
/// none is left, `instead` passes questions on.
pub fn for_pods(file: &str, instead: Option<&str>) -> String {
    let loopback = |line: &str| {
        let server = line.trim_start().strip_prefix("nameserver").map(str::trim);
        server.and_then(|server| server.parse::<std::net::IpAddr>().ok()).is_some_and(|ip| ip.is_loopback())
    };
    let mut text: String = file.lines().filter(|line| !loopback(line)).map(|line| format!("{line}\n")).collect();
    if let Some(instead) = instead.filter(|_| parse(&text).nameservers.is_empty()) {
        text.push_str(&format!("nameserver {instead}\n"));
    }
    text
}

fn parse(file: &str) -> Resolver {
    let mut resolver = Resolver::default();
    for line in file.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => resolver.nameservers.extend(words.next().map(str::to_owned)),
            Some("search") => resolver.searches = words.map(str::to_owned).collect(),
            Some("options") => resolver.options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    resolver
}

fn merge(resolver: &mut Resolver, config: &PodDNSConfig) {
    for nameserver in config.nameservers.iter().flatten() {
        if !resolver.nameservers.contains(nameserver) {
            resolver.nameservers.push(nameserver.clone());
        }
    }
    for search in config.searches.iter().flatten() {
        if !resolver.searches.contains(search) {
            resolver.searches.push(search.clone());
        }
    }
    for option in config.options.iter().flatten() {
        let Some(name) = &option.name else { continue };
        resolver.options.retain(|old| old.split(':').next() != Some(name));
        resolver.options.push(match &option.value {
            Some(value) => format!("{name}:{value}"),
            None => name.clone(),
        });
    }
}

fn limit(resolver: &mut Resolver) -> Vec<String> {
    let mut warnings = Vec::new();
    if resolver.nameservers.len() > 3 {
        resolver.nameservers.truncate(3);
        warnings.push(format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
            resolver.nameservers.join(" ")
        ));
    }
    let before = resolver.searches.len();
    resolver.searches.truncate(32);
    while resolver.searches.join(" ").len() > 2048 {
        resolver.searches.pop();
    }
    if resolver.searches.len() < before {
        warnings.push(format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
            resolver.searches.join(" ")
        ));
    }
    warnings
}

fn text(resolver: &Resolver) -> String {
    let mut out = String::new();
    if !resolver.searches.is_empty() {
        out.push_str(&format!("search {}\n", resolver.searches.join(" ")));
    }
    for nameserver in &resolver.nameservers {
        out.push_str(&format!("nameserver {nameserver}\n"));
    }
    if !resolver.options.is_empty() {
        out.push_str(&format!("options {}\n", resolver.options.join(" ")));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({ "metadata": { "name": "p", "namespace": "n" }, "spec": spec })).unwrap()
    }

    #[test]
    fn names_are_resolved_by_policy() {
        let dns = Dns {
            cluster: vec!["10.96.0.10".to_owned()],
            domain: "cluster.local".to_owned(),
            node: "nameserver 1.1.1.1\nsearch lan\n".to_owned(),
        };
        let of = |spec| resolv_conf(&pod(spec), &dns).0;
        let cluster = "search n.svc.cluster.local svc.cluster.local cluster.local lan\nnameserver 10.96.0.10\noptions ndots:5\n";
        assert_eq!(of(serde_json::json!({ "containers": [] })), cluster);
        assert_eq!(of(serde_json::json!({ "containers": [], "hostNetwork": true })), "search lan\nnameserver 1.1.1.1\n");
        assert_eq!(of(serde_json::json!({ "containers": [], "dnsPolicy": "Default" })), "search lan\nnameserver 1.1.1.1\n");
        let own = serde_json::json!({ "nameservers": ["8.8.8.8"], "searches": ["a.b"], "options": [{ "name": "ndots", "value": "2" }] });
        assert_eq!(
            of(serde_json::json!({ "containers": [], "dnsPolicy": "None", "dnsConfig": own })),
            "search a.b\nnameserver 8.8.8.8\noptions ndots:2\n"
        );
    }

    #[test]
    fn a_resolver_on_loopback_is_nothing_to_a_pod() {
        let file = "search lan\nnameserver 127.0.0.11\noptions ndots:0\n";
        assert_eq!(for_pods(file, Some("10.96.0.10")), "search lan\noptions ndots:0\nnameserver 10.96.0.10\n");
        assert_eq!(for_pods(file, None), "search lan\noptions ndots:0\n");
        let two = "nameserver 127.0.0.53\nnameserver 1.1.1.1\n";
        assert_eq!(for_pods(two, Some("10.96.0.10")), "nameserver 1.1.1.1\n");
    }

    #[test]
    fn hosts_names_the_pod_and_its_aliases() {
        let pod = pod(serde_json::json!({ "containers": [], "subdomain": "sub",
            "hostAliases": [{ "ip": "1.2.3.4", "hostnames": ["foo", "bar"] }] }));
        let (host, domain) = hostname(&pod, "node1", "cluster.local");
        let text = hosts(&pod, &["10.244.0.5".to_owned()], &host, domain.as_deref());
        assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"), "{text}");
        assert!(text.contains("\n10.244.0.5\tp.sub.n.svc.cluster.local\tp\n"), "{text}");
        assert!(text.ends_with("\n\n# Entries added by HostAliases.\n1.2.3.4\tfoo\tbar\n"), "{text}");
    }
}
