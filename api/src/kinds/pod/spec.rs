//! What may be wrong with a pod spec, of a pod or of a template.

use std::collections::BTreeSet;

use serde_json::Value;

use super::container::{self, Context};
use super::{resources, security, volume};
use crate::cursor::At;
use crate::field::FieldError;
use crate::validate::text::{
    ip_problems, label_problems, label_value_problems, qualified_name_problems, subdomain_problems,
};
use crate::validate::{each, label_selector, labels, one_of};

type Findings = Vec<FieldError>;

/// Checks a pod spec. `is_pod`: not a template.
pub fn validate(findings: &mut Findings, spec: &At<'_>, is_pod: bool) {
    let grace = spec.get("terminationGracePeriodSeconds");
    if !grace.is_set() {
        findings.push(grace.required(""));
    }
    let volumes = volume::volumes(findings, &spec.get("volumes"));
    let claims: BTreeSet<&str> = spec.get("resourceClaims").items().map(|claim| claim.get("name").str()).collect();
    resource_claims(findings, &spec.get("resourceClaims"));
    let context = Context {
        volumes,
        restart_policy: spec.get("restartPolicy").str(),
        grace: grace.int(),
        os: spec.at("os.name").str(),
        is_pod,
        claims,
    };
    let (regular, init) = (spec.get("containers"), spec.get("initContainers"));
    container::regular(findings, &regular, &context);
    container::init(findings, &init, &regular, &context);
    container::ephemeral(findings, &spec.get("ephemeralContainers"), &[&regular, &init], &context);
    pod_resources(findings, &spec.get("resources"), &context);
    host_network(findings, spec, is_pod);
    policy(findings, &spec.get("restartPolicy"), &["Always", "OnFailure", "Never"]);
    policy(findings, &spec.get("dnsPolicy"), &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"]);
    labels(findings, &spec.get("nodeSelector"));
    security::pod(findings, spec);
    affinity(findings, &spec.get("affinity"));
    dns(findings, spec);
    for gate in spec.get("readinessGates").items() {
        let r#type = gate.get("conditionType");
        each(findings, &r#type, &qualified_name_problems(r#type.str()));
    }
    scheduling_gates(findings, &spec.get("schedulingGates"));
    spread(findings, &spec.get("topologySpreadConstraints"));
    host_users(findings, spec);
    hostname_override(findings, spec);
    plain_names(findings, spec);
    tolerations(findings, &spec.get("tolerations"));
    for alias in spec.get("hostAliases").items() {
        let ip = alias.get("ip");
        each(findings, &ip, &ip_problems(ip.str()));
        for name in alias.get("hostnames").items() {
            each(findings, &name, &subdomain_problems(name.str()));
        }
    }
    let preemption = spec.get("preemptionPolicy");
    if preemption.is_set() {
        policy(findings, &preemption, &["Never", "PreemptLowerPriority"]);
    }
    let overhead = At::new(spec.sub("overhead"), spec.get("overhead").value);
    for (name, value) in overhead.entries() {
        resources::quantity(findings, &value, name);
    }
    let os = spec.get("os");
    if os.is_set() {
        let name = os.get("name");
        if name.is_empty() {
            findings.push(name.required(""));
        } else {
            one_of(findings, &name, &["linux", "windows"]);
        }
    }
}

fn plain_names(findings: &mut Findings, spec: &At<'_>) {
    for (name, problems) in [
        ("serviceAccountName", subdomain_problems as fn(&str) -> Vec<String>),
        ("nodeName", subdomain_problems),
        ("hostname", label_problems),
        ("subdomain", label_problems),
        ("priorityClassName", subdomain_problems),
        ("runtimeClassName", subdomain_problems),
    ] {
        let at = spec.get(name);
        if !at.is_empty() || (name == "runtimeClassName" && at.is_set()) {
            each(findings, &at, &problems(at.str()));
        }
    }
    let deadline = spec.get("activeDeadlineSeconds");
    if deadline.int().is_some_and(|seconds| !(1..=i64::from(i32::MAX)).contains(&seconds)) {
        findings.push(deadline.invalid(&format!("must be between 1 and {}, inclusive", i32::MAX)));
    }
}

fn policy(findings: &mut Findings, at: &At<'_>, known: &[&str]) {
    if at.is_empty() {
        findings.push(at.required(""));
    } else {
        one_of(findings, at, known);
    }
}

fn pod_resources(findings: &mut Findings, at: &At<'_>, context: &Context<'_>) {
    if !at.is_set() {
        return;
    }
    if at.get("claims").is_set() {
        findings.push(at.get("claims").forbidden("claims may not be set for Resources at pod-level"));
    }
    resources::requirements(findings, at, resources::Of::Pod, &context.claims);
}

fn resource_claims(findings: &mut Findings, list: &At<'_>) {
    let mut names = BTreeSet::new();
    for claim in list.items() {
        let name = claim.get("name");
        if name.is_empty() {
            findings.push(name.required(""));
        } else if !names.insert(name.str()) {
            findings.push(name.duplicate());
        } else {
            each(findings, &name, &label_problems(name.str()));
        }
        match (claim.get("resourceClaimName").is_set(), claim.get("resourceClaimTemplateName").is_set()) {
            (true, true) => findings.push(
                claim.invalid("at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"),
            ),
            (false, false) => {
                findings.push(claim.invalid("must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"));
            }
            _ => {}
        }
    }
}

fn host_network(findings: &mut Findings, spec: &At<'_>, is_pod: bool) {
    if !spec.get("hostNetwork").is_true() {
        return;
    }
    for container in spec.get("containers").items() {
        for port in container.get("ports").items() {
            let host = port.get("hostPort").int().unwrap_or(0);
            if (is_pod || host != 0) && Some(host) != port.get("containerPort").int() {
                let detail = "must match `containerPort` when `hostNetwork` is true";
                findings.push(FieldError::invalid(port.sub("hostPort"), host, detail));
            }
        }
    }
}

fn host_users(findings: &mut Findings, spec: &At<'_>) {
    let users = spec.get("hostUsers");
    if !users.is_set() || users.is_true() {
        return;
    }
    for (flag, shown) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if spec.get(flag).is_true() {
            findings.push(FieldError::forbidden(spec.sub(shown), "when `hostUsers` is false"));
        }
    }
}

fn hostname_override(findings: &mut Findings, spec: &At<'_>) {
    let at = spec.get("hostnameOverride");
    if !at.is_set() {
        return;
    }
    if spec.get("setHostnameAsFQDN").is_true() {
        findings.push(at.forbidden("may not be specified when setHostnameAsFQDN is true"));
    }
    if spec.get("hostNetwork").is_true() {
        findings.push(at.forbidden("may not be specified when hostNetwork is true"));
    }
    if at.str().len() > 64 {
        findings.push(FieldError::too_long(at.path.clone(), 64));
    }
    each(findings, &at, &subdomain_problems(at.str()));
}

fn dns(findings: &mut Findings, spec: &At<'_>) {
    let at = spec.get("dnsConfig");
    let servers = at.get("nameservers");
    if spec.get("dnsPolicy").str() == "None" {
        if !at.is_set() {
            findings.push(at.required("must provide `dnsConfig` when `dnsPolicy` is None"));
            return;
        }
        if servers.len() == 0 {
            findings.push(servers.required("must provide at least one DNS nameserver when `dnsPolicy` is None"));
            return;
        }
    }
    if servers.len() > 3 {
        findings.push(servers.invalid("must not have more than 3 nameservers"));
    }
    for server in servers.items() {
        each(findings, &server, &ip_problems(server.str()));
    }
    let searches = at.get("searches");
    if searches.len() > 32 {
        findings.push(searches.invalid("must not have more than 32 search paths"));
    }
    let total: usize = searches.items().map(|search| search.str().len() + 1).sum();
    if total > 2049 {
        findings.push(searches.invalid("must not have more than 2048 characters (including spaces) in the search list"));
    }
    for search in searches.items().filter(|search| search.str() != ".") {
        let text = search.str().strip_suffix('.').unwrap_or(search.str()).replace('_', "a");
        each(findings, &search, &subdomain_problems(&text));
    }
    for option in at.get("options").items() {
        if option.get("name").is_empty() {
            findings.push(option.required("must not be empty"));
        }
    }
}

fn scheduling_gates(findings: &mut Findings, list: &At<'_>) {
    let mut names = BTreeSet::new();
    for gate in list.items() {
        let name = gate.get("name");
        each(findings, &name, &qualified_name_problems(name.str()));
        if !names.insert(name.str()) {
            findings.push(FieldError::duplicate(gate.path.clone(), name.str()));
        }
    }
}

/// Tolerations.
pub fn tolerations(findings: &mut Findings, list: &At<'_>) {
    for toleration in list.items() {
        let key = toleration.get("key");
        let (operator, value, effect) = (toleration.get("operator"), toleration.get("value"), toleration.get("effect"));
        if !key.is_empty() {
            each(findings, &key, &qualified_name_problems(key.str()));
        } else if operator.str() != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            findings.push(operator.invalid(detail));
        }
        if toleration.get("tolerationSeconds").is_set() && effect.str() != "NoExecute" {
            findings.push(effect.invalid("effect must be 'NoExecute' when `tolerationSeconds` is set"));
        }
        match operator.str() {
            "Equal" | "" => {
                let problems = label_value_problems(value.str());
                if !problems.is_empty() {
                    findings.push(FieldError::invalid(operator.path.clone(), value.str(), &problems.join(";")));
                }
            }
            "Exists" => {
                if !value.is_empty() {
                    let detail = "value must be empty when `operator` is 'Exists'";
                    findings.push(FieldError::invalid(operator.path.clone(), value.str(), detail));
                }
            }
            "Lt" | "Gt" => findings.push(operator.not_supported(&["Equal", "Exists", "Lt", "Gt"])),
            _ => findings.push(operator.not_supported(&["Equal", "Exists"])),
        }
        if !effect.is_empty() {
            one_of(findings, &effect, &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
        }
    }
}

fn affinity(findings: &mut Findings, at: &At<'_>) {
    let node = at.get("nodeAffinity");
    let required = node.get("requiredDuringSchedulingIgnoredDuringExecution");
    if required.is_set() {
        node_selector(findings, &required);
    }
    for term in node.get("preferredDuringSchedulingIgnoredDuringExecution").items() {
        weight(findings, &term);
        node_term(findings, &term.get("preference"));
    }
    for name in ["podAffinity", "podAntiAffinity"] {
        let pod = at.get(name);
        for term in pod.get("requiredDuringSchedulingIgnoredDuringExecution").items() {
            pod_term(findings, &term);
        }
        for term in pod.get("preferredDuringSchedulingIgnoredDuringExecution").items() {
            weight(findings, &term);
            pod_term(findings, &term.get("podAffinityTerm"));
        }
    }
}

fn weight(findings: &mut Findings, term: &At<'_>) {
    let weight = term.get("weight");
    if !(1..=100).contains(&weight.int().unwrap_or(0)) {
        let value = weight.int().unwrap_or(0);
        findings.push(FieldError::invalid(weight.path, value, "must be in the range 1-100"));
    }
}

/// A node selector: terms, one of which must hold.
pub fn node_selector(findings: &mut Findings, at: &At<'_>) {
    let terms = at.get("nodeSelectorTerms");
    if terms.len() == 0 {
        findings.push(terms.required("must have at least one node selector term"));
    }
    for term in terms.items() {
        node_term(findings, &term);
    }
}

fn node_term(findings: &mut Findings, term: &At<'_>) {
    for expression in term.get("matchExpressions").items() {
        requirement(findings, &expression);
    }
    for field in term.get("matchFields").items() {
        let (key, operator, values) = (field.get("key"), field.get("operator"), field.get("values"));
        if !matches!(operator.str(), "In" | "NotIn") {
            findings.push(operator.invalid("not a valid selector operator"));
        } else if values.len() != 1 {
            let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            findings.push(values.required(detail));
        }
        if key.str() == "metadata.name" {
            for value in values.items() {
                each(findings, &value, &subdomain_problems(value.str()));
            }
        } else {
            findings.push(key.invalid("not a valid field selector key"));
        }
    }
}

fn requirement(findings: &mut Findings, at: &At<'_>) {
    let (key, operator, values) = (at.get("key"), at.get("operator"), at.get("values"));
    match operator.str() {
        "In" | "NotIn" if values.len() == 0 => {
            findings.push(values.required("must be specified when `operator` is 'In' or 'NotIn'"));
        }
        "Exists" | "DoesNotExist" if values.len() > 0 => {
            findings.push(values.forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'"));
        }
        "Gt" | "Lt" if values.len() != 1 => {
            findings.push(values.required("must be specified single value when `operator` is 'Lt' or 'Gt'"));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        _ => findings.push(operator.invalid("not a valid selector operator")),
    }
    each(findings, &key, &qualified_name_problems(key.str()));
    for value in values.items() {
        each(findings, &value, &label_value_problems(value.str()));
    }
}

fn pod_term(findings: &mut Findings, term: &At<'_>) {
    label_selector(findings, &term.get("labelSelector"));
    label_selector(findings, &term.get("namespaceSelector"));
    for namespace in term.get("namespaces").items() {
        each(findings, &namespace, &label_problems(namespace.str()));
    }
    let key = term.get("topologyKey");
    if key.is_empty() {
        findings.push(key.required("can not be empty"));
    }
    each(findings, &key, &qualified_name_problems(key.str()));
}

fn spread(findings: &mut Findings, list: &At<'_>) {
    let mut seen = BTreeSet::new();
    for constraint in list.items() {
        let skew = constraint.get("maxSkew");
        if skew.int().unwrap_or(0) <= 0 {
            let value = skew.int().unwrap_or(0);
            findings.push(FieldError::invalid(skew.path, value, "must be greater than zero"));
        }
        let key = constraint.get("topologyKey");
        if key.is_empty() {
            findings.push(key.required("can not be empty"));
        } else {
            each(findings, &key, &qualified_name_problems(key.str()));
        }
        let action = constraint.get("whenUnsatisfiable");
        one_of(findings, &action, &["DoNotSchedule", "ScheduleAnyway"]);
        if !seen.insert((key.str(), action.str())) {
            let pair = format!("{{{}, {}}}", key.str(), action.str());
            findings.push(FieldError::duplicate(format!("{}.{{topologyKey, whenUnsatisfiable}}", constraint.path), pair));
        }
        let domains = constraint.get("minDomains");
        if let Some(value) = domains.int() {
            if value <= 0 {
                findings.push(domains.invalid("must be greater than zero"));
            }
            if action.str() != "DoNotSchedule" {
                let detail = format!(
                    "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {:?}",
                    action.str()
                );
                findings.push(domains.invalid(&detail));
            }
        }
        for name in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            let policy = constraint.get(name);
            if policy.is_set() {
                one_of(findings, &policy, &["Honor", "Ignore"]);
            }
        }
        label_selector(findings, &constraint.get("labelSelector"));
    }
}

/// Checks a template: its metadata's labels and annotations, and its spec.
pub fn template(findings: &mut Findings, template: &At<'_>) {
    labels(findings, &template.at("metadata.labels"));
    crate::validate::meta::annotations(findings, &template.at("metadata.annotations"));
    let spec = template.get("spec");
    validate(findings, &spec, false);
    let ephemeral = spec.get("ephemeralContainers");
    if ephemeral.len() > 0 {
        findings.push(ephemeral.forbidden("ephemeral containers not allowed in pod template"));
    }
}

/// Whether a label map fulfils a selector, both as they stand in an object.
pub fn selects(selector: &Value, labels: &Value) -> bool {
    let parsed = serde_json::from_value(selector.clone()).ok();
    let labels = serde_json::from_value(labels.clone()).ok();
    crate::selector::matches_label_selector(parsed.as_ref(), labels.as_ref())
}
