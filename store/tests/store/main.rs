//! The store from outside: its key space against a naive model, etcd's semantics over the wire, clusters of three
//! with replicas that are stopped, killed, away, and come back.

#![allow(clippy::unwrap_used, reason = "tests")]

mod auth;
mod cluster;
mod counts;
mod damage;
mod faults;
#[path = "../history/mod.rs"]
mod history;
mod http;
mod locks;
mod maintenance;
mod membership;
mod model;
mod process;
mod properties;
mod recorded;
mod semantics;
mod support;
mod tools;
