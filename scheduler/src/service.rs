//! The scheduler's process: flags, ports, leader election around [`crate::driver`].

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use balsa_client::events::EventRecorder;
use balsa_client::informer::{Informer, Scope};
use balsa_client::leader::{self, LeaderConfig};
use balsa_client::{Client, ClientConfig};
use balsa_process::tls::TlsFiles;
use balsa_process::{identity, observe};
use balsa_proto::scheduler::scheduler_server::SchedulerServer;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use prometheus_client::registry::Registry;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;

use crate::driver::{Driver, Inputs};
use crate::explain::Explanations;
use crate::metrics::Metrics;

/// How to run a scheduler.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "balsa-scheduler", about = "Decides which node each pod goes to")]
pub struct Config {
    /// Name of this copy, for people.
    #[arg(long, env = "BALSA_NAME", default_value = "scheduler1")]
    pub name: String,
    /// The apiservers' component ports: https://HOST:6444, separated by commas.
    #[arg(long, env = "BALSA_APISERVERS", value_delimiter = ',', required = true)]
    pub apiservers: Vec<String>,
    /// Where health and metrics are served.
    #[arg(long, env = "BALSA_LISTEN", default_value = "0.0.0.0:10259")]
    pub listen: SocketAddr,
    /// Where explanations are served.
    #[arg(long, env = "BALSA_LISTEN_GRPC", default_value = "0.0.0.0:10260")]
    pub listen_grpc: SocketAddr,
    /// Identity; without it everything is plaintext, which is for loopback only.
    #[command(flatten)]
    pub tls: Option<TlsFiles>,
}

/// Runs until `stop`.
pub async fn run(config: Config, stop: CancellationToken) -> anyhow::Result<()> {
    let tls = config.tls.as_ref().map(TlsFiles::load).transpose().context("TLS identity")?;
    if tls.is_none() {
        for address in [config.listen, config.listen_grpc] {
            anyhow::ensure!(
                address.ip().is_loopback(),
                "refusing to listen on {address} without TLS: give --tls-ca, --tls-cert and --tls-key, or a loopback address"
            );
        }
    }
    let client = Client::new(ClientConfig {
        apiservers: config.apiservers.clone(),
        identity: tls.clone(),
        component: "kube-scheduler".to_owned(),
    })?;
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    let explanations = Explanations::default();

    let observed = observe::bind(config.listen).await?;
    let explained = observe::bind(config.listen_grpc).await?;
    tracing::info!(
        name = config.name,
        observe = %observed.local_addr()?,
        explain = %explained.local_addr()?,
        "scheduler starting"
    );
    let election = LeaderConfig::new("kube-scheduler", &config.name);
    let health: observe::Health = Arc::new(election.check());
    let observing = observe::serve(observed, tls.clone(), Arc::new(registry), health, stop.clone());
    let mut server = tonic::transport::Server::builder();
    if let Some(tls) = &tls {
        server = server.tls_config(tls.tonic_server()).context("TLS of the explanations' port")?;
    }
    let explaining = server
        .add_service(SchedulerServer::new(explanations.clone()))
        .serve_with_incoming_shutdown(TcpListenerStream::new(explained), stop.clone().cancelled_owned());

    // The copies that do not lead follow too, so that they can take over at once.
    let inputs = Inputs {
        pods: Informer::<Pod>::start(client.clone(), Scope::all(), stop.clone()),
        nodes: Informer::<Node>::start(client.clone(), Scope::all(), stop.clone()),
        namespaces: Informer::<Namespace>::start(client.clone(), Scope::all(), stop.clone()),
    };
    let recorder = EventRecorder::new(client.clone(), "default-scheduler", "");
    let leading = leader::run(client.clone(), election, stop.clone(), |lost| {
        let driver = Driver::new(client.clone(), recorder.clone(), metrics.clone(), explanations.clone(), lost);
        let (inputs, metrics, explanations) = (inputs.clone(), metrics.clone(), explanations.clone());
        async move {
            metrics.leading(true);
            explanations.leading(true);
            driver.run(&inputs).await;
            metrics.leading(false);
            explanations.leading(false);
        }
    });
    tracing::debug!(user = identity::names::SCHEDULER, "competing for the lease");
    let observing = async { observing.await.context("observation port") };
    let explaining = async { explaining.await.context("explanations' port") };
    let leading = async {
        leading.await;
        Ok(())
    };
    tokio::try_join!(observing, explaining, leading)?;
    Ok(())
}
