//! Programs on Go clients: etcd's, with its library of locks, elections and transactions, against stores of the test's
//! own; Kubernetes' client-go against the cluster. They run where Go is on PATH, else the tests say so.

use std::path::PathBuf;
use std::process::Command;

use balsa_tests::{Cluster, Said, repository, run};

use crate::stores::Stores;

fn go() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = PathBuf::from("/usr/local/go/bin");
    std::env::split_paths(&path).chain([usual]).map(|folder| folder.join("go")).find(|candidate| candidate.is_file())
}

/// Runs one of the programs under tests/ and shows what it said; none where there is no Go, or it cannot fetch the client.
fn go_run(program: &str, arguments: &[&str]) -> Option<Said> {
    let Some(go) = go() else {
        eprintln!("no Go here: not run");
        return None;
    };
    let said = run(Command::new(go).args(["run", "."]).args(arguments).current_dir(repository().join("tests").join(program)));
    if said.err.contains("dial tcp: lookup") && said.out.is_empty() {
        eprintln!("Go cannot fetch what the program needs here: not run\n{}", said.err);
        return None;
    }
    println!("{}{}", said.out, said.err);
    Some(said)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcds_go_client_works_with_all_that_is_built_on_it() {
    let stores = Stores::start().await;
    let endpoints = format!("--endpoints={}", stores.endpoints.join(","));
    let said = tokio::task::block_in_place(|| go_run("etcd-client-go", &[&endpoints]));
    assert!(said.is_none_or(|said| said.success));
}

#[test]
fn kubernetes_go_client_works_with_all_that_operators_are_built_on() {
    let cluster = Cluster::under_test();
    let namespace = cluster.namespace("client-go");
    let kubeconfig = format!("--kubeconfig={}", cluster.state.join("kubeconfig").display());
    let said = go_run("kubernetes-client-go", &[&kubeconfig, &format!("--namespace={}", namespace.name)]);
    assert!(said.is_none_or(|said| said.success && said.out.ends_with("all good\n")));
}
