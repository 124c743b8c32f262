//! Flags of the node agent.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use balsa_process::tls::TlsFiles;

use crate::network::cidr::Cidr;

/// Which engine runs the containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Engine {
    /// The Docker Engine.
    Docker,
    /// None: containers exist in memory only. For tests and for hollow nodes.
    Fake,
}

/// Everything that the process is told. Each flag is an environment variable too, `BALSA_` before its name.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "balsa-nodeagent", about = "Runs the pods of one node", version)]
pub struct Config {
    /// Name of the Node object.
    #[arg(long, env = "BALSA_NODE_NAME")]
    pub node_name: String,
    /// gRPC addresses of the apiservers, comma-separated.
    #[arg(long, env = "BALSA_APISERVERS", value_delimiter = ',', required = true)]
    pub apiservers: Vec<String>,
    /// Where the apiserver reaches this agent.
    #[arg(long, env = "BALSA_LISTEN", default_value = "0.0.0.0:10250")]
    pub listen: SocketAddr,
    /// Volumes, addresses, records. The same path on the engine's host.
    #[arg(long, env = "BALSA_STATE_DIR")]
    pub state_dir: PathBuf,
    /// Label on everything that is made in the engine.
    #[arg(long, env = "BALSA_CLUSTER", default_value = "balsa")]
    pub cluster: String,
    /// Container that owns the node's network namespace; empty for the host's network.
    #[arg(long, env = "BALSA_HOLDER", default_value = "")]
    pub holder: String,
    /// Engine.
    #[arg(long, env = "BALSA_RUNTIME", value_enum, default_value = "docker")]
    pub runtime: Engine,
    /// Socket of the Docker Engine.
    #[arg(long, env = "BALSA_DOCKER_SOCKET", default_value = "/var/run/docker.sock")]
    pub docker_socket: PathBuf,
    /// Where the host's control groups are mounted.
    #[arg(long, env = "BALSA_CGROUP_ROOT", default_value = "/sys/fs/cgroup")]
    pub cgroup_root: PathBuf,
    /// Directories with CNI plugins, comma-separated.
    #[arg(long, env = "BALSA_CNI_BIN", value_delimiter = ',', default_value = "/opt/cni/bin,/usr/lib/cni")]
    pub cni_bin: Vec<PathBuf>,
    /// Directory with CNI configuration lists; without one the built-in bridge is used.
    #[arg(long, env = "BALSA_CNI_CONF")]
    pub cni_conf: Option<PathBuf>,
    /// Addresses of all pods.
    #[arg(long, env = "BALSA_CLUSTER_CIDR", default_value = "10.244.0.0/16")]
    pub cluster_cidr: String,
    /// Addresses of services.
    #[arg(long, env = "BALSA_SERVICE_CIDR", default_value = "10.96.0.0/16")]
    pub service_cidr: String,
    /// Name servers for pods, comma-separated [default: the tenth address of services, where this agent answers].
    #[arg(long, env = "BALSA_CLUSTER_DNS", value_delimiter = ',')]
    pub cluster_dns: Vec<IpAddr>,
    /// Do not answer at the name servers' addresses: a Service with pods behind it does.
    #[arg(long, env = "BALSA_DNS_ELSEWHERE")]
    pub dns_elsewhere: bool,
    /// Domain of the cluster's names.
    #[arg(long, env = "BALSA_CLUSTER_DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Most pods at a time.
    #[arg(long, env = "BALSA_MAX_PODS", default_value_t = 110)]
    pub max_pods: u32,
    /// Address to report; by default that of the interface of the default route.
    #[arg(long, env = "BALSA_NODE_IP")]
    pub node_ip: Option<IpAddr>,
    /// CPUs to report, where not the machine's: for hollow nodes.
    #[arg(long, env = "BALSA_CPUS")]
    pub cpus: Option<u64>,
    /// Bytes of memory to report, where not the machine's: for hollow nodes.
    #[arg(long, env = "BALSA_MEMORY")]
    pub memory: Option<u64>,
    /// Labels for the Node object, `key=value`, comma-separated.
    #[arg(long, env = "BALSA_NODE_LABELS", value_delimiter = ',')]
    pub node_labels: Vec<String>,
    /// Take all pods' containers away when asked to stop.
    #[arg(long, env = "BALSA_DRAIN_ON_TERM")]
    pub drain_on_term: bool,
    /// Identity; without one plaintext, loopback only.
    #[command(flatten)]
    pub tls: Option<TlsFiles>,
}

impl Config {
    /// Name servers for pods: those given, else the tenth address of services. None where there are no services.
    pub fn name_servers(&self) -> Vec<IpAddr> {
        if !self.cluster_dns.is_empty() {
            return self.cluster_dns.clone();
        }
        let range: Option<Cidr> = self.service_cidr.parse().ok();
        let tenth = range.map(|range| (range, Ipv4Addr::from(u32::from(range.address()).saturating_add(10))));
        tenth.filter(|(range, ip)| range.contains(*ip)).map(|(_, ip)| IpAddr::V4(ip)).into_iter().collect()
    }

    /// Those of the name servers that this agent is: the ones among the addresses of services.
    pub fn own_name_servers(&self) -> Vec<Ipv4Addr> {
        let Ok(range) = self.service_cidr.parse::<Cidr>() else { return Vec::new() };
        let all = self.name_servers().into_iter().filter_map(|ip| match ip {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(_) => None,
        });
        all.filter(|ip| !self.dns_elsewhere && range.contains(*ip)).collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn the_tenth_address_answers_for_names() {
        let shown = |words: &str| {
            let base = ["x", "--node-name=n", "--apiservers=http://a:1", "--state-dir=/s"];
            let config = Config::parse_from(base.into_iter().chain(words.split_whitespace()));
            (format!("{:?}", config.name_servers()), format!("{:?}", config.own_name_servers()))
        };
        let pair = |all: &str, own: &str| (all.to_owned(), own.to_owned());
        assert_eq!(shown(""), pair("[10.96.0.10]", "[10.96.0.10]"));
        assert_eq!(shown("--service-cidr=172.20.0.0/14"), pair("[172.20.0.10]", "[172.20.0.10]"));
        assert_eq!(shown("--dns-elsewhere"), pair("[10.96.0.10]", "[]"));
        assert_eq!(shown("--cluster-dns=8.8.8.8,10.96.0.53"), pair("[8.8.8.8, 10.96.0.53]", "[10.96.0.53]"));
        assert_eq!(shown("--service-cidr="), pair("[]", "[]"));
        assert_eq!(shown("--service-cidr=10.96.0.0/29"), pair("[]", "[]"));
    }
}
