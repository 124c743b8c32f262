//! Whether a server in the cluster is available, in the words of Kubernetes' `remote_available_controller`. Pure.

use balsa_api::cursor::{find, list, text};
use serde_json::{Value, json};

use super::Remote;

/// What a look at the Service and what is behind it found.
#[derive(Debug, Clone)]
pub struct Seen<'a> {
    /// The Service, if there is one.
    pub service: Option<&'a Value>,
    /// Its EndpointSlices.
    pub slices: &'a [Value],
}

fn condition(status: &str, reason: &str, message: String) -> Value {
    json!({"type": "Available", "status": status, "reason": reason, "message": message})
}

/// Why there is no use in asking the server; `None`: ask it.
pub fn refusal(remote: &Remote, seen: &Seen<'_>) -> Option<Value> {
    let service = format!("service/{} in {:?}", remote.service, remote.namespace);
    let no = |reason: &str, message: String| Some(condition("False", reason, message));
    let Some(object) = seen.service else { return no("ServiceNotFound", format!("{service} is not present")) };
    if !matches!(text(object, "spec.type"), "ClusterIP" | "") {
        return None;
    }
    let ports = list(object, "spec.ports").iter();
    let port = ports.map(|port| (find(port, "port").as_u64(), text(port, "name"))).find(|(number, _)| *number == Some(remote.port.into()));
    let Some((_, name)) = port else {
        return no("ServicePortError", format!("{service} is not listening on port {}", remote.port));
    };
    if seen.slices.is_empty() {
        return no("EndpointsNotFound", format!("cannot find endpointslices for {service}"));
    }
    let ready = |endpoint: &Value| find(endpoint, "conditions.ready").as_bool().unwrap_or(true);
    let has = |slice: &Value| {
        list(slice, "endpoints").iter().any(ready)
            && list(slice, "ports").iter().any(|port| text(port, "name") == name && !find(port, "port").is_null())
    };
    if seen.slices.iter().any(has) {
        return None;
    }
    no("MissingEndpoints", format!("endpointslices for {service} have no addresses with port name {name:?}"))
}

/// What the server's answer (its HTTP status), or the lack of one, means. `url`: what it was asked.
pub fn answered(url: &str, answer: &Result<u16, String>) -> Value {
    let failed = |why: String| condition("False", "FailedDiscoveryCheck", format!("failing or missing response from {url}: {why}"));
    match answer {
        Ok(200..=299) => condition("True", "Passed", "all checks passed".to_owned()),
        Ok(code) => failed(format!("bad status from {url}: {code}")),
        Err(why) => failed(why.clone()),
    }
}

fn of(object: &Value) -> Option<&Value> {
    list(object, "status.conditions").iter().find(|condition| text(condition, "type") == "Available")
}

/// Whether the APIService says that it is available.
pub fn is_available(object: &Value) -> bool {
    of(object).is_some_and(|condition| text(condition, "status") == "True")
}

/// Whether the APIService says something else than this condition.
pub fn differs(object: &Value, condition: &Value) -> bool {
    of(object).is_none_or(|present| ["status", "reason", "message"].iter().any(|field| present.get(field) != condition.get(field)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote() -> Remote {
        let object = json!({"metadata": {"name": "v1.x"}, "spec": {"group": "x", "version": "v1",
            "service": {"namespace": "n", "name": "s", "port": 7443}}});
        Remote::of(&object).unwrap()
    }

    #[test]
    fn reasons() {
        let service = json!({"spec": {"type": "ClusterIP", "ports": [{"port": 7443}]}});
        let other = json!({"spec": {"type": "ClusterIP", "ports": [{"port": 1}]}});
        let slice = |ready: bool| json!({"ports": [{"name": "", "port": 443}], "endpoints": [{"conditions": {"ready": ready}}]});
        let why = |service: Option<&Value>, slices: &[Value]| {
            let found = refusal(&remote(), &Seen { service, slices });
            found.map(|found| format!("{}: {}", text(&found, "reason"), text(&found, "message"))).unwrap_or_default()
        };
        assert_eq!(why(None, &[]), "ServiceNotFound: service/s in \"n\" is not present");
        assert_eq!(why(Some(&other), &[]), "ServicePortError: service/s in \"n\" is not listening on port 7443");
        assert_eq!(why(Some(&service), &[]), "EndpointsNotFound: cannot find endpointslices for service/s in \"n\"");
        assert_eq!(
            why(Some(&service), &[slice(false)]),
            "MissingEndpoints: endpointslices for service/s in \"n\" have no addresses with port name \"\""
        );
        assert_eq!(why(Some(&service), &[slice(true)]), "");
        assert_eq!(answered("u", &Ok(200))["message"], "all checks passed");
        assert_eq!(answered("u", &Ok(403))["message"], "failing or missing response from u: bad status from u: 403");
    }
}
