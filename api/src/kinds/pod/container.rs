//! What may be wrong with a container: names, image, ports, environment, mounts, probes, hooks.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::env;
use super::resources;
use super::security;
use crate::cursor::At;
use crate::field::FieldError;
use crate::validate::text::{header_name_problems, label_problems, port_name_problems, port_problems};
use crate::validate::{each, not_negative, one_of};

type Findings = Vec<FieldError>;

/// What the containers of a pod are checked against.
pub struct Context<'a> {
    /// Volumes by name.
    pub volumes: BTreeMap<&'a str, &'a Value>,
    /// `spec.restartPolicy`
    pub restart_policy: &'a str,
    /// `spec.terminationGracePeriodSeconds`
    pub grace: Option<i64>,
    /// `spec.os.name`; empty: not said.
    pub os: &'a str,
    /// Whether this is a pod, not a template of one.
    pub is_pod: bool,
    /// Names of `spec.resourceClaims`.
    pub claims: BTreeSet<&'a str>,
}

/// Regular containers.
pub fn regular(findings: &mut Findings, list: &At<'_>, context: &Context<'_>) {
    if list.len() == 0 {
        findings.push(list.required(""));
        return;
    }
    let mut names = BTreeSet::new();
    for container in list.items() {
        common(findings, &container, context);
        let name = container.get("name");
        if !names.insert(name.str()) {
            findings.push(name.duplicate());
        }
        hooks_and_probes(findings, &container, context);
        restart_rules(findings, &container);
    }
    host_ports(findings, list.items());
}

fn restart_rules(findings: &mut Findings, container: &At<'_>) {
    let policy = container.get("restartPolicy");
    let rules = container.get("restartPolicyRules");
    if policy.is_set() {
        one_of(findings, &policy, &["Always", "Never", "OnFailure"]);
    } else if rules.len() > 0 {
        findings.push(policy.required("must specify restartPolicy when restart rules are used"));
    }
    for rule in rules.items() {
        one_of(findings, &rule.get("action"), &["Restart", "RestartAllContainers"]);
        let codes = rule.get("exitCodes");
        if codes.is_set() {
            one_of(findings, &codes.get("operator"), &["In", "NotIn"]);
        } else {
            findings.push(codes.required("must be specified"));
        }
    }
}

fn hooks_and_probes(findings: &mut Findings, container: &At<'_>, context: &Context<'_>) {
    lifecycle(findings, &container.get("lifecycle"), context);
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        probe(findings, &container.get(name), context);
    }
}

/// Init containers, sidecars among them. `regular`: names that are taken.
pub fn init(findings: &mut Findings, list: &At<'_>, regular: &At<'_>, context: &Context<'_>) {
    let mut names: BTreeSet<&str> = regular.items().map(|container| container.get("name").str()).collect();
    for container in list.items() {
        common(findings, &container, context);
        restart_rules(findings, &container);
        let name = container.get("name");
        if !name.is_empty() && !names.insert(name.str()) {
            findings.push(name.duplicate());
        }
        host_ports(findings, std::iter::once(container.clone()));
        if container.get("restartPolicy").str() == "Always" {
            hooks_and_probes(findings, &container, context);
            continue;
        }
        for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
            let at = container.get(field);
            if at.is_set() {
                findings.push(at.forbidden("may not be set for init containers without restartPolicy=Always"));
            }
        }
        for policy in container.get("resizePolicy").items() {
            let policy = policy.get("restartPolicy");
            if policy.str() == "RestartContainer" {
                findings.push(policy.invalid("must not be set to 'RestartContainer' for non-sidecar initContainers"));
            }
        }
    }
}

const NOT_FOR_EPHEMERAL: [&str; 9] = [
    "ports", "resources", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "resizePolicy", "restartPolicy",
    "restartPolicyRules",
];

