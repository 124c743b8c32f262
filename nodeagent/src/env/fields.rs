//! What a pod may ask about itself: `fieldRef` and `resourceFieldRef`.
//!
//! Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};

use crate::pod::view;
use crate::quantity;

/// What a pod cannot know by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The pod's addresses, primary first.
    pub pod_ips: Vec<String>,
    /// The node's addresses, primary first.
    pub host_ips: Vec<String>,
    /// The node's name.
    pub node_name: String,
    /// What the node has for pods, as Kubernetes writes amounts.
    pub allocatable: BTreeMap<String, String>,
}

/// The value of a field path, in the form that volumes use for maps (`key="value"` lines).
pub fn field(pod: &Pod, around: &Surroundings, path: &str) -> Result<String, String> {
    let spec = view::spec(pod);
    let meta = &pod.metadata;
    if let Some((map, key)) = path.strip_suffix("']").and_then(|path| path.split_once("['")) {
        let map = match map {
            "metadata.labels" => meta.labels.as_ref(),
            "metadata.annotations" => meta.annotations.as_ref(),
            _ => return Err(format!("fieldPath \"{path}\" does not support subscript")),
        };
        return Ok(map.and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => view::name(pod).to_owned(),
        "metadata.namespace" => view::namespace(pod).to_owned(),
        "metadata.uid" => view::uid(pod).to_owned(),
        "metadata.labels" => lines(meta.labels.as_ref()),
        "metadata.annotations" => lines(meta.annotations.as_ref()),
        "spec.nodeName" => around.node_name.clone(),
        "spec.serviceAccountName" => spec.service_account_name.clone().unwrap_or_default(),
        "status.hostIP" => around.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => around.host_ips.join(","),
        "status.podIP" => around.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => around.pod_ips.join(","),
        _ => return Err(format!("unsupported fieldPath: {path}")),
    })
}

fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines = map.into_iter().flatten().map(|(key, value)| format!("{key}={}", quoted(value)));
    lines.collect::<Vec<_>>().join("\n")
}

/// As Go's `%q` has it, for what labels and annotations hold.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The value of a resource of a container, divided and rounded up. A limit that is not set is what the node has.
pub fn resource(
    pod: &Pod,
    own: Option<&Container>,
    around: &Surroundings,
    selector: &ResourceFieldSelector,
) -> Result<String, String> {
    let units = view::units(pod);
    let container = match selector.container_name.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => units
            .iter()
            .find(|unit| unit.name() == name)
            .map(|unit| unit.container.as_ref())
            .ok_or_else(|| format!("container {name} not found"))?,
        None => own.ok_or_else(|| "containerName is required".to_owned())?,
    };
    let (kind, resource) = selector
        .resource
        .split_once('.')
        .filter(|(kind, _)| matches!(*kind, "limits" | "requests"))
        .ok_or_else(|| format!("unsupported container resource : {}", selector.resource))?;
    let of = |list: Option<&BTreeMap<_, _>>| quantity::milli_of(list, resource).filter(|milli| *milli != 0);
    let resources = container.resources.as_ref();
    let request = of(resources.and_then(|r| r.requests.as_ref()));
    let limit = of(resources.and_then(|r| r.limits.as_ref()));
    let allocatable = around.allocatable.get(resource).and_then(|text| quantity::milli(text));
    let value = match kind {
        "limits" => limit.or(allocatable).unwrap_or(0),
        _ => request.or(limit).unwrap_or(0),
    };
    let divisor = selector
        .divisor
        .as_ref()
        .and_then(|divisor| quantity::milli(&divisor.0))
        .filter(|divisor| *divisor > 0)
        .unwrap_or(1000);
    Ok((value.div_euclid(divisor) + i64::from(value.rem_euclid(divisor) != 0)).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_resources() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": { "name": "p", "namespace": "n", "uid": "u", "labels": { "b": "2", "a": "x\"y\n" } },
            "spec": { "containers": [{ "name": "c", "resources": { "limits": { "cpu": "1250m", "memory": "64Mi" } } }] }
        }))
        .unwrap();
        let around = Surroundings {
            pod_ips: vec!["10.0.0.1".to_owned()],
            allocatable: [("ephemeral-storage".to_owned(), "1Gi".to_owned())].into(),
            ..Surroundings::default()
        };
        for (path, expected) in [
            ("metadata.name", "p"),
            ("metadata.labels", "a=\"x\\\"y\\n\"\nb=\"2\""),
            ("metadata.labels['b']", "2"),
            ("metadata.annotations['none']", ""),
            ("status.podIP", "10.0.0.1"),
        ] {
            assert_eq!(field(&pod, &around, path).unwrap(), expected, "{path}");
        }
        assert!(field(&pod, &around, "spec.nope").is_err());
        let own = pod.spec.as_ref().map(|spec| &spec.containers[0]);
        for (name, divisor, expected) in [
            ("limits.cpu", "1", "2"),
            ("limits.cpu", "1m", "1250"),
            ("requests.memory", "1Mi", "64"),
            ("limits.ephemeral-storage", "1", "1073741824"),
            ("requests.ephemeral-storage", "1", "0"),
        ] {
            let selector =
                serde_json::from_value(serde_json::json!({ "resource": name, "divisor": divisor })).unwrap();
            assert_eq!(resource(&pod, own, &around, &selector).unwrap(), expected, "{name}");
        }
    }
}
