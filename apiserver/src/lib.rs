//! The apiserver: Kubernetes REST for people, gRPC for the components, etcd v3 underneath. It keeps nothing but caches.
//!
//! | way in | what it does |
//! |---|---|
//! | [`rest`] | connections, identities, paths, forms of answers |
//! | [`grpc`] | the same for the components |
//! | [`authn`], [`authz`] | who calls, what they may |
//! | [`pipeline`] | default → admit → validate → one store transaction |
//! | [`aggregation`] | parts of the API that servers in the cluster serve |
//! | [`admission`] | what the cluster has to say about a write |
//! | [`apiextensions`] | custom resources: kinds that come and go |
//! | [`allocation`] | which Service has which address and node port |
//! | [`streaming`], [`proxy`] | exec, logs, port-forward and HTTP to what runs on nodes |
//! | [`watch_cache`] | present state and recent events, for lists and watches |
//! | [`storage`] | the store, as etcd v3 |
//! | [`presence`] | this API server among the others |
//! | [`bootstrap`] | what every cluster has from the start |

#![forbid(unsafe_code)]

pub mod admission;
pub mod aggregation;
pub mod allocation;
pub mod apiextensions;
pub mod authn;
pub mod authz;
pub mod bootstrap;
pub mod config;
pub mod grpc;
pub mod metrics;
pub mod pipeline;
pub mod presence;
pub mod proxy;
pub mod rest;
pub mod storage;
pub mod streaming;
pub mod value;
pub mod watch_cache;

#[cfg(test)]
mod kinds_tests;
#[cfg(test)]
mod tests;

pub use config::Config;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use balsa_process::observe;
use balsa_process::tls::TlsIdentity;
use balsa_proto::api::api_server::ApiServer;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;

use authn::token::Signer;
use authz::Authorizer;
use pipeline::{Api, Settings};
use rest::{Rest, misc};
use storage::etcd::EtcdStore;
use storage::{Store, compactor};
use watch_cache::{Caches, feed};

/// Largest gRPC message taken: a list of a large cluster on the way out, an object on the way in.
const MAX_GRPC_BYTES: usize = 64 << 20;

/// Runs an apiserver until `stop`.
pub async fn run(config: Config, stop: CancellationToken) -> anyhow::Result<()> {
    let identity = config.tls.as_ref().map(|files| files.load()).transpose()?;
    config.check(identity.is_some())?;
    let store_identity = match config.store_files() {
        Some(files) => Some(files.load().context("--store-ca, --store-cert, --store-key")?),
        None => identity.clone(),
    };
    let store: Arc<dyn Store> = Arc::new(EtcdStore::new(&config.store_endpoints, store_identity.as_ref())?);
    run_on(config, identity, store, stop).await
}

/// As [`run`], on a store that is given.
pub async fn run_on(
    config: Config,
    identity: Option<TlsIdentity>,
    store: Arc<dyn Store>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let signer = match &config.service_account_key {
        Some(path) => {
            let pem = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            Signer::new(&pem, &config.service_account_issuer)?
        }
        None => Signer::generate(&config.service_account_issuer)?,
    };
    let caches = Caches::new(&stored_kinds());
    let api = Arc::new(Api {
        store: store.clone(),
        authorizer: Authorizer::new(caches.clone()),
        caches: caches.clone(),
        kinds: Arc::new(apiextensions::Kinds::new(caches.clone())),
        converter: Arc::default(),
        signer: Arc::new(signer),
        settings: Settings {
            name: config.name.clone(),
            service_cidr: config.service_cidr.clone(),
            node_ports: config.service_node_port_range,
        },
        hooks: admission::hooks::Hooks::default(),
    });
    let rest_listener = observe::bind(config.listen).await?;
    let grpc_listener = observe::bind(config.listen_grpc).await?;
    tracing::info!(name = config.name, rest = %config.listen, grpc = %config.listen_grpc, "apiserver listens");
    tokio::spawn(feed::run(caches, store.clone(), stop.clone()));
    tokio::spawn(compactor::run(store, compactor::EVERY, stop.clone()));
    tokio::spawn(bootstrap::run(api.clone(), stop.clone()));
    tokio::spawn(allocation::repair::run(api.clone(), stop.clone()));
    tokio::spawn(apiextensions::controller::run(api.clone(), stop.clone()));
    let rest = Arc::new(Rest {
        api: api.clone(),
        streaming: streaming::Streaming::new(identity.clone()),
        metrics: Arc::default(),
        openapi: misc::OpenApi::default(),
        aggregation: Arc::new(aggregation::Aggregation::new(identity.clone())),
        address: config.listen.to_string(),
    });
    api.converter.reach_by(Box::new(apiextensions::convert::Posts(rest.dialer())));
    tokio::spawn(aggregation::keeper::run(rest.clone(), stop.clone()));
    let listened = SocketAddr::new(config.advertise_address.unwrap_or(config.listen.ip()), config.listen.port());
    if let Some(place) = presence::place(listened) {
        tokio::spawn(presence::run(api.clone(), place, stop.clone()));
    }
    api.hooks.set_dial(rest.dialer());
    tokio::spawn(admission::hooks::policy::types::run(api.clone(), stop.clone()));
    let rest_served = rest::serve::serve(rest.clone(), rest_listener, identity.as_ref(), stop.clone());
    let grpc_served = serve_grpc(api, grpc_listener, identity.as_ref(), stop.clone());
    let served = tokio::try_join!(async { rest_served.await.map_err(anyhow::Error::from) }, grpc_served);
    stop.cancel();
    served.map(|((), ())| ())
}

/// The kinds whose objects are kept.
pub fn stored_kinds() -> Vec<&'static dyn balsa_api::kind::Kind> {
    balsa_api::kinds::all().iter().copied().filter(|kind| kind.verbs().contains(&"get")).collect()
}

async fn serve_grpc(
    api: Arc<Api>,
    listener: tokio::net::TcpListener,
    identity: Option<&TlsIdentity>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut server = tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(8 << 20)
        .http2_keepalive_interval(Some(std::time::Duration::from_secs(10)));
    if let Some(identity) = identity {
        server = server.tls_config(identity.tonic_server())?;
    }
    let service = ApiServer::new(grpc::Service { api, plaintext: identity.is_none() })
        .max_decoding_message_size(MAX_GRPC_BYTES)
        .max_encoding_message_size(usize::MAX);
    let serving = server.add_service(service).serve_with_incoming(TcpListenerStream::new(listener));
    tokio::select! {
        served = serving => Ok(served?),
        // Open watches would hold the process; components resume elsewhere.
        () = stop.cancelled() => Ok(()),
    }
}
