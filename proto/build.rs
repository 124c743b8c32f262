//! Generates the gRPC code with protox, so that no protoc is needed.

use std::io::Error;

const FILES: [&str; 10] = [
    "etcd/kv.proto",
    "etcd/rpc.proto",
    "etcd/auth.proto",
    "etcd/lock.proto",
    "etcd/election.proto",
    "balsa/store.proto",
    "balsa/raft.proto",
    "balsa/api.proto",
    "balsa/node.proto",
    "balsa/scheduler.proto",
];

const REFLECTED: [&str; 3] = ["etcd/rpc.proto", "etcd/lock.proto", "etcd/election.proto"];

fn main() -> Result<(), Error> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"]).map_err(Error::other)?;
    // For gRPC reflection: what a client may ask the store about.
    let reflected = protox::compile(REFLECTED, ["proto"]).map_err(Error::other)?;
    let out = std::path::PathBuf::from(std::env::var_os("OUT_DIR").ok_or_else(|| Error::other("no OUT_DIR"))?);
    std::fs::write(out.join("etcd.bin"), prost::Message::encode_to_vec(&reflected))?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)
}
