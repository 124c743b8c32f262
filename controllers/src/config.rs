//! The flags of `balsa-controllers`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use balsa_process::tls::TlsFiles;
use clap::Parser;

use crate::node_ipam::plan::Cidr;

/// Seconds or with a unit: `50s`, `2m`, `500ms`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| format!("{text:?} is no duration such as 50s"))?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "" | "s" => Ok(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs).ok_or_else(|| format!("{text:?} is too long")),
        "h" => number.checked_mul(3600).map(Duration::from_secs).ok_or_else(|| format!("{text:?} is too long")),
        _ => Err(format!("{unit:?} is no unit of time; there are ms, s, m and h")),
    }
}

/// What retries, replaces and cleans up.
#[derive(Debug, Clone, Parser)]
#[command(name = "balsa-controllers", version)]
pub struct Config {
    /// Name of this copy.
    #[arg(long, env = "BALSA_NAME", default_value = "controllers")]
    pub name: String,
    /// The apiservers' gRPC addresses.
    #[arg(long, env = "BALSA_APISERVERS", value_delimiter = ',', required = true)]
    pub apiservers: Vec<String>,
    /// Health and metrics.
    #[arg(long, env = "BALSA_LISTEN", default_value = "0.0.0.0:10257")]
    pub listen: SocketAddr,
    /// Every node gets a /24 out of this for its pods.
    #[arg(long, env = "BALSA_CLUSTER_CIDR", default_value = "10.244.0.0/16")]
    pub cluster_cidr: Cidr,
    /// The CA that pods check the API with, PEM; the cluster's CA by default.
    #[arg(long, env = "BALSA_ROOT_CA", value_name = "FILE")]
    pub root_ca: Option<PathBuf>,
    /// A node that is silent for longer than this is taken for lost.
    #[arg(long, env = "BALSA_NODE_MONITOR_GRACE_PERIOD", default_value = "50s", value_parser = duration)]
    pub node_monitor_grace_period: Duration,
    /// Our identity; without one plaintext to loopback addresses.
    #[command(flatten)]
    pub tls: Option<TlsFiles>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_the_compose_file() {
        let line = "balsa-controllers --name controllers1 --apiservers https://a:6444,https://b:6444 \
                    --listen 0.0.0.0:10257 --cluster-cidr 10.244.0.0/16 --tls-ca ca --tls-cert c --tls-key k";
        let config = Config::try_parse_from(line.split_whitespace()).unwrap();
        assert_eq!((config.apiservers.len(), config.tls.is_some()), (2, true));
        assert_eq!(config.node_monitor_grace_period, Duration::from_secs(50));
        let config = Config::try_parse_from(["x", "--apiservers", "http://127.0.0.1:1", "--node-monitor-grace-period", "1500ms"]);
        let config = config.unwrap();
        assert!(config.tls.is_none());
        assert_eq!(config.node_monitor_grace_period, Duration::from_millis(1500));
        assert!(Config::try_parse_from(["x", "--apiservers", "a", "--cluster-cidr", "10.0.0.0"]).is_err());
        assert!(Config::try_parse_from(["x", "--apiservers", "a", "--node-monitor-grace-period", "5d"]).is_err());
    }
}
