//! A pod's life as a person sees it with kubectl.

use std::time::Duration;

use balsa_tests::{Cluster, docker, wait_for};

fn pod(name: &str, restart: &str, script: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{app: {name}}}}}, spec: {{restartPolicy: {restart}, \
         terminationGracePeriodSeconds: 2, containers: [{{name: c, image: 'balsa/busybox:1', command: [sh, -c, {script:?}]}}]}}}}"
    )
}

#[test]
fn a_pod_is_applied_runs_is_described_and_deleted_without_a_trace() {
    let cluster = Cluster::under_test();
    let namespace = cluster.namespace("life");
    let ns = namespace.name.as_str();
    let said = cluster.kubectl_with_input(&["apply", "-n", ns], &pod("hello", "Always", "trap 'exit 0' TERM; while true; do sleep 0.1; done"));
    assert_eq!(said.out.trim(), "pod/hello created", "{}", said.err);
    let object = cluster.wait_phase(ns, "hello", "Running");
    let wide = cluster.kubectl_ok(&["get", "pods", "-o", "wide", "-n", ns]);
    for part in ["NAME", "READY", "1/1", "Running", object["status"]["podIP"].as_str().expect("an IP"), object["spec"]["nodeName"].as_str().expect("a node")] {
        assert!(wide.contains(part), "no {part} in\n{wide}");
    }
    let uid = object["metadata"]["uid"].as_str().expect("a UID").to_owned();
    wait_for("events in describe", Duration::from_secs(20), || {
        let text = cluster.kubectl_ok(&["describe", "pod", "hello", "-n", ns]);
        let missing = ["Successfully assigned life/hello to node", "Container created", "Container started"]
            .into_iter()
            .find(|part| !text.contains(part));
        missing.map_or(Ok(()), |part| Err(format!("no {part:?} in\n{text}")))
    });
    assert!(!cluster.pod_containers(&uid).is_empty(), "its containers carry its UID");
    cluster.kubectl_ok(&["delete", "pod", "hello", "-n", ns, "--timeout=60s"]);
    assert_eq!(cluster.pod_containers(&uid), Vec::<String>::new(), "the object is gone, so must be its containers");
}

