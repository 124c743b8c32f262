//! What may be wrong with security contexts.

use crate::cursor::At;
use crate::field::FieldError;
use crate::validate::one_of;

const MAX_ID: i64 = i32::MAX as i64;

fn id(findings: &mut Vec<FieldError>, at: &At<'_>) {
    if at.int().is_some_and(|id| !(0..=MAX_ID).contains(&id)) {
        findings.push(at.invalid(&format!("must be between 0 and {MAX_ID}, inclusive")));
    }
}

fn seccomp(findings: &mut Vec<FieldError>, at: &At<'_>) {
    profile(findings, at, &["Localhost", "RuntimeDefault", "Unconfined"], true);
}

fn app_armor(findings: &mut Vec<FieldError>, at: &At<'_>) {
    profile(findings, at, &["Localhost", "RuntimeDefault", "Unconfined"], false);
}

fn profile(findings: &mut Vec<FieldError>, at: &At<'_>, known: &[&str], path: bool) {
    if !at.is_set() {
        return;
    }
    let (r#type, local) = (at.get("type"), at.get("localhostProfile"));
    match r#type.str() {
        "" => {
            let detail = if path { "type is required when seccompProfile is set" } else { "type is required when appArmorProfile is set" };
            findings.push(r#type.required(detail));
        }
        "Localhost" if local.is_empty() => {
            let what = if path { "seccomp" } else { "AppArmor" };
            findings.push(local.required(&format!("must be set when {what} type is Localhost")));
        }
        "Localhost" if path => super::container::descending_path(findings, &local, &local.path),
        other if !known.contains(&other) => findings.push(r#type.not_supported(known)),
        "Localhost" => {}
        _ if local.is_set() => {
            let what = if path { "seccomp" } else { "AppArmor" };
            findings.push(local.invalid(&format!("can only be set when {what} type is Localhost")));
        }
        _ => {}
    }
}

/// A container's.
pub fn container(findings: &mut Vec<FieldError>, at: &At<'_>) {
    if !at.is_set() {
        return;
    }
    id(findings, &at.get("runAsUser"));
    id(findings, &at.get("runAsGroup"));
    let mount = at.get("procMount");
    if mount.is_set() {
        one_of(findings, &mount, &["Default", "Unmasked"]);
    }
    seccomp(findings, &at.get("seccompProfile"));
    let escalation = at.get("allowPrivilegeEscalation");
    if escalation.is_set() && !escalation.is_true() {
        if at.get("privileged").is_true() {
            findings.push(at.invalid("cannot set `allowPrivilegeEscalation` to false and `privileged` to true"));
        }
        if at.at("capabilities.add").items().any(|capability| capability.str() == "CAP_SYS_ADMIN") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            findings.push(at.invalid(detail));
        }
    }
    app_armor(findings, &at.get("appArmorProfile"));
}

/// The pod's. `spec` for what must fit together.
pub fn pod(findings: &mut Vec<FieldError>, spec: &At<'_>) {
    let at = spec.get("securityContext");
    for name in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(findings, &at.get(name));
    }
    for group in at.get("supplementalGroups").items() {
        id(findings, &group);
    }
    if spec.get("shareProcessNamespace").is_true() && spec.get("hostPID").is_true() {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        findings.push(FieldError::invalid(at.sub("shareProcessNamespace"), true, detail));
    }
    sysctls(findings, &at.get("sysctls"), spec);
    let policy = at.get("fsGroupChangePolicy");
    if policy.is_set() {
        one_of(findings, &policy, &["Always", "OnRootMismatch"]);
    }
    seccomp(findings, &at.get("seccompProfile"));
    app_armor(findings, &at.get("appArmorProfile"));
    let policy = at.get("supplementalGroupsPolicy");
    if policy.is_set() {
        one_of(findings, &policy, &["Merge", "Strict"]);
    }
    let policy = at.get("seLinuxChangePolicy");
    if policy.is_set() {
        one_of(findings, &policy, &["MountOption", "Recursive"]);
    }
}

const SEGMENT: &str = "[a-z0-9]([-_a-z0-9]*[a-z0-9])?";

fn is_sysctl(name: &str) -> bool {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= 253
        && name.split(['.', '/']).all(|segment| {
            segment.starts_with(edge) && segment.ends_with(edge) && segment.chars().all(|c| edge(c) || "-_".contains(c))
        })
}

/// `net/ipv4/x.y` names the same as `net.ipv4.x/y`.
fn normalized(name: &str) -> String {
    let first = name.find(['.', '/']);
    match first {
        Some(at) if name.as_bytes()[at] == b'/' => name
            .chars()
            .map(|c| match c {
                '/' => '.',
                '.' => '/',
                c => c,
            })
            .collect(),
        _ => name.to_owned(),
    }
}

fn sysctls(findings: &mut Vec<FieldError>, at: &At<'_>, spec: &At<'_>) {
    let mut seen = std::collections::BTreeSet::new();
    for sysctl in at.items() {
        let name = sysctl.get("name");
        if name.is_empty() {
            findings.push(name.required(""));
        } else if !is_sysctl(name.str()) {
            let detail = format!(
                "must have at most 253 characters and match regex ^({SEGMENT}[\\./])*{SEGMENT}$"
            );
            findings.push(name.invalid(&detail));
        } else if !seen.insert(normalized(name.str())) {
            findings.push(name.duplicate());
        }
        let plain = normalized(name.str());
        let ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|prefix| plain.starts_with(prefix));
        for (flag, shared) in [("hostNetwork", plain.starts_with("net.")), ("hostIPC", ipc || plain == "kernel.sem")] {
            if spec.get(flag).is_true() && shared {
                findings.push(name.invalid(&format!("may not be specified when '{flag}' is true")));
            }
        }
    }
}
