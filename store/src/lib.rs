//! Balsa's store: every byte of cluster state, replicated by Raft, kept by RocksDB, spoken to as etcd v3.
//!
//! A write's way: [`grpc`] checks it → [`replica`] proposes it (or passes it on to the leader) → [`raft`] gets it onto
//! a majority's disks ([`disk::log`]: the only sync there is) → [`mvcc`] decides what it does to the keys →
//! [`disk::state`] takes that in one atomic step → [`watch`] tells whoever is interested → the writer is answered.
//!
//! The store knows bytes, revisions, leases, and in its [`ledger`] alarms, users and members. It does not know what a pod is.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests"))]

pub mod command;
pub mod compaction;
pub mod config;
pub mod corruption;
pub mod disk;
pub mod duration;
pub mod error;
pub mod gateway;
pub mod grpc;
pub mod http;
pub mod jwt;
pub mod lease;
pub mod ledger;
pub mod member;
pub mod metrics;
pub mod mvcc;
pub mod process;
pub mod raft;
pub mod replica;
pub mod rt;
pub mod server;
#[cfg(test)]
mod sim;
pub mod tls;
pub mod tools;
pub mod watch;

pub use config::Config;
pub use server::{Handle, run, start};