#[test]
fn exit_codes_become_phases() {
    let cluster = Cluster::under_test();
    let namespace = cluster.namespace("phases");
    let ns = namespace.name.as_str();
    cluster.kubectl_with_input(&["apply", "-n", ns], &pod("good", "Never", "echo done"));
    cluster.kubectl_with_input(&["apply", "-n", ns], &pod("bad", "Never", "echo broken; exit 3"));
    let good = cluster.wait_phase(ns, "good", "Succeeded");
    assert_eq!(good["status"]["containerStatuses"][0]["state"]["terminated"]["reason"], "Completed");
    let bad = cluster.wait_phase(ns, "bad", "Failed");
    let terminated = &bad["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&terminated["exitCode"], &terminated["reason"]), (&3.into(), &"Error".into()));
    assert_eq!(cluster.kubectl_ok(&["logs", "bad", "-n", ns]), "broken\n");
    let table = cluster.kubectl_ok(&["get", "pods", "-n", ns]);
    assert!(table.contains("Completed") && table.contains("Error"), "{table}");
}

#[test]
fn a_crashing_container_backs_off_and_keeps_its_last_log() {
    let cluster = Cluster::under_test();
    let namespace = cluster.namespace("crash");
    let ns = namespace.name.as_str();
    cluster.kubectl_with_input(&["apply", "-n", ns], &pod("crash", "Always", "echo once more; exit 1"));
    wait_for("CrashLoopBackOff", Duration::from_secs(60), || {
        let table = cluster.kubectl_ok(&["get", "pod", "crash", "-n", ns]);
        if table.contains("CrashLoopBackOff") { Ok(()) } else { Err(table) }
    });
    let status = cluster.get(&["pod", "crash", "-n", ns]).expect("the pod");
    let container = &status["status"]["containerStatuses"][0];
    assert!(container["restartCount"].as_u64() >= Some(1), "{container}");
    assert_eq!(container["lastState"]["terminated"]["exitCode"], 1);
    assert_eq!(cluster.kubectl_ok(&["logs", "crash", "--previous", "-n", ns]), "once more\n");
}

#[test]
fn what_it_waits_for_is_said_and_it_goes_on_when_it_comes() {
    let cluster = Cluster::under_test();
    let namespace = cluster.namespace("missing");
    let ns = namespace.name.as_str();
    let manifest = "{apiVersion: v1, kind: Pod, metadata: {name: wants}, spec: {terminationGracePeriodSeconds: 0, containers: [{name: c, \
        image: 'balsa/busybox:1', command: [sh, -c, 'echo $COLOUR; cat /etc/settings/size; echo; sleep 1000'], \
        env: [{name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}], \
        volumeMounts: [{name: v, mountPath: /etc/settings}]}], volumes: [{name: v, configMap: {name: settings}}]}}";
    cluster.kubectl_with_input(&["apply", "-n", ns], manifest);
    wait_for("a FailedMount event", Duration::from_secs(60), || {
        let events = cluster.kubectl_ok(&["get", "events", "-n", ns]);
        if events.contains("configmap \"settings\" not found") { Ok(()) } else { Err(events) }
    });
    cluster.kubectl_ok(&["create", "configmap", "settings", "--from-literal=colour=green", "--from-literal=size=12", "-n", ns]);
    cluster.wait_phase(ns, "wants", "Running");
    wait_for("both values in the log", Duration::from_secs(20), || {
        let log = cluster.kubectl_ok(&["logs", "wants", "-n", ns]);
        if log == "green\n12\n" { Ok(()) } else { Err(log) }
    });
}

#[test]
fn a_pod_that_fits_nowhere_says_so() {
    let cluster = Cluster::under_test();
    let namespace = cluster.namespace("nowhere");
    let ns = namespace.name.as_str();
    let manifest = "{apiVersion: v1, kind: Pod, metadata: {name: huge}, spec: {containers: [{name: c, image: 'balsa/busybox:1', \
        resources: {requests: {cpu: '1000'}}}]}}";
    cluster.kubectl_with_input(&["apply", "-n", ns], manifest);
    wait_for("the scheduler's verdict", Duration::from_secs(30), || {
        let pod = cluster.get(&["pod", "huge", "-n", ns])?;
        let condition = &pod["status"]["conditions"][0];
        let message = condition["message"].as_str().unwrap_or_default();
        let right = condition["reason"] == "Unschedulable" && message.starts_with("0/3 nodes are available: 3 Insufficient cpu.");
        if right { Ok(()) } else { Err(pod["status"].to_string()) }
    });
}

#[test]
fn limits_are_cgroups() {
    let cluster = Cluster::under_test();
    let namespace = cluster.namespace("limits");
    let ns = namespace.name.as_str();
    let manifest = "{apiVersion: v1, kind: Pod, metadata: {name: small}, spec: {terminationGracePeriodSeconds: 0, containers: [{name: c, \
        image: 'balsa/busybox:1', command: [sleep, '1000'], resources: {limits: {cpu: 250m, memory: 64Mi}}}]}}";
    cluster.kubectl_with_input(&["apply", "-n", ns], manifest);
    let pod = cluster.wait_phase(ns, "small", "Running");
    assert_eq!(pod["status"]["qosClass"], "Guaranteed");
    let id = pod["status"]["containerStatuses"][0]["containerID"].as_str().expect("an ID").trim_start_matches("docker://").to_owned();
    let format = "{{.HostConfig.Memory}} {{.HostConfig.CpuQuota}}/{{.HostConfig.CpuPeriod}} {{.HostConfig.CgroupParent}}";
    let said = docker(&["inspect", "--format", format, &id]);
    let uid = pod["metadata"]["uid"].as_str().expect("a UID");
    assert!(said.out.starts_with("67108864 25000/100000 /") && said.out.contains(uid), "{}", said.out);
}
