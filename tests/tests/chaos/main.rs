//! Every process is killed with SIGKILL in turn while pods are created: nothing that was acknowledged may be lost, and
//! no running container may be restarted by it.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use balsa_tests::{Cluster, docker, run, wait_for};

/// SIGKILL to the main process of a container, by its process id on this machine: Docker sees a crash and restarts it.
fn kill(cluster: &Cluster, process: &str) {
    let container = cluster.container(process);
    let before = docker(&["inspect", "--format", "{{.State.Pid}}", &container]);
    let pid = before.out.trim().to_owned();
    assert!(before.success && pid != "0", "{container} does not run: {}{}", before.out, before.err);
    assert!(run(Command::new("kill").args(["-9", &pid])).success, "kill -9 {pid}");
    wait_for(&format!("{process} to come back"), Duration::from_secs(60), || {
        let now = docker(&["inspect", "--format", "{{.State.Running}} {{.State.Pid}}", &container]);
        match now.out.trim().split_once(' ') {
            Some(("true", new)) if new != pid => Ok(()),
            _ => Err(now.out),
        }
    });
}

/// Who holds the Lease of this name in kube-system, as the process's name: `scheduler1_abc…` → `scheduler1`.
fn leader(cluster: &Cluster, lease: &str) -> String {
    wait_for(&format!("a leader for {lease}"), Duration::from_secs(60), || {
        let object = cluster.get(&["lease", lease, "-n", "kube-system"])?;
        let holder = object["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned();
        let name = holder.split('_').next().unwrap_or_default().to_owned();
        if name.is_empty() { Err(object.to_string()) } else { Ok(name) }
    })
}

/// The store that leads, by asking each for its status.
fn leading_store(cluster: &Cluster) -> String {
    wait_for("a store that leads", Duration::from_secs(60), || {
        let said = run(
            Command::new(env!("CARGO")).args(["balsa", "status", "--cluster", &cluster.name]).args([
                "--state".as_ref(),
                cluster.state.as_os_str(),
            ])
            .args(["--api-port", "6553", "--store-port", "2389"])
            .current_dir(balsa_tests::repository()),
        );
        let line = said.out.lines().find(|line| line.starts_with("store") && line.contains(" leader"));
        line.and_then(|line| line.split_whitespace().next()).map(str::to_owned).ok_or(said.out + &said.err)
    })
}

/// Creates pods until told to stop; remembers those whose creation was acknowledged.
fn create_pods(cluster: &Cluster, namespace: &str, stop: &AtomicBool, acknowledged: &Mutex<Vec<String>>) {
    let contexts = [cluster.name.clone(), format!("{}-2", cluster.name)];
    for number in 0..400 {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let name = format!("p{number}");
        // Either apiserver may be the one that is down: the other one is asked.
        for context in &contexts {
            let said = cluster.kubectl(&[
                "--context", context, "run", &name, "-n", namespace, "--image=balsa/busybox:1", "--restart=Never",
                "--request-timeout=10s", "--overrides",
                r#"{"spec":{"terminationGracePeriodSeconds":0}}"#, "--", "sleep", "3600",
            ]);
            // AlreadyExists: the first answer was lost, the pod was not.
            if said.success || said.err.contains("AlreadyExists") {
                acknowledged.lock().expect("no poison").push(name.clone());
                break;
            }
        }
        std::thread::sleep(Duration::from_millis(1500));
    }
}

fn running_pods(cluster: &Cluster, namespace: &str) -> Result<BTreeMap<String, (String, String)>, String> {
    let list = cluster.get(&["pods", "-n", namespace])?;
    let mut found = BTreeMap::new();
    for pod in list["items"].as_array().into_iter().flatten() {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let container = &pod["status"]["containerStatuses"][0];
        if pod["status"]["phase"] != "Running" {
            return Err(format!("{name}: {}", pod["status"]));
        }
        assert_eq!(container["restartCount"], 0, "{name} was restarted: {container}");
        let id = container["containerID"].as_str().unwrap_or_default().trim_start_matches("docker://").to_owned();
        let started = container["state"]["running"]["startedAt"].as_str().unwrap_or_default().to_owned();
        found.insert(name, (id, started));
    }
    Ok(found)
}

#[test]
fn kill_every_process_in_turn_while_pods_are_created() {
    let cluster = Cluster::under_test();
    let namespace = cluster.namespace("chaos");
    let ns = namespace.name.clone();
    let stop = Arc::new(AtomicBool::new(false));
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    let creator = {
        let (cluster, ns, stop, acknowledged) = (cluster.clone(), ns.clone(), stop.clone(), acknowledged.clone());
        std::thread::spawn(move || create_pods(&cluster, &ns, &stop, &acknowledged))
    };
    let some_run = wait_for("the first pods to run", Duration::from_secs(90), || {
        let pods = running_pods(&cluster, &ns)?;
        if pods.len() >= 2 { Ok(pods) } else { Err(format!("{} run", pods.len())) }
    });
    let leading = leading_store(&cluster);
    let followers: Vec<String> =
        ["store1", "store2", "store3"].map(str::to_owned).into_iter().filter(|name| *name != leading).collect();
    let mut victims = vec![leading];
    victims.extend(followers);
    victims.extend(["apiserver1", "apiserver2"].map(str::to_owned));
    victims.push(leader(&cluster, "kube-scheduler"));
    victims.push(leader(&cluster, "kube-controller-manager"));
    victims.extend(["node1", "node2", "node3"].map(str::to_owned));
    for victim in &victims {
        eprintln!("kill -9 {victim}");
        kill(&cluster, victim);
        std::thread::sleep(Duration::from_secs(3));
    }
    stop.store(true, Ordering::Relaxed);
    creator.join().expect("the creator ends");
    let acknowledged = acknowledged.lock().expect("no poison").clone();
    let at_end = wait_for("every acknowledged pod to run", Duration::from_secs(180), || {
        let pods = running_pods(&cluster, &ns)?;
        let missing: Vec<&String> = acknowledged.iter().filter(|name| !pods.contains_key(*name)).collect();
        if missing.is_empty() { Ok(pods) } else { Err(format!("missing: {missing:?}")) }
    });
    eprintln!("{} processes killed, {} pods acknowledged, {} run", victims.len(), acknowledged.len(), at_end.len());
    for (name, before) in &some_run {
        assert_eq!(at_end.get(name), Some(before), "{name} is the same container as before the kills");
    }
    let containers = cluster.pod_containers(&format!("_{ns}_"));
    let apps = containers.iter().filter(|name| !name.starts_with("k8s_POD_")).count();
    assert_eq!(apps, at_end.len(), "one container per pod, none twice, none left over: {containers:?}");
}