/// Ephemeral containers.
pub fn ephemeral(findings: &mut Findings, list: &At<'_>, others: &[&At<'_>], context: &Context<'_>) {
    let other: BTreeSet<&str> =
        others.iter().flat_map(|list| list.items()).map(|container| container.get("name").str()).collect();
    let mut names = other.clone();
    for container in list.items() {
        common(findings, &container, context);
        let name = container.get("name");
        if !names.insert(name.str()) {
            findings.push(name.duplicate());
        }
        let target = container.get("targetContainerName");
        if !target.is_empty() && !other.contains(target.str()) {
            findings.push(FieldError::not_found(target.path.clone(), target.str()));
        }
        for field in NOT_FOR_EPHEMERAL {
            let at = container.get(field);
            if !at.is_empty() {
                findings.push(at.forbidden("cannot be set for an Ephemeral Container"));
            }
        }
        for mount in container.get("volumeMounts").items() {
            for field in ["subPath", "subPathExpr"] {
                if !mount.get(field).is_empty() {
                    findings.push(mount.get(field).forbidden("cannot be set for an Ephemeral Container"));
                }
            }
        }
    }
}

/// What holds for containers of every sort.
fn common(findings: &mut Findings, container: &At<'_>, context: &Context<'_>) {
    let name = container.get("name");
    if name.is_empty() {
        findings.push(name.required(""));
    } else {
        each(findings, &name, &label_problems(name.str()));
    }
    let image = container.get("image");
    if image.is_empty() {
        findings.push(image.required(""));
    } else if context.is_pod && image.str().trim() != image.str() {
        findings.push(image.invalid("must not have leading or trailing whitespace"));
    }
    required_one_of(findings, &container.get("terminationMessagePolicy"), &["File", "FallbackToLogsOnError"]);
    ports(findings, &container.get("ports"));
    env::variables(findings, &container.get("env"));
    env::from(findings, &container.get("envFrom"));
    mounts(findings, container, context);
    devices(findings, container, context);
    required_one_of(findings, &container.get("imagePullPolicy"), &["Always", "IfNotPresent", "Never"]);
    resources::requirements(findings, &container.get("resources"), resources::Of::Container, &context.claims);
    resize_policy(findings, &container.get("resizePolicy"), context);
    security::container(findings, &container.get("securityContext"));
}

fn required_one_of(findings: &mut Findings, at: &At<'_>, known: &[&str]) {
    if at.is_empty() {
        findings.push(at.required(""));
    } else {
        one_of(findings, at, known);
    }
}

fn resize_policy(findings: &mut Findings, list: &At<'_>, context: &Context<'_>) {
    let mut seen = BTreeSet::new();
    for policy in list.items() {
        let (resource, restart) = (policy.get("resourceName"), policy.get("restartPolicy"));
        if !seen.insert(resource.str()) {
            findings.push(FieldError::duplicate(policy.path.clone(), resource.str()));
        }
        for (at, known) in [(&resource, ["cpu", "memory"]), (&restart, ["NotRequired", "RestartContainer"])] {
            if at.is_empty() {
                findings.push(list.required(""));
            } else if !known.contains(&at.str()) {
                findings.push(FieldError::not_supported(list.path.clone(), at.str(), &known));
            }
        }
        if context.restart_policy == "Never" && restart.str() != "NotRequired" {
            let detail = "must be 'NotRequired' when pod `restartPolicy` is 'Never'";
            findings.push(FieldError::invalid(list.path.clone(), restart.str(), detail));
        }
    }
}

fn ports(findings: &mut Findings, list: &At<'_>) {
    let mut names = BTreeSet::new();
    for port in list.items() {
        let name = port.get("name");
        if !name.is_empty() {
            let problems = port_name_problems(name.str());
            if !problems.is_empty() {
                each(findings, &name, &problems);
            } else if !names.insert(name.str()) {
                findings.push(name.duplicate());
            }
        }
        let number = port.get("containerPort");
        match number.int().unwrap_or(0) {
            0 => findings.push(number.required("")),
            value => each(findings, &number, &port_problems(value)),
        }
        let host = port.get("hostPort");
        if let Some(value) = host.int().filter(|value| *value != 0) {
            each(findings, &host, &port_problems(value));
        }
        required_one_of(findings, &port.get("protocol"), &["SCTP", "TCP", "UDP"]);
    }
}

