//! What of a pod may change, by which way: the pod itself, its ephemeral containers, a resize, its status.

use serde_json::Value;

use super::resources::qos_class;
use super::spec;
use crate::cursor::{At, find, list, text};
use crate::field::FieldError;
use crate::kind::Part;

type Findings = Vec<FieldError>;

const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
                         `spec.tolerations` (only additions to existing tolerations),\
                         `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Takes over from the stored pod what this way of writing may not touch.
pub fn prepare(new: &mut Value, old: &Value, part: Part<'_>) {
    match part {
        Part::Main => {}
        Part::Status => {
            if let (Some(meta), Some(owners)) = (new.get_mut("metadata"), old.get("metadata")) {
                meta["ownerReferences"] = owners.get("ownerReferences").cloned().unwrap_or(Value::Null);
                if meta["ownerReferences"].is_null() {
                    if let Value::Object(meta) = meta {
                        meta.remove("ownerReferences");
                    }
                }
            }
            if text(new, "status.qosClass").is_empty() && new.get("status").is_some_and(Value::is_object) {
                let class = match text(old, "status.qosClass") {
                    "" => qos_class(new),
                    class => class,
                };
                new["status"]["qosClass"] = class.into();
            }
        }
        Part::Other(name) => {
            let mut pod = old.clone();
            // Only the fields of this subresource come from the writer.
            if let Some(version) = find(new, "metadata").get("resourceVersion") {
                pod["metadata"]["resourceVersion"] = version.clone();
            }
            if let Some(managed) = find(new, "metadata").get("managedFields") {
                pod["metadata"]["managedFields"] = managed.clone();
            }
            match name {
                "ephemeralcontainers" => copy(&mut pod["spec"], find(new, "spec"), "ephemeralContainers"),
                "resize" => resize(&mut pod, new),
                _ => {}
            }
            *new = pod;
        }
    }
}

fn copy(to: &mut Value, from: &Value, name: &str) {
    match (from.get(name), &mut *to) {
        (Some(value), _) if !value.is_null() => to[name] = value.clone(),
        (_, Value::Object(map)) => {
            map.remove(name);
        }
        _ => {}
    }
}

fn resize(pod: &mut Value, new: &Value) {
    for field in ["containers", "initContainers"] {
        let path = format!("spec.{field}");
        let wanted = list(new, &path);
        let current = list(pod, &path);
        let same = wanted.len() == current.len()
            && wanted.iter().zip(current).all(|(a, b)| text(a, "name") == text(b, "name"));
        if !same {
            // Validation says what is wrong with it.
            copy(&mut pod["spec"], find(new, "spec"), field);
            continue;
        }
        let wanted = wanted.to_vec();
        for (container, wanted) in crate::cursor::items_mut(&mut pod["spec"], field).iter_mut().zip(&wanted) {
            copy(container, wanted, "resources");
            copy(container, wanted, "resizePolicy");
        }
    }
    copy(&mut pod["spec"], find(new, "spec"), "resources");
}

/// What is wrong with a change.
pub fn validate(new: &Value, old: &Value, part: Part<'_>) -> Vec<FieldError> {
    let mut findings = Vec::new();
    match part {
        Part::Main => main(&mut findings, new, old),
        Part::Status => status(&mut findings, new, old),
        Part::Other("ephemeralcontainers") => {
            spec::validate(&mut findings, &At::root(new).get("spec"), true);
            ephemeral(&mut findings, new, old);
        }
        Part::Other("resize") => {
            spec::validate(&mut findings, &At::root(new).get("spec"), true);
            resized(&mut findings, new, old);
        }
        Part::Other(_) => {}
    }
    findings
}

fn main(findings: &mut Findings, new: &Value, old: &Value) {
    let (spec, before) = (At::root(new).get("spec"), At::root(old).get("spec"));
    for field in ["containers", "initContainers"] {
        if spec.get(field).len() != before.get(field).len() {
            findings.push(spec.get(field).forbidden("pod updates may not add or remove containers"));
            return;
        }
    }
    if deadline(findings, &spec.get("activeDeadlineSeconds"), &before.get("activeDeadlineSeconds")) {
        return;
    }
    added_tolerations(findings, &spec.get("tolerations"), &before.get("tolerations"));
    let gates = before.get("schedulingGates");
    for gate in spec.get("schedulingGates").items() {
        let name = gate.get("name");
        if !gates.items().any(|known| known.get("name").str() == name.str()) {
            let detail = format!("only deletion is allowed, but found new scheduling gate '{}'", name.str());
            findings.push(name.forbidden(&detail));
        }
    }
    if spec.value == before.value {
        return;
    }
    let mut munged = spec.value.clone();
    for field in ["containers", "initContainers"] {
        for (container, known) in crate::cursor::items_mut(&mut munged, field).iter_mut().zip(before.get(field).items()) {
            copy(container, known.value, "image");
        }
    }
    for field in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        copy(&mut munged, before.value, field);
    }
    let grace = "terminationGracePeriodSeconds";
    if before.get(grace).int().is_some_and(|seconds| seconds < 0) && munged[grace].as_i64() == Some(1) {
        copy(&mut munged, before.value, grace);
    }
    if gates.len() > 0 {
        gated(findings, &mut munged, &spec, &before);
    }
    if &munged != before.value {
        let changes = differences(before.value, &munged, "spec");
        let detail = format!("pod updates may not change fields other than {UPDATABLE}\n{changes}");
        findings.push(FieldError::forbidden("spec", &detail));
    }
}

/// Whether nothing further needs to be looked at.
fn deadline(findings: &mut Findings, new: &At<'_>, old: &At<'_>) -> bool {
    match (new.int(), old.int()) {
        (Some(seconds), _) if !(0..=i64::from(i32::MAX)).contains(&seconds) => {
            findings.push(new.invalid(&format!("must be between 0 and {}, inclusive", i32::MAX)));
            true
        }
        (Some(seconds), Some(before)) if before < seconds => {
            findings.push(new.invalid("must be less than or equal to previous value"));
            true
        }
        (None, Some(_)) => {
            let detail = "must not update from a positive integer to nil value";
            findings.push(FieldError::invalid(new.path.clone(), Value::Null, detail));
            false
        }
        _ => false,
    }
}

fn added_tolerations(findings: &mut Findings, new: &At<'_>, old: &At<'_>) {
    let without_seconds = |value: &Value| {
        let mut value = value.clone();
        if let Value::Object(map) = &mut value {
            map.remove("tolerationSeconds");
        }
        value
    };
    let kept = old.items().all(|old| new.items().any(|new| without_seconds(new.value) == without_seconds(old.value)));
    if !kept {
        findings.push(new.forbidden("existing toleration can not be modified except its tolerationSeconds"));
    }
}

/// A pod that waits at a gate may still be narrowed down to fewer nodes.
fn gated(findings: &mut Findings, munged: &mut Value, spec: &At<'_>, before: &At<'_>) {
    let (selector, known) = (spec.get("nodeSelector"), before.get("nodeSelector"));
    if selector.value != known.value {
        let kept = known.entries().all(|(key, value)| selector.value.get(key) == Some(value.value));
        if !kept {
            findings.push(selector.invalid(
                "only additions to spec.nodeSelector are allowed (no mutations or deletions)",
            ));
        }
        copy(munged, before.value, "nodeSelector");
    }
    let path = "affinity.nodeAffinity";
    let (new, old) = (spec.at(path), before.at(path));
    if new.value == old.value {
        return;
    }
    let terms = "requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    let (new_terms, old_terms) = (new.at(terms), old.at(terms));
    if old_terms.len() > 0 {
        if new_terms.len() != old_terms.len() {
            findings.push(new_terms.invalid("no additions/deletions to non-empty NodeSelectorTerms list are allowed"));
        } else {
            for (new, old) in new_terms.items().zip(old_terms.items()) {
                let wider = ["matchExpressions", "matchFields"].iter().any(|field| {
                    let (new, old) = (new.get(field), old.get(field));
                    let kept: Vec<&Value> = new.items().take(old.len()).map(|item| item.value).collect();
                    kept != old.items().map(|item| item.value).collect::<Vec<_>>()
                });
                if wider {
                    findings.push(new.invalid("only additions are allowed (no mutations or deletions)"));
                }
            }
        }
    }
    match (munged.get("affinity").cloned(), before.get("affinity").is_set()) {
        (Some(mut affinity), true) => {
            copy(&mut affinity, before.get("affinity").value, "nodeAffinity");
            munged["affinity"] = affinity;
        }
        (Some(mut affinity), false) => {
            if let Value::Object(map) = &mut affinity {
                map.remove("nodeAffinity");
            }
            let empty = affinity.as_object().is_none_or(serde_json::Map::is_empty);
            if let (true, Value::Object(map)) = (empty, &mut *munged) {
                map.remove("affinity");
            } else {
                munged["affinity"] = affinity;
            }
        }
        (None, _) => {
            if old.is_set() {
                munged["affinity"] = serde_json::json!({ "nodeAffinity": old.value });
            }
        }
    }
}

fn is_mirror(pod: &Value) -> bool {
    find(pod, "metadata.annotations").get(MIRROR).is_some()
}

fn ephemeral(findings: &mut Findings, new: &Value, old: &Value) {
    if is_mirror(old) {
        *findings = vec![FieldError::forbidden("", "static pods do not support ephemeral containers")];
        return;
    }
    let path = "spec.ephemeralContainers";
    for known in list(old, path) {
        let name = text(known, "name");
        match list(new, path).iter().find(|container| text(container, "name") == name) {
            None => {
                let detail = format!("existing ephemeral containers {name:?} may not be removed\n");
                findings.push(FieldError::forbidden(path, &detail));
            }
            Some(container) if container != known => {
                let changes = differences(known, container, path);
                let detail = format!("existing ephemeral containers {name:?} may not be changed\n{changes}");
                findings.push(FieldError::forbidden(path, &detail));
            }
            Some(_) => {}
        }
    }
}

fn resized(findings: &mut Findings, new: &Value, old: &Value) {
    if is_mirror(old) {
        *findings = vec![FieldError::forbidden("", "static pods cannot be resized")];
        return;
    }
    if text(old, "spec.os.name") == "windows" {
        *findings = vec![FieldError::forbidden("", "windows pods cannot be resized")];
        return;
    }
    let before = match text(old, "status.qosClass") {
        "" => qos_class(old),
        class => class,
    };
    if before != qos_class(new) {
        let detail = "Pod QOS Class may not change as a result of resizing";
        findings.push(FieldError::invalid("spec", text(new, "status.qosClass"), detail));
    }
    let running = list(old, "status.containerStatuses").iter().find(|status| find(status, "state.running").is_object());
    if running.is_some_and(|status| !status.get("resources").is_some_and(Value::is_object)) {
        findings.push(FieldError::forbidden("spec", "Pod running on node without support for resize"));
    }
    let mut munged = find(new, "spec").clone();
    for field in ["containers", "initContainers"] {
        let path = format!("spec.{field}");
        let (wanted, known) = (list(new, &path), list(old, &path));
        if wanted.len() != known.len() {
            findings.push(FieldError::forbidden(path, &format!("{field} may not be added or removed on resize")));
            return;
        }
        for (index, (wanted, known)) in wanted.iter().zip(known).enumerate() {
            let path = format!("{path}[{index}]");
            if text(wanted, "name") != text(known, "name") {
                let detail = format!("{field} may not be renamed or reordered on resize");
                findings.push(FieldError::forbidden(format!("{path}.name"), &detail));
                return;
            }
            for side in ["requests", "limits"] {
                let at = format!("resources.{side}");
                let removed = find(known, &at).as_object().into_iter().flatten().any(|(name, _)| find(wanted, &at).get(name).is_none());
                if removed {
                    let detail = format!("resource {side} cannot be removed");
                    findings.push(FieldError::forbidden(format!("{path}.resources.{side}"), &detail));
                }
            }
            let mut rest = wanted.clone();
            keep_other_resources(&mut rest, known);
            if &rest != known {
                let (at, detail) = if field == "containers" {
                    ("spec".to_owned(), "only cpu and memory resources are mutable")
                } else {
                    (path.clone(), "only cpu and memory resources for init or sidecar containers are mutable")
                };
                findings.push(FieldError::forbidden(at, detail));
            }
            let restarts = list(wanted, "resizePolicy").iter().any(|policy| text(policy, "restartPolicy") == "RestartContainer");
            if field == "initContainers" && wanted != known && text(wanted, "restartPolicy") != "Always" && restarts {
                let detail = "non-sidecar init containers with a resize policy of RestartContainer cannot be resized";
                findings.push(FieldError::forbidden(path, detail));
            }
            munged[field][index] = rest;
        }
    }
    if findings.is_empty() {
        keep_other_resources(&mut munged, find(old, "spec"));
        if &munged != find(old, "spec") {
            findings.push(FieldError::forbidden("spec", "only cpu and memory resources are mutable"));
        }
    }
}

/// Puts CPU and memory back to what they were, so that what is left shows other changes.
fn keep_other_resources(holder: &mut Value, known: &Value) {
    for side in ["requests", "limits"] {
        for name in ["cpu", "memory"] {
            let before = find(known, &format!("resources.{side}")).get(name).cloned();
            if holder.get("resources").is_none_or(|resources| !resources.is_object()) {
                continue;
            }
            let map = crate::cursor::make_object(&mut holder["resources"], side);
            match (before, map) {
                (Some(value), map) => map[name] = value,
                (None, Value::Object(map)) => {
                    map.remove(name);
                }
                (None, _) => {}
            }
        }
        let empty = find(holder, &format!("resources.{side}")).as_object().is_some_and(serde_json::Map::is_empty);
        if empty && find(known, "resources").get(side).is_none() {
            if let Some(Value::Object(resources)) = holder.get_mut("resources") {
                resources.remove(side);
            }
        }
    }
}

fn status(findings: &mut Findings, new: &Value, old: &Value) {
    let (at, before) = (At::root(new).get("status"), At::root(old).get("status"));
    let class = at.get("qosClass");
    if !before.get("qosClass").is_empty() && class.str() != before.get("qosClass").str() {
        findings.push(class.invalid("field is immutable"));
    }
    for (name, count) in [("podIP", "podIPs"), ("hostIP", "hostIPs")] {
        let (single, list) = (at.get(name), at.get(count));
        if let Some(first) = list.items().next() {
            if first.get("ip").str() != single.str() {
                findings.push(first.get("ip").invalid(&format!("must be equal to `{name}`")));
            }
        }
        for item in list.items() {
            let ip = item.get("ip");
            crate::validate::each(findings, &ip, &crate::validate::text::ip_problems(ip.str()));
        }
    }
    for (statuses, containers) in
        [("containerStatuses", "spec.containers"), ("initContainerStatuses", "spec.initContainers")]
    {
        restarts(findings, &at.get(statuses), &before.get(statuses), new, list(new, containers), statuses);
    }
}

/// A container that has ended for good may not run again.
fn restarts(findings: &mut Findings, new: &At<'_>, old: &At<'_>, pod: &Value, containers: &[Value], field: &str) {
    let init = field == "initContainerStatuses";
    for (index, before) in old.items().enumerate() {
        let ended = before.at("state.terminated");
        if !ended.is_set() {
            continue;
        }
        let name = before.get("name").str();
        let own = containers.iter().find(|container| text(container, "name") == name);
        let policy = match own.map(|container| text(container, "restartPolicy")) {
            Some(policy) if !policy.is_empty() => policy,
            _ => text(pod, "spec.restartPolicy"),
        };
        let failed = ended.get("exitCode").int().unwrap_or(0) != 0;
        let rules = own.is_some_and(|container| !list(container, "restartPolicyRules").is_empty());
        let may = match policy {
            "Always" => true,
            "OnFailure" => failed,
            _ => false,
        } || rules || (init && policy != "Never" && failed);
        let runs_again = new
            .items()
            .any(|status| status.get("name").str() == name && !status.at("state.terminated").is_set());
        if runs_again && !may {
            let path = format!("{}[{index}].state", new.path);
            findings.push(FieldError::forbidden(path, "may not be transitioned to non-terminated state"));
        }
    }
}

/// What differs, one line per value: the old one with `-`, the new one with `+`.
pub fn differences(old: &Value, new: &Value, path: &str) -> String {
    let mut out = String::new();
    collect(old, new, path, &mut out, 0);
    out
}

fn collect(old: &Value, new: &Value, path: &str, out: &mut String, depth: usize) {
    if old == new || out.len() > 4096 || depth > 40 {
        return;
    }
    match (old, new) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let (a, b) = (a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null));
                collect(a, b, &format!("{path}.{key}"), out, depth + 1);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                collect(a, b, &format!("{path}[{index}]"), out, depth + 1);
            }
        }
        _ => {
            use std::fmt::Write as _;
            if !old.is_null() {
                let _ = writeln!(out, "-{path}: {old}");
            }
            if !new.is_null() {
                let _ = writeln!(out, "+{path}: {new}");
            }
        }
    }
}
