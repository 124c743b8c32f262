//! The real thing: a cluster of containers, the real kubectl, the Python client, etcdctl.

mod bad_input;
mod deployment;
mod etcdctl;
mod go_client;
mod pods;
mod python;
mod services;
mod store_alone;
mod stores;
mod streams;
