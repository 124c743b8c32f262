//! Pod security standards: what `baseline` and `restricted` namespaces refuse in pods. The checks are pure.

use balsa_api::status::{ApiError, ApiResult};
use serde_json::Value;

use super::{Operation, Review};
use crate::pipeline::{Api, Target};
use crate::value;

/// A standard, from lax to strict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Anything goes.
    Privileged,
    /// No known way to the host.
    Baseline,
    /// Hardened.
    Restricted,
}

const PREFIX: &str = "pod-security.kubernetes.io/";
const BASELINE_CAPABILITIES: [&str; 14] = [
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "SETFCAP", "SETGID",
    "SETPCAP", "SETUID", "SYS_CHROOT", "",
];
const SAFE_SYSCTLS: [&str; 11] = [
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start", "net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem",
];
const RESTRICTED_VOLUMES: [&str; 8] = [
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
];

impl Level {
    fn parse(text: &str) -> Self {
        match text {
            "baseline" => Self::Baseline,
            "restricted" => Self::Restricted,
            _ => Self::Privileged,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }
}

/// Enforces and warns by the namespace's labels.
pub async fn admit(api: &Api, review: &Review<'_>, object: &Value) -> ApiResult<()> {
    let names = review.target.kind.names();
    let is_pod = review.is("pods") || (names.plural == "pods" && review.subresource == "ephemeralcontainers");
    let template = match (names.group, names.plural) {
        ("apps", "deployments" | "replicasets" | "statefulsets" | "daemonsets") | ("batch", "jobs") | ("", "replicationcontrollers") => {
            "/spec/template/spec"
        }
        ("batch", "cronjobs") => "/spec/jobTemplate/spec/template/spec",
        _ => "",
    };
    if !review.subresource.is_empty() && !is_pod || (!is_pod && template.is_empty()) {
        return Ok(());
    }
    if is_pod && review.operation == Operation::Update && review.old.is_some_and(|old| old.get("spec") == object.get("spec")) {
        return Ok(());
    }
    let Some(kind) = balsa_api::kinds::find("", "v1", "namespaces") else { return Ok(()) };
    let Some(namespace) = api.lookup(Target { kind, namespace: "", name: review.target.namespace }).await? else {
        return Ok(());
    };
    let level = |mode: &str| Level::parse(value::label(&namespace.value, &format!("{PREFIX}{mode}")).unwrap_or_default());
    let version = |mode: &str| value::label(&namespace.value, &format!("{PREFIX}{mode}-version")).unwrap_or("latest").to_owned();
    let empty = Value::Null;
    let spec = object.pointer(if is_pod { "/spec" } else { template }).unwrap_or(&empty);
    let enforced = level("enforce");
    if is_pod {
        let violations = violations(spec, enforced);
        if !violations.is_empty() {
            let detail = format!("violates PodSecurity \"{}:{}\": {}", enforced.name(), version("enforce"), violations.join(", "));
            return Err(ApiError::forbidden(&review.target.kind.gvr(), review.target.name, &detail));
        }
    }
    let warned = level("warn");
    let violations = violations(spec, warned);
    if !violations.is_empty() && !(is_pod && warned <= enforced) {
        review.call.warn(format!(
            "would violate PodSecurity \"{}:{}\": {}", warned.name(), version("warn"), violations.join(", ")
        ));
    }
    Ok(())
}

struct Container<'a> {
    name: &'a str,
    spec: &'a Value,
}

fn containers(spec: &Value) -> Vec<Container<'_>> {
    ["initContainers", "containers", "ephemeralContainers"]
        .iter()
        .filter_map(|list| spec.get(list).and_then(Value::as_array))
        .flatten()
        .map(|container| Container { name: value::text(container, "/name"), spec: container })
        .collect()
}

/// `container "a"` or `containers "a", "b"`.
fn named(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    format!("container{} {}", if names.len() == 1 { "" } else { "s" }, quoted.join(", "))
}

fn flag(value: &Value, pointer: &str) -> Option<bool> {
    value.pointer(pointer).and_then(Value::as_bool)
}

/// Everything that a pod spec does and the level forbids.
pub fn violations(spec: &Value, level: Level) -> Vec<String> {
    if level == Level::Privileged {
        return Vec::new();
    }
    let all = containers(spec);
    let mut found = Vec::new();
    baseline(spec, &all, level, &mut found);
    if level == Level::Restricted {
        restricted(spec, &all, &mut found);
    }
    found
}

