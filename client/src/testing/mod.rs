//! An apiserver in memory, for tests of whoever uses this crate (feature `test-util`).
//!
//! It speaks the real wire (`balsa.api.v1` over plaintext gRPC on a loopback port) and keeps the rules that clients
//! lean on: revisions, preconditions, status apart from the rest, finalizers, graceful deletion of pods, selectors,
//! watches with initial events, 410 after compaction. It validates and defaults nothing.

mod merge;
mod service;
mod store;

use std::net::SocketAddr;
use std::sync::Arc;

use balsa_api::meta::GroupVersionResource;
use balsa_api::status::ApiError;
use balsa_proto::api::api_server::ApiServer;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;

use self::store::Store;
use crate::client::{Client, ClientConfig};
use crate::object::{Object, resource_of};

/// A running apiserver double; it stops when the value is dropped.
pub struct FakeApi {
    shared: Arc<Shared>,
    address: SocketAddr,
    server: CancellationToken,
}

struct Shared {
    store: Mutex<Store>,
    /// The revision, for watches to wait on.
    revision: tokio::sync::watch::Sender<u64>,
    /// Cancelled and replaced to cut all watches off.
    watches: Mutex<CancellationToken>,
    faults: Mutex<Vec<Fault>>,
    requests: Mutex<Vec<String>>,
}

struct Fault {
    method: String,
    times: u32,
    error: ApiError,
    /// Whether the request is carried out all the same: an answer that got lost.
    after: bool,
}

impl FakeApi {
    /// Starts one on a free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port on loopback");
        let address = listener.local_addr().expect("a bound port");
        let shared = Arc::new(Shared {
            store: Mutex::new(Store::default()),
            revision: tokio::sync::watch::Sender::new(1),
            watches: Mutex::new(CancellationToken::new()),
            faults: Mutex::new(Vec::new()),
            requests: Mutex::new(Vec::new()),
        });
        let fake = Self { shared, address, server: CancellationToken::new() };
        fake.serve(listener);
        fake
    }

    /// A second one with the same objects on another port, as two apiservers over one store.
    pub async fn sibling(&self) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port on loopback");
        let address = listener.local_addr().expect("a bound port");
        let fake = Self { shared: self.shared.clone(), address, server: CancellationToken::new() };
        fake.serve(listener);
        fake
    }

    fn serve(&self, listener: TcpListener) {
        let service = ApiServer::new(service::Service { shared: self.shared.clone(), server: self.server.clone() });
        let server = self.server.clone();
        tokio::spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            let served = tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming_shutdown(incoming, server.cancelled_owned());
            if let Err(error) = served.await {
                tracing::error!(%error, "the apiserver double failed");
            }
        });
    }

    /// Stops answering, as a killed apiserver does. The objects stay with the siblings.
    pub fn stop(&self) {
        self.server.cancel();
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A client of this double.
    pub fn client(&self, component: &str) -> Client {
        let config = ClientConfig { apiservers: vec![self.url()], identity: None, component: component.to_owned() };
        Client::new(config).expect("a well-formed loopback URL")
    }

    /// Creates or replaces an object, status included, past all rules.
    pub fn put<K: Object>(&self, object: &K) -> K {
        let value = serde_json::to_value(object).expect("objects are JSON");
        let stored = self.put_raw(&resource_of::<K>(), value);
        serde_json::from_value(stored).expect("it was a K before")
    }

    /// [`FakeApi::put`] for any resource.
    pub fn put_raw(&self, resource: &GroupVersionResource, value: Value) -> Value {
        let stored = self.shared.store.lock().put(resource, value);
        self.shared.tell();
        stored
    }

    /// An object as it is now.
    pub fn get<K: Object>(&self, ns: &str, name: &str) -> Option<K> {
        let value = self.shared.store.lock().get(&resource_of::<K>(), ns, name).ok()?;
        serde_json::from_value(value).ok()
    }

    /// All objects of a kind, in the order of their keys.
    pub fn list<K: Object>(&self) -> Vec<K> {
        let store = self.shared.store.lock();
        store.list(&resource_of::<K>(), "").into_iter().filter_map(|value| serde_json::from_value(value).ok()).collect()
    }

    /// Removes an object at once, past all rules.
    pub fn remove<K: Object>(&self, ns: &str, name: &str) {
        self.shared.store.lock().remove(&resource_of::<K>(), ns, name);
        self.shared.tell();
    }

    /// The present revision.
    pub fn revision(&self) -> u64 {
        self.shared.store.lock().revision()
    }

    /// Forgets the history: watches from an older revision get 410.
    pub fn compact(&self) {
        self.shared.store.lock().compact();
    }

    /// Cuts all running watches off.
    pub fn drop_watches(&self) {
        let old = std::mem::take(&mut *self.shared.watches.lock());
        old.cancel();
    }

    /// The next `times` requests of `method` (`GET pods`, `BIND pods`, `PATCH pods/status`, …) are refused with
    /// `error`, without effect.
    pub fn fail(&self, method: &str, times: u32, error: ApiError) {
        self.shared.faults.lock().push(Fault { method: method.to_owned(), times, error, after: false });
    }

    /// The next `times` requests of `method` are carried out, but answered with `error`.
    pub fn lose_answers(&self, method: &str, times: u32, error: ApiError) {
        self.shared.faults.lock().push(Fault { method: method.to_owned(), times, error, after: true });
    }

    /// Every request so far: `CREATE pods default/web`, in order; reads and watches too.
    pub fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().clone()
    }

    /// Waits until `condition` holds for the present objects; panics with `what` after 20 s.
    pub async fn until<T>(&self, what: &str, mut condition: impl FnMut(&Self) -> Option<T>) -> T {
        let mut revision = self.shared.revision.subscribe();
        let wait = async {
            loop {
                if let Some(value) = condition(self) {
                    return value;
                }
                // What the condition itself wrote is no reason to ask it again: that would be a busy loop, and every
                // turn of it would wake every watch.
                revision.mark_unchanged();
                // Requests that change nothing do not move the revision.
                let _ = tokio::time::timeout(std::time::Duration::from_millis(50), revision.changed()).await;
            }
        };
        match tokio::time::timeout(std::time::Duration::from_secs(20), wait).await {
            Ok(value) => value,
            Err(_) => panic!("not within 20 s: {what}; requests: {:#?}", self.requests()),
        }
    }
}

impl Drop for FakeApi {
    fn drop(&mut self) {
        self.server.cancel();
    }
}

impl Shared {
    fn tell(&self) {
        self.revision.send_replace(self.store.lock().revision());
    }

    /// Notes a request; fails where a fault was ordered for before its execution.
    fn before(&self, method: &str, key: &str) -> Result<Option<ApiError>, ApiError> {
        self.requests.lock().push(format!("{method} {key}"));
        let mut faults = self.faults.lock();
        let Some(fault) = faults.iter_mut().find(|fault| fault.method == method && fault.times > 0) else {
            return Ok(None);
        };
        fault.times -= 1;
        if fault.after { Ok(Some(fault.error.clone())) } else { Err(fault.error.clone()) }
    }
}
