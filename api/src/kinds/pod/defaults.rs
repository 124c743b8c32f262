//! What is filled into a pod, or a pod template, that says nothing about it.

use serde_json::{Value, json};

use crate::cursor::{items_mut, make_object, object_mut, set_default, set_default_text};

/// Fills in a whole pod: the spec, and what only pods (not templates) get.
pub fn pod(object: &mut Value) {
    let spec = make_object(object, "spec");
    for list in ["containers", "initContainers"] {
        for container in items_mut(spec, list) {
            requests_from_limits(container);
        }
    }
    if spec.get("resources").is_some_and(Value::is_object) {
        requests_from_limits(spec);
    }
    set_default(spec, "enableServiceLinks", true);
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    if host_network {
        for list in ["containers", "initContainers"] {
            for container in items_mut(spec, list) {
                for port in items_mut(container, "ports") {
                    if port.get("hostPort").and_then(Value::as_i64).unwrap_or(0) == 0 {
                        port["hostPort"] = port["containerPort"].clone();
                    }
                }
            }
        }
    }
    pod_spec(spec);
}

/// A limit is also the request, where that is not given.
fn requests_from_limits(holder: &mut Value) {
    let Some(resources) = object_mut(holder, "resources") else { return };
    let Some(Value::Object(limits)) = resources.get("limits").cloned() else { return };
    if limits.is_empty() {
        return;
    }
    let requests = make_object(resources, "requests");
    for (name, limit) in limits {
        set_default(requests, &name, limit);
    }
}

/// Fills in a template (`spec.template` of a controller).
pub fn template(template: &mut Value) {
    pod_spec(make_object(template, "spec"));
}

/// Fills in a pod spec, of pods and of templates.
pub fn pod_spec(spec: &mut Value) {
    set_default_text(spec, "dnsPolicy", "ClusterFirst");
    set_default_text(spec, "restartPolicy", "Always");
    set_default(spec, "securityContext", json!({}));
    set_default(spec, "terminationGracePeriodSeconds", 30);
    set_default_text(spec, "schedulerName", "default-scheduler");
    // The two names of one thing.
    let account = spec.get("serviceAccountName").and_then(Value::as_str).unwrap_or_default().to_owned();
    let old_account = spec.get("serviceAccount").and_then(Value::as_str).unwrap_or_default().to_owned();
    if !account.is_empty() {
        spec["serviceAccount"] = account.into();
    } else if !old_account.is_empty() {
        spec["serviceAccountName"] = old_account.into();
    }
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for container in items_mut(spec, list) {
            self::container(container);
        }
    }
    for volume in items_mut(spec, "volumes") {
        self::volume(volume);
    }
    for constraint in items_mut(spec, "topologySpreadConstraints") {
        if constraint.get("nodeAffinityPolicy").is_some_and(Value::is_null) {
            constraint["nodeAffinityPolicy"] = "Honor".into();
        }
    }
    // A negative grace period is taken as the shortest one.
    if spec["terminationGracePeriodSeconds"].as_i64().is_some_and(|seconds| seconds < 0) {
        spec["terminationGracePeriodSeconds"] = 1.into();
    }
}

/// `Always` for an image that is not pinned by a tag or digest.
pub fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = image.split_once('@').map_or((image, ""), |(name, digest)| (name, digest));
    let tag = match name.rsplit_once(':') {
        Some((_, tag)) if !tag.contains('/') => tag,
        _ => "",
    };
    if digest.is_empty() && (tag.is_empty() || tag == "latest") { "Always" } else { "IfNotPresent" }
}

/// Fills in a container.
pub fn container(container: &mut Value) {
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
    let policy = pull_policy(image);
    set_default_text(container, "imagePullPolicy", policy);
    set_default_text(container, "terminationMessagePath", "/dev/termination-log");
    set_default_text(container, "terminationMessagePolicy", "File");
    set_default(container, "resources", json!({}));
    for port in items_mut(container, "ports") {
        set_default_text(port, "protocol", "TCP");
    }
    for variable in items_mut(container, "env") {
        if let Some(source) = object_mut(variable, "valueFrom") {
            if let Some(field) = object_mut(source, "fieldRef") {
                set_default_text(field, "apiVersion", "v1");
            }
            if let Some(resource) = object_mut(source, "resourceFieldRef") {
                set_default_text(resource, "divisor", "0");
            }
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = object_mut(container, name) {
            self::probe(probe);
        }
    }
    if let Some(lifecycle) = object_mut(container, "lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(get) = object_mut(lifecycle, hook).and_then(|hook| object_mut(hook, "httpGet")) {
                http_get(get);
            }
        }
    }
}

