//! `cargo balsa VERB`: the command that people use.
//!
//! It decides nothing about pods; it installs, builds, starts, stops and looks. Each verb is one module.

#![forbid(unsafe_code)]

mod bench;
mod build;
mod compose;
mod dev;
mod down;
mod engine;
mod http;
mod images;
mod kubeconfig;
mod layout;
mod peers;
mod pki;
mod prerequisites;
mod run;
mod status;
mod steps;
mod test;
mod up;

use clap::{Parser, Subcommand};

/// A light Kubernetes on a Raft: bring up a cluster on this machine, look at it, break it, take it down.
#[derive(Parser)]
#[command(name = "cargo balsa", bin_name = "cargo balsa", version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Everything from nothing: install what is missing, build, make images and certificates, start, wait until ready.
    Up(up::Options),
    /// Stop the cluster; its data stays unless --wipe.
    Down(down::Options),
    /// One screen: stores, apiservers, leaders, nodes, pods.
    Status(status::Options),
    /// The tests; without a word all of them.
    Test(test::Options),
    /// Figures as JSON lines; etcd on PATH is measured in the same run.
    Bench(bench::Options),
    /// The whole cluster in one process.
    Dev(dev::Options),
}

fn main() -> std::process::ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.verb {
        Verb::Up(options) => up::up(&options),
        Verb::Down(options) => down::down(&options),
        Verb::Status(options) => status::status(&options),
        Verb::Test(options) => test::test(&options),
        Verb::Bench(options) => bench::bench(&options),
        Verb::Dev(options) => dev::dev(&options),
    };
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cargo balsa: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