fn which<'a>(all: &'a [Container<'a>], bad: impl Fn(&Value) -> bool) -> Vec<&'a str> {
    all.iter().filter(|container| bad(container.spec)).map(|container| container.name).collect()
}

fn baseline(spec: &Value, all: &[Container<'_>], level: Level, found: &mut Vec<String>) {
    let host: Vec<&str> =
        ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|key| spec.get(key) == Some(&Value::Bool(true))).collect();
    if !host.is_empty() {
        let set: Vec<String> = host.iter().map(|key| format!("{key}=true")).collect();
        found.push(format!("host namespaces ({})", set.join(", ")));
    }
    let privileged = which(all, |container| flag(container, "/securityContext/privileged") == Some(true));
    if !privileged.is_empty() {
        found.push(format!("privileged ({} must not set securityContext.privileged=true)", named(&privileged)));
    }
    if level == Level::Baseline {
        let extra = which(all, |container| {
            value::strings(container, "/securityContext/capabilities/add").iter().any(|name| !BASELINE_CAPABILITIES.contains(&name.as_str()))
        });
        if !extra.is_empty() {
            let mut added: Vec<String> = all
                .iter()
                .flat_map(|container| value::strings(container.spec, "/securityContext/capabilities/add"))
                .filter(|name| !BASELINE_CAPABILITIES.contains(&name.as_str()))
                .map(|name| format!("\"{name}\""))
                .collect();
            added.sort();
            added.dedup();
            found.push(format!(
                "non-default capabilities ({} must not include {} in securityContext.capabilities.add)", named(&extra), added.join(", ")
            ));
        }
    }
    let volumes: Vec<&str> = spec
        .get("volumes")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter(|volume| volume.get("hostPath").is_some_and(|source| !source.is_null()))
        .map(|volume| value::text(volume, "/name"))
        .collect();
    if !volumes.is_empty() {
        let quoted: Vec<String> = volumes.iter().map(|name| format!("\"{name}\"")).collect();
        let plural = if volumes.len() == 1 { "" } else { "s" };
        found.push(format!("hostPath volumes (volume{plural} {})", quoted.join(", ")));
    }
    host_ports(all, found);
    let unsafe_sysctls: Vec<String> = spec
        .pointer("/securityContext/sysctls")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|sysctl| value::text(sysctl, "/name").to_owned())
        .filter(|name| !SAFE_SYSCTLS.contains(&name.as_str()))
        .collect();
    if !unsafe_sysctls.is_empty() {
        found.push(format!("forbidden sysctls ({})", unsafe_sysctls.join(", ")));
    }
    let unmasked = which(all, |container| !matches!(value::text(container, "/securityContext/procMount"), "" | "Default"));
    if !unmasked.is_empty() {
        found.push(format!("procMount ({} must not set securityContext.procMount to \"Unmasked\")", named(&unmasked)));
    }
    if level == Level::Baseline {
        let unconfined = which(all, |container| value::text(container, "/securityContext/seccompProfile/type") == "Unconfined");
        let pod = value::text(spec, "/securityContext/seccompProfile/type") == "Unconfined";
        if pod || !unconfined.is_empty() {
            let who = if pod { "pod".to_owned() } else { named(&unconfined) };
            found.push(format!("seccompProfile ({who} must not set securityContext.seccompProfile.type to \"Unconfined\")"));
        }
    }
}

