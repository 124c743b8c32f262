//! A Deployment behind a Service: found by name and reached from every node, and closed by a policy.

use std::collections::BTreeMap;
use std::time::Duration;

use balsa_tests::{Cluster, wait_for};

const WEB: &str = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {replicas: 3, selector: {matchLabels: {app: web}}, \
    template: {metadata: {labels: {app: web}}, spec: {terminationGracePeriodSeconds: 0, containers: [{name: c, image: 'balsa/busybox:1', \
    command: [httpd, -f, -p, '8080', -h, /www], ports: [{name: http, containerPort: 8080}]}], \
    topologySpreadConstraints: [{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, \
    labelSelector: {matchLabels: {app: web}}}]}}}}";
const SERVICE: &str = "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {type: NodePort, selector: {app: web}, \
    ports: [{name: http, port: 80, targetPort: http}]}}";
const CLOSED: &str = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: closed}, \
    spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress]}}";
const PAGE: &str = "this page comes from a pod";

struct Web<'a> {
    cluster: &'a Cluster,
    namespace: &'a str,
}

impl Web<'_> {
    /// What a pod gets from an address and port; empty where nothing comes.
    fn fetch(&self, pod: &str, address: &str, port: &str) -> String {
        // Not wget: that of Debian's static busybox crashes.
        let ask = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | timeout 3 nc -w 2 {address} {port}");
        self.cluster.kubectl(&["exec", pod, "-n", self.namespace, "--", "sh", "-c", &ask]).out
    }

    fn reaches(&self, pod: &str, address: &str, port: &str) {
        wait_for(&format!("{pod} to reach {address}:{port}"), Duration::from_secs(30), || {
            let page = self.fetch(pod, address, port);
            if page.contains(PAGE) { Ok(()) } else { Err(page) }
        });
    }
}

#[test]
fn a_deployment_is_found_by_name_and_reached_from_every_node() {
    let cluster = Cluster::under_test();
    let namespace = cluster.namespace("services");
    let ns = namespace.name.as_str();
    cluster.kubectl_with_input(&["apply", "-n", ns], WEB);
    cluster.kubectl_with_input(&["apply", "-n", ns], SERVICE);
    cluster.kubectl_ok(&["rollout", "status", "deployment/web", "-n", ns, "--timeout=120s"]);
    let pods = cluster.get(&["pods", "-l", "app=web", "-n", ns]).expect("pods");
    let of_nodes: BTreeMap<&str, (&str, &str)> = pods["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|pod| {
            let (name, status) = (pod["metadata"]["name"].as_str()?, &pod["status"]);
            Some((pod["spec"]["nodeName"].as_str()?, (name, status["hostIP"].as_str()?)))
        })
        .collect();
    let service = cluster.get(&["service", "web", "-n", ns]).expect("the service");
    let address = service["spec"]["clusterIP"].as_str().expect("an address");
    let node_port = service["spec"]["ports"][0]["nodePort"].to_string();
    let web = Web { cluster: &cluster, namespace: ns };
    for (pod, _) in of_nodes.values() {
        web.reaches(pod, address, "80");
        // Every node's port, from every node.
        of_nodes.values().for_each(|(_, host)| web.reaches(pod, host, &node_port));
        let name = format!("web.{ns}.svc.cluster.local");
        wait_for(&format!("{pod} to resolve {name}"), Duration::from_secs(30), || {
            let said = cluster.kubectl(&["exec", *pod, "-n", ns, "--", "nslookup", "-type=a", &name]);
            if said.out.contains(address) { Ok(()) } else { Err(format!("{}{}", said.out, said.err)) }
        });
        let resolver = cluster.kubectl_ok(&["exec", *pod, "-n", ns, "--", "cat", "/etc/resolv.conf"]);
        assert!(resolver.contains(&format!("search {ns}.svc.cluster.local svc.cluster.local cluster.local")), "{resolver}");
    }
    assert_closes_and_opens(&web, of_nodes.values().next().expect("a pod").0, address);
}

fn assert_closes_and_opens(web: &Web, pod: &str, address: &str) {
    web.cluster.kubectl_with_input(&["apply", "-n", web.namespace], CLOSED);
    // Its own endpoint still answers it: a pod cannot be closed against itself. Another's does not.
    let pods = web.cluster.get(&["pods", "-l", "app=web", "-n", web.namespace]).expect("pods");
    let others = pods["items"].as_array().into_iter().flatten().filter(|other| other["metadata"]["name"] != pod);
    let other = others.filter_map(|other| other["status"]["podIP"].as_str()).next().expect("another pod");
    wait_for("the policy", Duration::from_secs(20), || {
        let page = web.fetch(pod, other, "8080");
        if page.is_empty() { Ok(()) } else { Err("still reached".to_owned()) }
    });
    web.cluster.kubectl_ok(&["delete", "networkpolicy", "closed", "-n", web.namespace]);
    web.reaches(pod, other, "8080");
    web.reaches(pod, address, "80");
}
