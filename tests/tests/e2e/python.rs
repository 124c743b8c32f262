//! The Python client creates, watches, execs into and deletes a pod. It runs where the package is, or can be got.

use std::path::PathBuf;
use std::process::Command;

use balsa_tests::{Cluster, repository, run};

/// A Python that has the `kubernetes` package; a virtual environment under target/ where the machine's has not.
fn python() -> Option<PathBuf> {
    let has_it = |program: &PathBuf| run(Command::new(program).args(["-c", "import kubernetes"])).success;
    let system = PathBuf::from("python3");
    if has_it(&system) {
        return Some(system);
    }
    let folder = repository().join("target/python");
    let own = folder.join("bin/python");
    if !own.exists() {
        let made = run(Command::new("python3").arg("-m").arg("venv").arg(&folder));
        if !made.success {
            eprintln!("no Python with venv here: {}{}", made.out, made.err);
            return None;
        }
    }
    if !has_it(&own) {
        let got = run(Command::new(&own).args(["-m", "pip", "install", "--quiet", "kubernetes==33.1.0"]));
        assert!(got.success, "pip install kubernetes: {}", got.err);
    }
    Some(own)
}

#[test]
fn creates_watches_execs_and_deletes() {
    let Some(python) = python() else {
        eprintln!("not run");
        return;
    };
    let cluster = Cluster::under_test();
    let namespace = cluster.namespace("python");
    let said = run(
        Command::new(python)
            .arg(repository().join("tests/tests/e2e/client.py"))
            .arg(&namespace.name)
            .env("KUBECONFIG", cluster.state.join("kubeconfig")),
    );
    assert!(said.success && said.out.ends_with("all good\n"), "{}\n{}", said.out, said.err);
}
