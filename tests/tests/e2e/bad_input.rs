//! Manifests that are wrong get the error that Kubernetes gives, and nothing is stored.

use balsa_tests::Cluster;

/// (what is wrong, manifest, a part of the message)
const MANIFESTS: [(&str, &str, &str); 6] = [
    ("unknown kind", "{apiVersion: v1, kind: Pot, metadata: {name: bad-input}}", "no matches for kind \"Pot\" in version \"v1\""),
    (
        "bad quantity",
        "{apiVersion: v1, kind: Pod, metadata: {name: bad-input}, spec: {containers: [{name: c, image: i, resources: {limits: {cpu: much}}}]}}",
        "quantities must match the regular expression",
    ),
    (
        "missing image",
        "{apiVersion: v1, kind: Pod, metadata: {name: bad-input}, spec: {containers: [{name: c}]}}",
        "The Pod \"bad-input\" is invalid: spec.containers[0].image: Required value",
    ),
    (
        "bad name",
        "{apiVersion: v1, kind: Pod, metadata: {name: Bad_Name}, spec: {containers: [{name: c, image: i}]}}",
        "metadata.name: Invalid value: \"Bad_Name\": a lowercase RFC 1123 subdomain must consist of",
    ),
    (
        "two containers of one name",
        "{apiVersion: v1, kind: Pod, metadata: {name: bad-input}, spec: {containers: [{name: c, image: i}, {name: c, image: i}]}}",
        "spec.containers[1].name: Duplicate value: \"c\"",
    ),
    (
        "unknown field",
        "{apiVersion: v1, kind: Pod, metadata: {name: bad-input}, spec: {contaners: [], containers: [{name: c, image: i}]}}",
        "unknown field \"spec.contaners\"",
    ),
];

#[test]
fn wrong_manifests_are_refused_in_kubernetes_words() {
    let cluster = Cluster::under_test();
    for (what, manifest, expected) in MANIFESTS {
        let said = cluster.kubectl_with_input(&["apply"], manifest);
        assert!(!said.success && said.err.contains(expected), "{what}: exit {}\n{}{}", said.code, said.out, said.err);
    }
    assert!(cluster.get(&["pod", "bad-input"]).is_err(), "nothing was stored");
}

#[test]
fn immutable_fields_stay() {
    let cluster = Cluster::under_test();
    let namespace = cluster.namespace("immutable");
    let ns = namespace.name.as_str();
    let pod = |grace: u32| {
        format!("{{apiVersion: v1, kind: Pod, metadata: {{name: p}}, spec: {{terminationGracePeriodSeconds: {grace}, \
                 containers: [{{name: c, image: 'balsa/busybox:1', command: [sleep, '1000']}}]}}}}")
    };
    cluster.kubectl_with_input(&["apply", "-n", ns], &pod(0));
    let said = cluster.kubectl_with_input(&["apply", "-n", ns], &pod(5));
    assert!(said.err.contains("pod updates may not change fields other than"), "{}{}", said.out, said.err);
}

#[test]
fn too_large_and_malformed_bodies_do_no_harm() {
    let cluster = Cluster::under_test();
    let folder = tempfile::tempdir().expect("a folder");
    let raw = |content: &str| {
        let path = folder.path().join("body.json");
        std::fs::write(&path, content).expect("a file");
        cluster.kubectl(&["create", "--raw", "/api/v1/namespaces/default/configmaps", "-f", &path.to_string_lossy()])
    };
    let huge = format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"huge"}},"data":{{"k":"{}"}}}}"#, "x".repeat(4 << 20));
    let said = raw(&huge);
    assert!(!said.success && said.err.contains("too large"), "{}", said.err);
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    for body in ["not json at all {", deep.as_str(), ""] {
        assert!(!raw(body).success, "refused");
    }
    cluster.kubectl_ok(&["get", "--raw", "/readyz"]);
}