fn host_ports<'a>(findings: &mut Findings, containers: impl Iterator<Item = At<'a>>) {
    let mut taken = BTreeSet::new();
    for container in containers {
        for port in container.get("ports").items() {
            let host = port.get("hostPort");
            let Some(number) = host.int().filter(|number| *number != 0) else { continue };
            let text = format!("{}/{}/{number}", port.get("protocol").str(), port.get("hostIP").str());
            if !taken.insert(text.clone()) {
                findings.push(FieldError::duplicate(host.path, text));
            }
        }
    }
}

/// A relative path that stays inside.
pub fn descending_path(findings: &mut Findings, at: &At<'_>, path: &str) {
    if at.str().starts_with('/') {
        findings.push(FieldError::invalid(path, at.str(), "must be a relative path"));
    }
    no_backsteps(findings, at, path);
}

/// A path without `..`.
pub fn no_backsteps(findings: &mut Findings, at: &At<'_>, path: &str) {
    if at.str().split('/').any(|part| part == "..") {
        findings.push(FieldError::invalid(path, at.str(), "must not contain '..'"));
    }
}

fn mounts(findings: &mut Findings, container: &At<'_>, context: &Context<'_>) {
    let list = container.get("volumeMounts");
    let devices = container.get("volumeDevices");
    let mut paths = BTreeSet::new();
    for mount in list.items() {
        let (name, path) = (mount.get("name"), mount.get("mountPath"));
        if name.is_empty() {
            findings.push(name.required(""));
        }
        if !context.volumes.contains_key(name.str()) {
            findings.push(FieldError::not_found(name.path.clone(), name.str()));
        }
        if path.is_empty() {
            findings.push(path.required(""));
        }
        if !paths.insert(path.str()) {
            findings.push(path.invalid("must be unique"));
        }
        if devices.items().any(|device| device.get("name").str() == name.str()) {
            findings.push(name.invalid("must not already exist in volumeDevices"));
        }
        if devices.items().any(|device| device.get("devicePath").str() == path.str()) {
            findings.push(path.invalid("must not already exist as a path in volumeDevices"));
        }
        let (sub, expression) = (mount.get("subPath"), mount.get("subPathExpr"));
        // Kubernetes leaves the mount's index out of these paths.
        if !sub.is_empty() {
            descending_path(findings, &sub, &list.sub("subPath"));
        }
        if !expression.is_empty() {
            if !sub.is_empty() {
                findings.push(expression.invalid("subPathExpr and subPath are mutually exclusive"));
            }
            descending_path(findings, &expression, &list.sub("subPathExpr"));
        }
        propagation(findings, &mount, &list, container);
    }
}

fn propagation(findings: &mut Findings, mount: &At<'_>, list: &At<'_>, container: &At<'_>) {
    let mode = mount.get("mountPropagation");
    if mode.is_set() {
        let known = ["Bidirectional", "HostToContainer", "None"];
        if !known.contains(&mode.str()) {
            findings.push(FieldError::not_supported(list.sub("mountPropagation"), mode.str(), &known));
        } else if mode.str() == "Bidirectional" && !container.at("securityContext.privileged").is_true() {
            let detail = "Bidirectional mount propagation is available only to privileged containers";
            findings.push(FieldError::forbidden(list.sub("mountPropagation"), detail));
        }
    }
    let recursive = mount.get("recursiveReadOnly");
    if !recursive.is_set() || recursive.str() == "Disabled" {
        return;
    }
    let path = list.sub("recursiveReadOnly");
    match recursive.str() {
        "Enabled" | "IfPossible" => {
            if !mount.get("readOnly").is_true() {
                findings.push(FieldError::forbidden(path.clone(), "may only be specified when readOnly is true"));
            }
            if mode.is_set() && mode.str() != "None" {
                let detail = "may only be specified when mountPropagation is None or not specified";
                findings.push(FieldError::forbidden(path, detail));
            }
        }
        other => findings.push(FieldError::not_supported(path, other, &["Disabled", "IfPossible", "Enabled"])),
    }
}

