//! Counts calls by method and status under the names of Go's gRPC interceptors, which etcd's dashboards know. A call
//! costs two additions.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use tonic::Code;

macro_rules! methods {
    ($($service:literal { $($name:ident = $kind:literal),* $(,)? })*) => {
        /// A method of one of the services.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[expect(missing_docs, reason = "they are the methods' own names")]
        pub enum Method { $($($name,)*)* }

        /// Service, method and kind of each [`Method`], in its order.
        const METHODS: &[(&str, &str, &str)] = &[$($(($service, stringify!($name), $kind),)*)*];
    };
}

methods! {
    "etcdserverpb.KV" { Range = "unary", Put = "unary", DeleteRange = "unary", Txn = "unary", Compact = "unary" }
    "etcdserverpb.Watch" { Watch = "bidi_stream" }
    "etcdserverpb.Lease" {
        LeaseGrant = "unary", LeaseRevoke = "unary", LeaseKeepAlive = "bidi_stream", LeaseTimeToLive = "unary",
        LeaseLeases = "unary",
    }
    "etcdserverpb.Cluster" {
        MemberAdd = "unary", MemberRemove = "unary", MemberUpdate = "unary", MemberList = "unary", MemberPromote = "unary",
    }
    "etcdserverpb.Maintenance" {
        Alarm = "unary", Status = "unary", Defragment = "unary", Hash = "unary", HashKV = "unary",
        Snapshot = "server_stream", MoveLeader = "unary", Downgrade = "unary",
    }
    "etcdserverpb.Auth" {
        AuthEnable = "unary", AuthDisable = "unary", AuthStatus = "unary", Authenticate = "unary", UserAdd = "unary",
        UserGet = "unary", UserList = "unary", UserDelete = "unary", UserChangePassword = "unary",
        UserGrantRole = "unary", UserRevokeRole = "unary", RoleAdd = "unary", RoleGet = "unary", RoleList = "unary",
        RoleDelete = "unary", RoleGrantPermission = "unary", RoleRevokePermission = "unary",
    }
    "v3lockpb.Lock" { Lock = "unary", Unlock = "unary" }
    "v3electionpb.Election" {
        Campaign = "unary", Proclaim = "unary", Leader = "unary", Observe = "server_stream", Resign = "unary",
    }
}

const CODES: [&str; 17] = [
    "OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound", "AlreadyExists", "PermissionDenied",
    "ResourceExhausted", "FailedPrecondition", "Aborted", "OutOfRange", "Unimplemented", "Internal", "Unavailable",
    "DataLoss", "Unauthenticated",
];

/// The counts.
#[derive(Debug)]
pub struct Calls {
    started: Vec<AtomicU64>,
    handled: Vec<[AtomicU64; CODES.len()]>,
}

impl Default for Calls {
    fn default() -> Self {
        let each = || METHODS.iter();
        Self { started: each().map(|_| AtomicU64::new(0)).collect(), handled: each().map(|_| Default::default()).collect() }
    }
}

impl Calls {
    /// A call begins.
    pub fn started(&self, method: Method) {
        if let Some(count) = self.started.get(method as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A call has ended.
    pub fn handled(&self, method: Method, code: Code) {
        if let Some(count) = self.handled.get(method as usize).and_then(|codes| codes.get(code as usize)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Calls of a method that ended well.
    pub fn succeeded(&self, method: Method) -> u64 {
        self.handled.get(method as usize).map_or(0, |codes| codes[0].load(Ordering::Relaxed))
    }
}

/// Shows [`Calls`] to Prometheus.
#[derive(Debug)]
pub struct Shown(pub std::sync::Arc<Calls>);

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut family = encoder.encode_descriptor("grpc_server_started", "Calls begun", None, MetricType::Counter)?;
        for ((service, method, kind), count) in METHODS.iter().zip(&self.0.started) {
            let labels = [("grpc_type", *kind), ("grpc_service", service), ("grpc_method", method)];
            ConstCounter::new(count.load(Ordering::Relaxed)).encode(family.encode_family(&labels)?)?;
        }
        let mut family =
            encoder.encode_descriptor("grpc_server_handled", "Calls ended, by status", None, MetricType::Counter)?;
        for ((service, method, kind), counts) in METHODS.iter().zip(&self.0.handled) {
            for (code, count) in CODES.iter().zip(counts) {
                let count = count.load(Ordering::Relaxed);
                if count > 0 || *code == "OK" {
                    let labels =
                        [("grpc_type", *kind), ("grpc_service", service), ("grpc_method", method), ("grpc_code", code)];
                    ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
                }
            }
        }
        // The same counts under etcd's own names.
        for (name, method) in [
            ("etcd_mvcc_range", Method::Range), ("etcd_mvcc_put", Method::Put), ("etcd_mvcc_delete", Method::DeleteRange),
            ("etcd_mvcc_txn", Method::Txn),
        ] {
            let shown = encoder.encode_descriptor(name, "Requests that succeeded", None, MetricType::Counter)?;
            ConstCounter::new(self.0.succeeded(method)).encode(shown)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_shown_under_gos_names() {
        let calls = std::sync::Arc::new(Calls::default());
        calls.started(Method::Put);
        calls.handled(Method::Put, Code::Ok);
        calls.handled(Method::RoleRevokePermission, Code::PermissionDenied);
        let mut registry = prometheus_client::registry::Registry::default();
        registry.register_collector(Box::new(Shown(calls)));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            r#"grpc_server_started_total{grpc_type="unary",grpc_service="etcdserverpb.KV",grpc_method="Put"} 1"#,
            r#"grpc_server_handled_total{grpc_type="unary",grpc_service="etcdserverpb.KV",grpc_method="Put",grpc_code="OK"} 1"#,
            r#"grpc_method="RoleRevokePermission",grpc_code="PermissionDenied"} 1"#,
            "etcd_mvcc_put_total 1",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
