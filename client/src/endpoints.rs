//! Which apiserver a call goes to: one is used until it fails, then the next.
//!
//! Decides when a call is tried again. A read always is, on another endpoint. A write is only where it certainly was
//! not sent, or where its caller says that sending it twice does no harm; else the caller learns that the outcome is
//! unknown and has to look.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use balsa_process::backoff::Backoff;
use balsa_process::tls::TlsIdentity;
use balsa_proto::api::api_client::ApiClient;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use crate::error::{self, Error, Result};

/// No object is larger than 3 MiB, but a list is as large as it is.
const MAX_ANSWER: usize = 1 << 30;
/// A peer that does not answer a ping for this long after [`PING_EVERY`] is given up: 10 s together.
const PING_TIMEOUT: Duration = Duration::from_secs(5);
const PING_EVERY: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Whether a call that may have reached the apiserver is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// Reads, and writes that have the same effect twice.
    Always,
    /// Only where it was certainly not sent.
    IfNotSent,
}

#[derive(Clone)]
pub(crate) struct Endpoints {
    inner: Arc<Inner>,
}

struct Inner {
    names: Vec<String>,
    clients: Vec<ApiClient<Channel>>,
    current: AtomicUsize,
}

impl Endpoints {
    /// Connects when first used; never waits for a server. Must be called inside a tokio runtime.
    pub(crate) fn new(addresses: &[String], identity: Option<&TlsIdentity>) -> anyhow::Result<Self> {
        anyhow::ensure!(!addresses.is_empty(), "no apiserver is named: at least one URL is needed");
        let clients = addresses.iter().map(|address| client(address, identity)).collect::<anyhow::Result<_>>()?;
        Ok(Self { inner: Arc::new(Inner { names: addresses.to_vec(), clients, current: AtomicUsize::new(0) }) })
    }

    pub(crate) fn current(&self) -> (usize, ApiClient<Channel>) {
        let index = self.inner.current.load(Ordering::Relaxed);
        (index, self.inner.clients[index].clone())
    }

    /// Gives up `index` for the next one, unless somebody already did.
    pub(crate) fn rotate(&self, index: usize, why: &dyn std::fmt::Display) {
        let next = (index + 1) % self.inner.clients.len();
        let changed = self.inner.current.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if changed && next != index {
            tracing::info!(from = self.inner.names[index], to = self.inner.names[next], %why, "changing apiserver");
        }
    }

    /// Runs `call` until it has an answer, `deadline` has passed or it may not be repeated.
    pub(crate) async fn call<T, F, Fut>(&self, deadline: Duration, repeat: Repeat, mut call: F) -> Result<T>
    where
        F: FnMut(ApiClient<Channel>, Duration) -> Fut,
        Fut: Future<Output = std::result::Result<Response<T>, Status>>,
    {
        let end = Instant::now() + deadline;
        // With another endpoint at hand, one that hangs may not use up the whole time.
        let several = self.inner.clients.len() > 1 && repeat == Repeat::Always;
        let share = if several { deadline / 2 } else { deadline };
        let mut backoff = Backoff::connection();
        loop {
            let (index, client) = self.current();
            let time = share.min(end.saturating_duration_since(Instant::now()));
            let (failure, again) = match tokio::time::timeout(time, call(client, time)).await {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) => judge(&status, repeat),
                Err(_) => (Error::Unavailable(format!("no answer within {time:?}")), repeat == Repeat::Always),
            };
            if failed_over(&failure) {
                self.rotate(index, &failure);
            }
            let pause = backoff.next_delay();
            let first_round = (backoff.failures() as usize) < self.inner.clients.len();
            let pause = if first_round { Duration::ZERO } else { pause };
            if !again || Instant::now() + pause >= end {
                return Err(failure);
            }
            tokio::time::sleep(pause).await;
        }
    }
}

/// What a failed attempt means, and whether there may be another.
fn judge(status: &Status, repeat: Repeat) -> (Error, bool) {
    let failure = error::from_status(status);
    let again = match &failure {
        Error::Unavailable(_) => repeat == Repeat::Always || error::was_never_sent(status),
        Error::Api(api) => repeat == Repeat::Always && api.code == 503,
        Error::Decode(_) => false,
    };
    (failure, again)
}

/// Whether the endpoint itself is at fault.
fn failed_over(failure: &Error) -> bool {
    match failure {
        Error::Unavailable(_) => true,
        Error::Api(error) => error.code == 503,
        Error::Decode(_) => false,
    }
}

fn client(address: &str, identity: Option<&TlsIdentity>) -> anyhow::Result<ApiClient<Channel>> {
    let endpoint = Endpoint::from_shared(address.to_owned())
        .with_context(|| format!("{address:?} is not the URL of an apiserver"))?;
    let tls = endpoint.uri().scheme_str() == Some("https");
    anyhow::ensure!(
        tls == identity.is_some(),
        "{address}: {}",
        if tls { "https needs --tls-ca, --tls-cert and --tls-key" } else { "with a TLS identity the URL must be https" },
    );
    let endpoint = match identity {
        Some(identity) => endpoint.tls_config(identity.tonic_client()).context("unusable TLS identity")?,
        None => endpoint,
    };
    let channel = endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .connect_lazy();
    Ok(ApiClient::new(channel).max_decoding_message_size(MAX_ANSWER).max_encoding_message_size(MAX_ANSWER))
}

/// A request that tells the server its deadline too.
pub(crate) fn timed<T>(message: T, time: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(time);
    request
}
