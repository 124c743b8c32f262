//! Which container of a pod a request means, and whether it can be answered at all. Pure; the texts are Kubernetes'.

use balsa_api::status::{ApiError, ApiResult};
use k8s_openapi::api::core::v1::{Container, Pod};

fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

fn names(containers: &[Container]) -> String {
    containers.iter().map(|container| container.name.as_str()).collect::<Vec<_>>().join(" ")
}

/// The container that is meant by `asked`: that one, or the only one.
pub fn container(pod: &Pod, asked: &str) -> ApiResult<String> {
    let Some(spec) = &pod.spec else { return Err(no_container(pod)) };
    let init = spec.init_containers.as_deref().unwrap_or_default();
    if !asked.is_empty() {
        let ephemeral = spec.ephemeral_containers.as_deref().unwrap_or_default();
        let known = spec.containers.iter().chain(init).any(|container| container.name == asked)
            || ephemeral.iter().any(|container| container.name == asked);
        let unknown = || ApiError::bad_request(format!("container {asked} is not valid for pod {}", name(pod)));
        return known.then(|| asked.to_owned()).ok_or_else(unknown);
    }
    match spec.containers.as_slice() {
        [] => Err(no_container(pod)),
        [only] => Ok(only.name.clone()),
        several => {
            let mut message = format!(
                "a container name must be specified for pod {}, choose one of: [{}]",
                name(pod),
                names(several)
            );
            if !init.is_empty() {
                message.push_str(&format!(" or one of the init containers: [{}]", names(init)));
            }
            Err(ApiError::bad_request(message))
        }
    }
}

fn no_container(pod: &Pod) -> ApiError {
    ApiError::bad_request(format!("a container name must be specified for pod {}", name(pod)))
}

/// Refuses what needs a node where the pod has none.
pub fn host(pod: &Pod) -> ApiResult<()> {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
    if node.is_empty() {
        return Err(ApiError::bad_request(format!("pod {} does not have a host assigned", name(pod))));
    }
    Ok(())
}

/// Refuses `verb` (`exec into`, `attach`) where the pod has ended for good.
pub fn not_completed(pod: &Pod, verb: &str) -> ApiResult<()> {
    match pod.status.as_ref().and_then(|status| status.phase.as_deref()) {
        Some(phase @ ("Succeeded" | "Failed")) => Err(ApiError::bad_request(format!(
            "cannot {verb} a container in a completed pod; current phase is {phase}"
        ))),
        _ => Ok(()),
    }
}

/// `tty` and `stdin` of a container's specification: what an attach has to live with.
pub fn console(pod: &Pod, wanted: &str) -> (bool, bool) {
    let Some(spec) = &pod.spec else { return (false, false) };
    let plain = spec.containers.iter().chain(spec.init_containers.as_deref().unwrap_or_default());
    let ephemeral = spec.ephemeral_containers.as_deref().unwrap_or_default();
    let found = plain
        .map(|container| (&container.name, container.tty, container.stdin))
        .chain(ephemeral.iter().map(|container| (&container.name, container.tty, container.stdin)))
        .find(|(name, ..)| *name == wanted);
    found.map_or((false, false), |(_, tty, stdin)| (tty.unwrap_or(false), stdin.unwrap_or(false)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(containers: &[&str], init: &[&str]) -> Pod {
        let list = |names: &[&str]| names.iter().map(|name| serde_json::json!({"name": name})).collect::<Vec<_>>();
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "web"},
            "spec": {
                "containers": list(containers),
                "initContainers": list(init),
                "ephemeralContainers": [{"name": "debug", "tty": true}],
            },
            "status": {"phase": "Running"},
        }))
        .unwrap()
    }

    #[test]
    fn the_only_container_or_the_named_one() {
        for (containers, init, asked, wanted) in [
            (&["a"][..], &["i"][..], "", Ok("a")),
            (&["a", "b"], &[], "b", Ok("b")),
            (&["a"], &["i"], "i", Ok("i")),
            (&["a"], &[], "debug", Ok("debug")),
            (&["a"], &[], "x", Err("container x is not valid for pod web")),
            (&["a", "b"], &[], "", Err("a container name must be specified for pod web, choose one of: [a b]")),
            (
                &["a", "b"],
                &["i", "j"],
                "",
                Err(
                    "a container name must be specified for pod web, choose one of: [a b] or one of the init containers: [i j]",
                ),
            ),
            (&[], &[], "", Err("a container name must be specified for pod web")),
        ] {
            let got = container(&pod(containers, init), asked).map_err(|error| (error.code, error.message));
            assert_eq!(got, wanted.map(str::to_owned).map_err(|text| (400, text.to_owned())));
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let mut pod = pod(&["a"], &[]);
        assert_eq!(host(&pod).unwrap_err().message, "pod web does not have a host assigned");
        assert!(not_completed(&pod, "exec into").is_ok());
        pod.status.as_mut().unwrap().phase = Some("Succeeded".into());
        assert_eq!(
            not_completed(&pod, "exec into").unwrap_err().message,
            "cannot exec into a container in a completed pod; current phase is Succeeded"
        );
        assert_eq!(console(&pod, "debug"), (true, false));
    }
}
