//! A Deployment of three replicas, spread and reachable.

use std::collections::BTreeSet;
use std::time::Duration;

use balsa_tests::{Cluster, wait_for};

const WEB: &str = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {replicas: 3, selector: {matchLabels: {app: web}}, \
    template: {metadata: {labels: {app: web}}, spec: {terminationGracePeriodSeconds: 0, containers: [{name: c, image: 'balsa/busybox:1', \
    command: [httpd, -f, -p, '8080', -h, /www], ports: [{containerPort: 8080}]}]}}}}";

#[test]
fn three_replicas_roll_out_scale_and_come_back_when_deleted() {
    let cluster = Cluster::under_test();
    let namespace = cluster.namespace("rollout");
    let ns = namespace.name.as_str();
    let said = cluster.kubectl_with_input(&["apply", "-n", ns], WEB);
    assert_eq!(said.out.trim(), "deployment.apps/web created", "{}", said.err);
    let status = cluster.kubectl_ok(&["rollout", "status", "deployment/web", "-n", ns, "--timeout=120s"]);
    assert!(status.contains("successfully rolled out"), "{status}");
    let pods = cluster.get(&["pods", "-l", "app=web", "-n", ns]).expect("pods");
    let items = pods["items"].as_array().expect("a list");
    let addresses: BTreeSet<&str> = items.iter().filter_map(|pod| pod["status"]["podIP"].as_str()).collect();
    assert_eq!((items.len(), addresses.len()), (3, 3), "{pods}");
    // From pod to pod, whichever nodes they are on.
    let from = items[0]["metadata"]["name"].as_str().expect("a name");
    for address in &addresses {
        // Not wget: that of Debian's static busybox crashes.
        let ask = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc {address} 8080");
        let page = cluster.kubectl_ok(&["exec", from, "-n", ns, "--", "sh", "-c", &ask]);
        assert!(page.contains("this page comes from a pod"), "{page}");
    }
    cluster.kubectl_ok(&["delete", "pod", from, "-n", ns]);
    wait_for("three ready again", Duration::from_secs(60), || {
        let table = cluster.kubectl_ok(&["get", "deployment", "web", "-n", ns]);
        if table.contains("3/3") { Ok(()) } else { Err(table) }
    });
    cluster.kubectl_ok(&["scale", "deployment/web", "--replicas=1", "-n", ns]);
    wait_for("one left", Duration::from_secs(60), || {
        let pods = cluster.get(&["pods", "-l", "app=web", "-n", ns])?;
        let left = pods["items"].as_array().map_or(0, Vec::len);
        if left == 1 { Ok(()) } else { Err(format!("{left} pods")) }
    });
    cluster.kubectl_ok(&["delete", "deployment", "web", "-n", ns]);
    wait_for("its pods collected", Duration::from_secs(60), || {
        let pods = cluster.get(&["pods,replicasets", "-n", ns])?;
        let left = pods["items"].as_array().map_or(0, Vec::len);
        if left == 0 { Ok(()) } else { Err(format!("{left} objects")) }
    });
}