fn devices(findings: &mut Findings, container: &At<'_>, context: &Context<'_>) {
    let (mut names, mut paths) = (BTreeSet::new(), BTreeSet::new());
    for device in container.get("volumeDevices").items() {
        let (name, path) = (device.get("name"), device.get("devicePath"));
        if name.is_empty() {
            findings.push(name.required(""));
        }
        if !names.insert(name.str()) {
            findings.push(name.invalid("must be unique"));
        }
        match context.volumes.get(name.str()) {
            None => findings.push(FieldError::not_found(name.path.clone(), name.str())),
            Some(volume) if volume.get("persistentVolumeClaim").is_none() && volume.get("ephemeral").is_none() => {
                findings.push(name.invalid("can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode"));
            }
            Some(_) => {}
        }
        if path.is_empty() {
            findings.push(path.required(""));
        }
        if !path.is_empty() && !paths.insert(path.str()) {
            findings.push(path.invalid("must be unique"));
        }
        no_backsteps(findings, &path, &device.sub("devicePath"));
    }
}

fn probe(findings: &mut Findings, probe: &At<'_>, context: &Context<'_>) {
    if !probe.is_set() {
        return;
    }
    handler(findings, probe, &["exec", "httpGet", "tcpSocket", "grpc"], context);
    for name in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        not_negative(findings, &probe.get(name));
    }
    let grace = probe.get("terminationGracePeriodSeconds");
    if grace.int().is_some_and(|seconds| seconds <= 0) {
        findings.push(grace.invalid("must be greater than 0"));
    }
    if probe.path.ends_with("readinessProbe") {
        if grace.is_set() {
            findings.push(grace.invalid("must not be set for readinessProbes"));
        }
    } else if probe.get("successThreshold").int() != Some(1) {
        findings.push(FieldError::invalid(
            probe.sub("successThreshold"),
            probe.get("successThreshold").int().unwrap_or(0),
            "must be 1",
        ));
    }
}

fn lifecycle(findings: &mut Findings, lifecycle: &At<'_>, context: &Context<'_>) {
    for name in ["postStart", "preStop"] {
        let hook = lifecycle.get(name);
        if hook.is_set() {
            handler(findings, &hook, &["exec", "httpGet", "tcpSocket", "sleep"], context);
        }
    }
    let signal = lifecycle.get("stopSignal");
    if signal.is_set() && context.os.is_empty() {
        findings.push(signal.forbidden("may not be set for containers with empty `spec.os.name`"));
    }
}

fn handler(findings: &mut Findings, at: &At<'_>, kinds: &[&str], context: &Context<'_>) {
    let mut handlers = 0;
    for kind in kinds {
        let one = at.get(kind);
        if !one.is_set() {
            continue;
        }
        handlers += 1;
        if handlers > 1 {
            findings.push(one.forbidden("may not specify more than 1 handler type"));
            continue;
        }
        match *kind {
            "exec" if one.get("command").len() == 0 => findings.push(one.get("command").required("")),
            "httpGet" => http_get(findings, &one),
            "tcpSocket" | "grpc" => port(findings, &one.get("port")),
            "sleep" => {
                let seconds = one.get("seconds").int().unwrap_or(0);
                if let Some(grace) = context.grace.filter(|grace| seconds < 0 || seconds > *grace) {
                    let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
                    findings.push(FieldError::invalid(one.path.clone(), seconds, &detail));
                }
            }
            _ => {}
        }
    }
    if handlers == 0 {
        findings.push(at.required("must specify a handler type"));
    }
}

fn http_get(findings: &mut Findings, at: &At<'_>) {
    if at.get("path").is_empty() {
        findings.push(at.get("path").required(""));
    }
    port(findings, &at.get("port"));
    one_of(findings, &at.get("scheme"), &["HTTP", "HTTPS"]);
    for header in at.get("httpHeaders").items() {
        let name = header.get("name").str();
        for problem in header_name_problems(name) {
            findings.push(FieldError::invalid(at.sub("httpHeaders"), name, &problem));
        }
    }
}

/// A port by number or name.
pub fn port(findings: &mut Findings, at: &At<'_>) {
    match at.value {
        Value::String(name) => each(findings, at, &port_name_problems(name)),
        _ => {
            let number = at.int().unwrap_or(0);
            for problem in port_problems(number) {
                findings.push(FieldError::invalid(at.path.clone(), number, &problem));
            }
        }
    }
}
