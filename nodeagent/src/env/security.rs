//! `securityContext` as settings of a container.
//!
//! Pure. Where container and pod disagree, the container wins.

use k8s_openapi::api::core::v1::{Container, Pod, PodSecurityContext, SeccompProfile, SecurityContext};

use crate::pod::view;
use crate::runtime::Security;

/// Sysctls that a pod may set without the node's leave.
const SAFE_SYSCTLS: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

fn contexts(pod: &Pod, container: &Container) -> (PodSecurityContext, SecurityContext) {
    (view::spec(pod).security_context.clone().unwrap_or_default(), container.security_context.clone().unwrap_or_default())
}

/// The settings of a container. An `Err` is the message of CreateContainerConfigError; `image_user` is the image's.
pub fn of_container(pod: &Pod, container: &Container, image_user: &str) -> Result<Security, String> {
    let (all, own) = contexts(pod, container);
    let user = own.run_as_user.or(all.run_as_user);
    let group = own.run_as_group.or(all.run_as_group);
    check_non_root(pod, container, user, own.run_as_non_root.or(all.run_as_non_root), image_user)?;
    let privileged = own.privileged.unwrap_or(false);
    let mut groups: Vec<i64> = all.supplemental_groups.clone().unwrap_or_default();
    groups.extend(all.fs_group);
    groups.sort_unstable();
    groups.dedup();
    let capabilities = own.capabilities.clone().unwrap_or_default();
    let seccomp = seccomp(own.seccomp_profile.as_ref().or(all.seccomp_profile.as_ref()), privileged)?;
    Ok(Security {
        user: match (user, group) {
            (Some(user), Some(group)) => Some(format!("{user}:{group}")),
            (Some(user), None) => Some(user.to_string()),
            (None, Some(group)) => {
                let user = image_user.split(':').next().filter(|user| !user.is_empty()).unwrap_or("0");
                Some(format!("{user}:{group}"))
            }
            (None, None) => None,
        },
        groups,
        add_capabilities: bare(capabilities.add),
        drop_capabilities: bare(capabilities.drop),
        privileged,
        read_only_root: own.read_only_root_filesystem.unwrap_or(false),
        no_new_privileges: own.allow_privilege_escalation == Some(false) && !privileged,
        seccomp,
    })
}

fn bare(capabilities: Option<Vec<String>>) -> Vec<String> {
    let strip = |name: String| name.strip_prefix("CAP_").map(str::to_owned).unwrap_or(name);
    capabilities.into_iter().flatten().map(strip).collect()
}

fn check_non_root(
    pod: &Pod,
    container: &Container,
    user: Option<i64>,
    required: Option<bool>,
    image_user: &str,
) -> Result<(), String> {
    if required != Some(true) {
        return Ok(());
    }
    let whose = format!("(pod: \"{}\", container: {})", view::full_name(pod), container.name);
    let image_user = image_user.split(':').next().unwrap_or_default();
    match (user, image_user.parse::<i64>()) {
        (Some(0), _) => Err(format!("container's runAsUser breaks non-root policy {whose}")),
        (Some(_), _) => Ok(()),
        (None, Ok(0)) => Err(format!("container has runAsNonRoot and image will run as root {whose}")),
        (None, Ok(_)) => Ok(()),
        (None, Err(_)) if image_user.is_empty() || image_user == "root" => {
            Err(format!("container has runAsNonRoot and image will run as root {whose}"))
        }
        (None, Err(_)) => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({image_user}), cannot verify user is non-root {whose}"
        )),
    }
}

fn seccomp(profile: Option<&SeccompProfile>, privileged: bool) -> Result<Option<String>, String> {
    match profile.map(|profile| profile.type_.as_str()) {
        _ if privileged => Ok(Some("unconfined".to_owned())),
        Some("RuntimeDefault") => Ok(None),
        Some("Localhost") => {
            let path = profile.and_then(|profile| profile.localhost_profile.as_deref()).unwrap_or_default();
            Err(format!("cannot load seccomp profile \"{path}\": this node keeps no seccomp profiles"))
        }
        Some(_) | None => Ok(Some("unconfined".to_owned())),
    }
}

/// The user that all containers share, where they share one: it then owns token files.
pub fn common_user(pod: &Pod) -> Option<i64> {
    let mut users = view::units(pod).into_iter().map(|unit| {
        let (all, own) = contexts(pod, &unit.container);
        own.run_as_user.or(all.run_as_user)
    });
    let first = users.next()??;
    users.all(|user| user == Some(first)).then_some(first)
}

/// The first sysctl of the pod that is not safe.
pub fn forbidden_sysctl(pod: &Pod) -> Option<String> {
    let spec = view::spec(pod);
    let sysctls = spec.security_context.iter().flat_map(|context| context.sysctls.iter().flatten());
    sysctls.map(|sysctl| sysctl.name.replace('/', ".")).find(|name| !SAFE_SYSCTLS.contains(&name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(spec: serde_json::Value, image_user: &str) -> Result<Security, String> {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": { "name": "p", "namespace": "n", "uid": "u" }, "spec": spec }))
        .unwrap();
        let container = pod.spec.as_ref().map(|spec| spec.containers[0].clone()).unwrap();
        of_container(&pod, &container, image_user)
    }

    #[test]
    fn the_container_wins_over_the_pod() {
        let security = check(
            serde_json::json!({ "securityContext": { "runAsUser": 1, "runAsGroup": 2, "fsGroup": 9, "supplementalGroups": [5] },
                "containers": [{ "name": "c", "securityContext": { "runAsUser": 7, "allowPrivilegeEscalation": false,
                    "capabilities": { "add": ["CAP_NET_ADMIN"], "drop": ["ALL"] } } }] }),
            "",
        )
        .unwrap();
        assert_eq!(security.user.as_deref(), Some("7:2"));
        assert_eq!(security.groups, [5, 9]);
        assert_eq!((security.add_capabilities, security.drop_capabilities), (vec!["NET_ADMIN".to_owned()], vec!["ALL".to_owned()]));
        assert!(security.no_new_privileges);
    }

    #[test]
    fn non_root() {
        let of = |user: Option<i64>, image_user: &str| {
            let own = serde_json::json!({ "runAsNonRoot": true, "runAsUser": user });
            check(serde_json::json!({ "containers": [{ "name": "c", "securityContext": own }] }), image_user).map(|_| ())
        };
        let whose = "(pod: \"p_n(u)\", container: c)";
        assert_eq!(of(Some(5), ""), Ok(()));
        assert_eq!(of(None, "1000:1000"), Ok(()));
        assert_eq!(of(Some(0), "5"), Err(format!("container's runAsUser breaks non-root policy {whose}")));
        assert_eq!(of(None, ""), Err(format!("container has runAsNonRoot and image will run as root {whose}")));
        assert_eq!(
            of(None, "app"),
            Err(format!("container has runAsNonRoot and image has non-numeric user (app), cannot verify user is non-root {whose}"))
        );
    }
}