fn http_get(get: &mut Value) {
    set_default_text(get, "path", "/");
    set_default_text(get, "scheme", "HTTP");
}

fn probe(probe: &mut Value) {
    for (name, value) in [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)] {
        if probe.get(name).and_then(Value::as_i64).unwrap_or(0) == 0 {
            probe[name] = value.into();
        }
    }
    if let Some(get) = object_mut(probe, "httpGet") {
        http_get(get);
    }
    if let Some(grpc) = object_mut(probe, "grpc") {
        set_default(grpc, "service", "");
    }
}

const VOLUME_SOURCES_WITH_MODE: [&str; 4] = ["secret", "configMap", "downwardAPI", "projected"];

fn volume(volume: &mut Value) {
    let Value::Object(members) = &*volume else { return };
    if members.iter().all(|(name, source)| name == "name" || source.is_null()) {
        volume["emptyDir"] = json!({});
        return;
    }
    for name in VOLUME_SOURCES_WITH_MODE {
        if let Some(source) = object_mut(volume, name) {
            set_default(source, "defaultMode", 0o644);
        }
    }
    if let Some(source) = object_mut(volume, "downwardAPI") {
        items_mut(source, "items").iter_mut().for_each(downward_item);
    }
    if let Some(projected) = object_mut(volume, "projected") {
        for source in items_mut(projected, "sources") {
            if let Some(token) = object_mut(source, "serviceAccountToken") {
                set_default(token, "expirationSeconds", 3600);
            }
            if let Some(downward) = object_mut(source, "downwardAPI") {
                items_mut(downward, "items").iter_mut().for_each(downward_item);
            }
        }
    }
    if let Some(path) = object_mut(volume, "hostPath") {
        set_default(path, "type", "");
    }
    if let Some(image) = object_mut(volume, "image") {
        let reference = image.get("reference").and_then(Value::as_str).unwrap_or_default();
        let policy = pull_policy(reference);
        set_default_text(image, "pullPolicy", policy);
    }
    if let Some(iscsi) = object_mut(volume, "iscsi") {
        set_default_text(iscsi, "iscsiInterface", "default");
    }
    if let Some(template) = object_mut(volume, "ephemeral").and_then(|source| object_mut(source, "volumeClaimTemplate")) {
        set_default_text(make_object(template, "spec"), "volumeMode", "Filesystem");
    }
}

fn downward_item(item: &mut Value) {
    if let Some(field) = object_mut(item, "fieldRef") {
        set_default_text(field, "apiVersion", "v1");
    }
    if let Some(resource) = object_mut(item, "resourceFieldRef") {
        set_default_text(resource, "divisor", "0");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_policies() {
        for (image, policy) in [
            ("nginx", "Always"), ("nginx:latest", "Always"), ("nginx:1.2", "IfNotPresent"), ("host:5000/nginx", "Always"),
            ("host:5000/nginx:1", "IfNotPresent"), ("nginx@sha256:abc", "IfNotPresent"), ("nginx:latest@sha256:abc", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }

    #[test]
    fn whole_pod() {
        let mut object = json!({"spec": {
            "hostNetwork": true,
            "terminationGracePeriodSeconds": -5,
            "containers": [{
                "name": "a", "image": "x",
                "ports": [{"containerPort": 80}],
                "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "100m"}},
                "livenessProbe": {"httpGet": {"port": 80}},
            }],
            "volumes": [{"name": "v"}, {"name": "s", "secret": {"secretName": "s"}}],
        }});
        pod(&mut object);
        assert_eq!(object["spec"]["containers"][0], json!({
            "name": "a", "image": "x", "imagePullPolicy": "Always",
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            "ports": [{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}],
            "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "100m", "memory": "1Gi"}},
            "livenessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10,
                "successThreshold": 1, "failureThreshold": 3},
        }));
        assert_eq!(object["spec"]["volumes"], json!([
            {"name": "v", "emptyDir": {}}, {"name": "s", "secret": {"secretName": "s", "defaultMode": 420}},
        ]));
        assert_eq!(object["spec"]["terminationGracePeriodSeconds"], 1);
        let once = object.clone();
        pod(&mut object);
        assert_eq!(object, once, "defaulting twice changes nothing");
    }
}
