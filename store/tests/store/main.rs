//! The store from outside: its key space against a naive model, etcd's semantics over the wire, clusters of three
//! with replicas that are stopped, killed, away, and come back.

#![allow(clippy::unwrap_used, reason = "tests")]

mod auth;
mod beside_etcd;
mod cluster;
mod counts;
mod damage;
mod faults;
mod gateway;
#[path = "../history/mod.rs"]
mod history;
mod http;
mod limits;
mod locks;
mod lossy;
mod maintenance;
mod membership;
mod model;
mod partitions;
mod process;
mod properties;
mod recorded;
mod semantics;
mod spaces;
mod support;
mod tokens;
mod tools;
mod unsynced;
mod upkeep;
