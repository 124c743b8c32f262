//! Generates the gRPC code with protox, so that no protoc is needed.

use std::io::Error;

const FILES: [&str; 6] = [
    "etcd/kv.proto",
    "etcd/rpc.proto",
    "balsa/raft.proto",
    "balsa/api.proto",
    "balsa/node.proto",
    "balsa/scheduler.proto",
];

fn main() -> Result<(), Error> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"]).map_err(Error::other)?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)
}
