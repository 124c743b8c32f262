//! etcd's Go client with its library of locks, elections and transactions, against stores of the test's own. It runs
//! where Go is on PATH, else it says so.

use std::path::PathBuf;
use std::process::Command;

use balsa_tests::{repository, run};

use crate::stores::Stores;

fn go() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = PathBuf::from("/usr/local/go/bin");
    std::env::split_paths(&path).chain([usual]).map(|folder| folder.join("go")).find(|candidate| candidate.is_file())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcds_go_client_works_with_all_that_is_built_on_it() {
    let Some(go) = go() else {
        eprintln!("no Go here: not run");
        return;
    };
    let stores = Stores::start().await;
    let endpoints = format!("--endpoints={}", stores.endpoints.join(","));
    let mut command = Command::new(go);
    command.args(["run", ".", &endpoints]).current_dir(repository().join("tests/etcd-client-go"));
    let said = tokio::task::block_in_place(|| run(&mut command));
    if said.err.contains("dial tcp: lookup") && said.out.is_empty() {
        eprintln!("Go cannot fetch etcd's client here: not run\n{}", said.err);
        return;
    }
    assert!(said.success, "{}{}", said.out, said.err);
}
