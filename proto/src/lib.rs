//! The wires as generated code: modules only, no logic.
//!
//! Every `bytes` field is a `bytes::Bytes`, so that an object's encoding is shared, not copied, on its way.

#![allow(clippy::all, clippy::pedantic, missing_docs, reason = "generated code")]

/// etcd v3: what clients of the store speak.
pub mod etcd {
    /// Keys, values, events.
    pub mod mvccpb {
        tonic::include_proto!("mvccpb");
    }
    /// The services.
    pub mod etcdserverpb {
        tonic::include_proto!("etcdserverpb");
    }
    /// Users, roles, permissions.
    pub mod authpb {
        tonic::include_proto!("authpb");
    }
    /// Locks.
    pub mod v3lockpb {
        tonic::include_proto!("v3lockpb");
    }
    /// Elections.
    pub mod v3electionpb {
        tonic::include_proto!("v3electionpb");
    }
    /// Ours, beside them because it is made of them; see [`crate::store`].
    pub mod balsastorepb {
        tonic::include_proto!("balsastorepb");
    }
    /// etcd's as a descriptor set, for reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/etcd.bin"));
}

/// What the store replicates besides keys.
pub use etcd::balsastorepb as store;

/// Between replicas of the store.
pub mod raft {
    tonic::include_proto!("balsa.raft.v1");
}

/// The components' way to the apiserver.
pub mod api {
    tonic::include_proto!("balsa.api.v1");
}

/// The apiserver's way to a node agent.
pub mod node {
    tonic::include_proto!("balsa.node.v1");
}

/// Explanations of the scheduler.
pub mod scheduler {
    tonic::include_proto!("balsa.scheduler.v1");
}
