//! The apiserver's flags.

use std::net::SocketAddr;
use std::path::PathBuf;

use balsa_process::tls::TlsFiles;

use crate::allocation::range::{Network, PortRange};
use crate::audit::AuditFlags;
use crate::authn::front_proxy::FrontProxyFlags;
use crate::flow::config::Limits;

/// Flags; each may also be given as `BALSA_<FLAG>`.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "balsa-apiserver", about = "The Kubernetes API on an etcd v3 store")]
pub struct Config {
    /// This apiserver's name.
    #[arg(long, env = "BALSA_NAME", default_value = "apiserver")]
    pub name: String,
    /// The store's client URLs, separated by commas.
    #[arg(long, env = "BALSA_STORE_ENDPOINTS", value_delimiter = ',', required = true)]
    pub store_endpoints: Vec<String>,
    /// Where REST is served.
    #[arg(long, env = "BALSA_LISTEN", default_value = "127.0.0.1:6443")]
    pub listen: SocketAddr,
    /// The address at which the cluster reaches this apiserver; found out where it is left out.
    #[arg(long, env = "BALSA_ADVERTISE_ADDRESS")]
    pub advertise_address: Option<std::net::IpAddr>,
    /// Where gRPC is served.
    #[arg(long, env = "BALSA_LISTEN_GRPC", default_value = "127.0.0.1:6444")]
    pub listen_grpc: SocketAddr,
    /// EC P-256 private keys (PEM), separated by commas: the first signs ServiceAccount tokens, all of them check
    /// them. Without any, tokens end with the process.
    #[arg(long, env = "BALSA_SERVICE_ACCOUNT_KEY", value_name = "FILE", value_delimiter = ',')]
    pub service_account_key: Vec<PathBuf>,
    /// For whom tokens are meant that are shown to this API, separated by commas; the issuer where none is given.
    #[arg(long, env = "BALSA_API_AUDIENCES", value_delimiter = ',')]
    pub api_audiences: Vec<String>,
    /// Where the keys of ServiceAccount tokens are shown; below the issuer where not given.
    #[arg(long, env = "BALSA_SERVICE_ACCOUNT_JWKS_URI", default_value = "")]
    pub service_account_jwks_uri: String,
    /// Tokens with their users: lines of `token,user,uid,"group1,group2"`.
    #[arg(long, env = "BALSA_TOKEN_AUTH_FILE", value_name = "FILE")]
    pub token_auth_file: Option<PathBuf>,
    /// Take bootstrap tokens, which are Secrets of kube-system.
    #[arg(long, env = "BALSA_ENABLE_BOOTSTRAP_TOKEN_AUTH", action = clap::ArgAction::Set, num_args = 0..=1, default_value_t = false, default_missing_value = "true")]
    pub enable_bootstrap_token_auth: bool,
    /// Let requests without a credential through as system:anonymous.
    #[arg(long, env = "BALSA_ANONYMOUS_AUTH", action = clap::ArgAction::Set, num_args = 0..=1, default_value_t = false, default_missing_value = "true")]
    pub anonymous_auth: bool,
    /// Proxies in front.
    #[command(flatten)]
    pub requestheader: FrontProxyFlags,
    /// How many requests run at once.
    #[command(flatten)]
    pub limits: Limits,
    /// Requests that one HTTP/2 connection may have open, watches included.
    #[arg(long, env = "BALSA_HTTP2_MAX_STREAMS_PER_CONNECTION", default_value_t = 1000)]
    pub http2_max_streams_per_connection: u32,
    /// Which resources lie encrypted in the store: an EncryptionConfiguration, as YAML.
    #[arg(long, env = "BALSA_ENCRYPTION_PROVIDER_CONFIG", value_name = "FILE")]
    pub encryption_provider_config: Option<PathBuf>,
    /// The audit log.
    #[command(flatten)]
    pub audit: AuditFlags,
    /// The issuer in ServiceAccount tokens.
    #[arg(
        long,
        env = "BALSA_SERVICE_ACCOUNT_ISSUER",
        default_value = "https://kubernetes.default.svc.cluster.local"
    )]
    pub service_account_issuer: String,
    /// The network of Services.
    #[arg(long, env = "BALSA_SERVICE_CIDR", default_value = "10.96.0.0/16")]
    pub service_cidr: Network,
    /// The ports of nodes that Services of type NodePort and LoadBalancer may have.
    #[arg(long, env = "BALSA_SERVICE_NODE_PORT_RANGE", default_value_t)]
    pub service_node_port_range: PortRange,
    /// CA of the store, where it is not ours.
    #[arg(long, env = "BALSA_STORE_CA", value_name = "FILE", requires = "store_cert")]
    pub store_ca: Option<PathBuf>,
    /// Client certificate for the store, where it is not our own.
    #[arg(long, env = "BALSA_STORE_CERT", value_name = "FILE", requires = "store_key")]
    pub store_cert: Option<PathBuf>,
    /// Its key.
    #[arg(long, env = "BALSA_STORE_KEY", value_name = "FILE", requires = "store_ca")]
    pub store_key: Option<PathBuf>,
    /// Our identity. Without it: plaintext, loopback only, everybody is administrator.
    #[command(flatten)]
    pub tls: Option<TlsFiles>,
}

impl Config {
    /// Refuses what would be unsafe.
    pub fn check(&self, has_identity: bool) -> anyhow::Result<()> {
        let exposed = !self.listen.ip().is_loopback() || !self.listen_grpc.ip().is_loopback();
        anyhow::ensure!(
            has_identity || !exposed,
            "without --tls-ca, --tls-cert and --tls-key everybody is administrator, so only loopback addresses may be listened on"
        );
        anyhow::ensure!(
            !has_identity || !self.service_account_key.is_empty(),
            "--service-account-key is missing: several apiservers must sign tokens with one key"
        );
        Ok(())
    }

    /// The identity towards a store with a PKI of its own.
    pub fn store_files(&self) -> Option<TlsFiles> {
        match (&self.store_ca, &self.store_cert, &self.store_key) {
            (Some(ca), Some(cert), Some(key)) => {
                Some(TlsFiles { ca: ca.clone(), cert: cert.clone(), key: key.clone() })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[test]
    fn flags_do_not_take_each_others_places() {
        use clap::CommandFactory as _;
        Config::command().debug_assert();
        let flags = "x --store-endpoints=https://a:1 --tls-ca=/a --tls-cert=/b --tls-key=/c --service-account-key=/d";
        let config = Config::try_parse_from(flags.split(' ')).unwrap();
        assert!(config.tls.is_some() && config.requestheader.ca.is_none());
    }

    #[test]
    fn plaintext_stays_on_loopback() {
        let parse = |listen: &str| {
            Config::try_parse_from(["x", "--store-endpoints", "http://a:1,http://b:2", "--listen", listen]).unwrap()
        };
        let config = parse("127.0.0.1:1");
        assert_eq!(config.store_endpoints.len(), 2);
        assert!(config.check(false).is_ok());
        assert!(parse("0.0.0.0:1").check(false).is_err());
        assert!(parse("0.0.0.0:1").check(true).is_err(), "no key for tokens");
    }
}