fn host_ports(all: &[Container<'_>], found: &mut Vec<String>) {
    let mut ports = Vec::new();
    let bad = which(all, |container| {
        container.get("ports").and_then(Value::as_array).into_iter().flatten().any(|port| port["hostPort"].as_i64().unwrap_or(0) != 0)
    });
    for container in all {
        for port in container.spec.get("ports").and_then(Value::as_array).into_iter().flatten() {
            if let Some(number) = port["hostPort"].as_i64().filter(|number| *number != 0) {
                ports.push(number.to_string());
            }
        }
    }
    if !bad.is_empty() {
        let plural = if ports.len() == 1 { "" } else { "s" };
        let verb = if bad.len() == 1 { "uses" } else { "use" };
        found.push(format!("hostPort ({} {verb} hostPort{plural} {})", named(&bad), ports.join(", ")));
    }
}

fn restricted(spec: &Value, all: &[Container<'_>], found: &mut Vec<String>) {
    let escalating = which(all, |container| flag(container, "/securityContext/allowPrivilegeEscalation") != Some(false));
    if !escalating.is_empty() {
        found.push(format!(
            "allowPrivilegeEscalation != false ({} must set securityContext.allowPrivilegeEscalation=false)", named(&escalating)
        ));
    }
    let keeping = which(all, |container| {
        !value::strings(container, "/securityContext/capabilities/drop").iter().any(|name| name == "ALL")
    });
    let adding = which(all, |container| {
        value::strings(container, "/securityContext/capabilities/add").iter().any(|name| name != "NET_BIND_SERVICE")
    });
    let mut capabilities = Vec::new();
    if !keeping.is_empty() {
        capabilities.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", named(&keeping)));
    }
    if !adding.is_empty() {
        let mut names: Vec<String> = all
            .iter()
            .flat_map(|container| value::strings(container.spec, "/securityContext/capabilities/add"))
            .filter(|name| name != "NET_BIND_SERVICE")
            .map(|name| format!("\"{name}\""))
            .collect();
        names.sort();
        names.dedup();
        capabilities.push(format!("{} must not include {} in securityContext.capabilities.add", named(&adding), names.join(", ")));
    }
    if !capabilities.is_empty() {
        found.push(format!("unrestricted capabilities ({})", capabilities.join("; ")));
    }
    restricted_volumes(spec, found);
    let pod_non_root = flag(spec, "/securityContext/runAsNonRoot");
    let root = which(all, |container| flag(container, "/securityContext/runAsNonRoot").or(pod_non_root) != Some(true));
    if !root.is_empty() {
        found.push(if pod_non_root == Some(false) {
            "runAsNonRoot != true (pod must not set securityContext.runAsNonRoot=false)".to_owned()
        } else {
            format!("runAsNonRoot != true (pod or {} must set securityContext.runAsNonRoot=true)", named(&root))
        });
    }
    let user = |value: &Value| value.pointer("/securityContext/runAsUser").and_then(Value::as_i64);
    let zero = which(all, |container| user(container) == Some(0));
    if user(spec) == Some(0) {
        found.push("runAsUser=0 (pod must not set runAsUser=0)".to_owned());
    } else if !zero.is_empty() {
        found.push(format!("runAsUser=0 ({} must not set runAsUser=0)", named(&zero)));
    }
    let profile = |value: &Value| value::text(value, "/securityContext/seccompProfile/type").to_owned();
    let of_pod = profile(spec);
    let open = which(all, |container| {
        let own = profile(container);
        !matches!(if own.is_empty() { of_pod.as_str() } else { own.as_str() }, "RuntimeDefault" | "Localhost")
    });
    if !open.is_empty() {
        found.push(format!(
            "seccompProfile (pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")", named(&open)
        ));
    }
}

fn restricted_volumes(spec: &Value, found: &mut Vec<String>) {
    let volumes = spec.get("volumes").and_then(Value::as_array);
    let mut bad = Vec::new();
    let mut kinds = Vec::new();
    for volume in volumes.into_iter().flatten().filter_map(Value::as_object) {
        let Some(source) = volume.iter().find(|(key, source)| *key != "name" && !source.is_null()).map(|(key, _)| key) else {
            continue;
        };
        if !RESTRICTED_VOLUMES.contains(&source.as_str()) {
            bad.push(volume.get("name").and_then(Value::as_str).unwrap_or_default());
            kinds.push(format!("\"{source}\""));
        }
    }
    kinds.sort();
    kinds.dedup();
    if !bad.is_empty() {
        let quoted: Vec<String> = bad.iter().map(|name| format!("\"{name}\"")).collect();
        let (plural, verb) = if bad.len() == 1 { ("", "uses") } else { ("s", "use") };
        let kind_plural = if kinds.len() == 1 { "" } else { "s" };
        found.push(format!(
            "restricted volume types (volume{plural} {} {verb} restricted volume type{kind_plural} {})", quoted.join(", "), kinds.join(", ")
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_plain_pod_is_baseline_but_not_restricted() {
        let spec = json!({"containers": [{"name": "c"}]});
        assert!(violations(&spec, Level::Baseline).is_empty());
        assert_eq!(
            violations(&spec, Level::Restricted).join(", "),
            "allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false), \
             unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), \
             runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true), \
             seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
        );
    }

    #[test]
    fn a_hardened_pod_is_restricted() {
        let spec = json!({"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "c", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]});
        assert!(violations(&spec, Level::Restricted).is_empty());
    }

    #[test]
    fn ways_to_the_host_are_closed() {
        let spec = json!({"hostNetwork": true, "volumes": [{"name": "v", "hostPath": {"path": "/"}}],
            "containers": [{"name": "c", "securityContext": {"privileged": true}, "ports": [{"hostPort": 80}]}]});
        assert_eq!(
            violations(&spec, Level::Baseline),
            [
                "host namespaces (hostNetwork=true)",
                "privileged (container \"c\" must not set securityContext.privileged=true)",
                "hostPath volumes (volume \"v\")",
                "hostPort (container \"c\" uses hostPort 80)",
            ]
        );
    }
}
