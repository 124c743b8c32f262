//! The variables of one container.
//!
//! Pure: the objects that are referred to are fetched before. Later ones see earlier ones through `$(NAME)`.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVar, EnvVarSource, Pod, Secret};

use super::expand::expand;
use super::fields::{self, Surroundings};
use crate::pod::view;

/// Objects that containers refer to, by name; `None` for those that do not exist.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// ConfigMaps of the pod's namespace.
    pub config_maps: BTreeMap<String, Option<ConfigMap>>,
    /// Secrets of the pod's namespace.
    pub secrets: BTreeMap<String, Option<Secret>>,
}

/// Variables of a container, and what was wrong with some that were left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Variables {
    /// In order; names are unique.
    pub list: Vec<(String, String)>,
    /// Texts of `InvalidEnvironmentVariableNames` events.
    pub warnings: Vec<String>,
}

/// Names of the ConfigMaps and Secrets that the variables of a container refer to.
pub fn references(container: &Container) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut config_maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    for from in container.env_from.iter().flatten() {
        config_maps.extend(from.config_map_ref.iter().map(|reference| reference.name.clone()));
        secrets.extend(from.secret_ref.iter().map(|reference| reference.name.clone()));
    }
    for source in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
        config_maps.extend(source.config_map_key_ref.iter().map(|reference| reference.name.clone()));
        secrets.extend(source.secret_key_ref.iter().map(|reference| reference.name.clone()));
    }
    (config_maps, secrets)
}

/// All variables. An `Err` is the message of CreateContainerConfigError.
pub fn build(
    pod: &Pod,
    container: &Container,
    sources: &Sources,
    services: &BTreeMap<String, String>,
    around: &Surroundings,
) -> Result<Variables, String> {
    let mut out = Variables::default();
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    env_from(container, sources, &mut known, &mut out.warnings)?;
    let mut order: Vec<String> = known.keys().cloned().collect();
    for variable in container.env.iter().flatten() {
        let Some(value) = value(pod, container, variable, sources, services, &known, around)? else { continue };
        if known.insert(variable.name.clone(), value).is_none() {
            order.push(variable.name.clone());
        }
    }
    for (name, value) in services {
        if !known.contains_key(name) {
            out.list.push((name.clone(), value.clone()));
        }
    }
    out.list.extend(order.into_iter().map(|name| {
        let value = known.get(&name).cloned().unwrap_or_default();
        (name, value)
    }));
    Ok(out)
}

fn env_from(
    container: &Container,
    sources: &Sources,
    known: &mut BTreeMap<String, String>,
    warnings: &mut Vec<String>,
) -> Result<(), String> {
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let (kind, name, data) = if let Some(reference) = &from.config_map_ref {
            let found = object(&sources.config_maps, &reference.name, reference.optional, "configmap")?;
            ("ConfigMap", &reference.name, found.map(|map| map.data.clone().unwrap_or_default()))
        } else if let Some(reference) = &from.secret_ref {
            let found = object(&sources.secrets, &reference.name, reference.optional, "secret")?;
            let text = found.map(|secret| {
                let data = secret.data.iter().flatten();
                data.map(|(key, value)| (key.clone(), String::from_utf8_lossy(&value.0).into_owned())).collect()
            });
            ("Secret", &reference.name, text)
        } else {
            continue;
        };
        let mut invalid = Vec::new();
        for (key, value) in data.into_iter().flatten() {
            let variable = format!("{prefix}{key}");
            if is_variable_name(&variable) {
                known.insert(variable, value);
            } else {
                invalid.push(variable);
            }
        }
        if !invalid.is_empty() {
            warnings.push(format!(
                "Keys [{}] from the EnvFrom {kind} {name} were skipped since they are considered invalid environment variable names.",
                invalid.join(", ")
            ));
        }
    }
    Ok(())
}

fn object<'a, T>(
    all: &'a BTreeMap<String, Option<T>>,
    name: &str,
    optional: Option<bool>,
    kind: &str,
) -> Result<Option<&'a T>, String> {
    match all.get(name).and_then(Option::as_ref) {
        Some(found) => Ok(Some(found)),
        None if optional == Some(true) => Ok(None),
        None => Err(format!("{kind} \"{name}\" not found")),
    }
}

/// Printable ASCII without `=`, as Kubernetes has allowed since 1.30.
fn is_variable_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| (0x20..0x7f).contains(&byte) && byte != b'=')
}

#[expect(clippy::too_many_arguments, reason = "one place where all sources of a value meet")]
fn value(
    pod: &Pod,
    container: &Container,
    variable: &EnvVar,
    sources: &Sources,
    services: &BTreeMap<String, String>,
    known: &BTreeMap<String, String>,
    around: &Surroundings,
) -> Result<Option<String>, String> {
    match &variable.value_from {
        Some(source) => from_source(pod, container, source, sources, around),
        None => {
            let lookup = |name: &str| known.get(name).or_else(|| services.get(name)).cloned();
            Ok(Some(expand(variable.value.as_deref().unwrap_or_default(), lookup)))
        }
    }
}

fn from_source(
    pod: &Pod,
    container: &Container,
    source: &EnvVarSource,
    sources: &Sources,
    around: &Surroundings,
) -> Result<Option<String>, String> {
    let namespace = view::namespace(pod);
    if let Some(reference) = &source.field_ref {
        return fields::field(pod, around, &reference.field_path).map(Some);
    }
    if let Some(selector) = &source.resource_field_ref {
        return fields::resource(pod, Some(container), around, selector).map(Some);
    }
    if let Some(reference) = &source.config_map_key_ref {
        let (name, key) = (&reference.name, &reference.key);
        let Some(found) = object(&sources.config_maps, name, reference.optional, "configmap")? else { return Ok(None) };
        let value = found.data.as_ref().and_then(|data| data.get(key)).cloned();
        return match (value, reference.optional) {
            (None, Some(true)) => Ok(None),
            (None, _) => Err(format!("couldn't find key {key} in ConfigMap {namespace}/{name}")),
            (value, _) => Ok(value),
        };
    }
    if let Some(reference) = &source.secret_key_ref {
        let (name, key) = (&reference.name, &reference.key);
        let Some(found) = object(&sources.secrets, name, reference.optional, "secret")? else { return Ok(None) };
        let value = found.data.as_ref().and_then(|data| data.get(key));
        return match (value, reference.optional) {
            (None, Some(true)) => Ok(None),
            (None, _) => Err(format!("couldn't find key {key} in Secret {namespace}/{name}")),
            (Some(value), _) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
        };
    }
    Err("valueFrom names no source that this node knows".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(container: serde_json::Value) -> String {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": { "name": "p", "namespace": "n" }, "spec": { "containers": [container] } }))
        .unwrap();
        let map: ConfigMap =
            serde_json::from_value(serde_json::json!({ "data": { "k": "from map", "bad=key": "x" } })).unwrap();
        let secret: Secret = serde_json::from_value(serde_json::json!({ "data": { "s": "c2VjcmV0" } })).unwrap();
        let sources = Sources {
            config_maps: [("m".to_owned(), Some(map)), ("none".to_owned(), None)].into(),
            secrets: [("s".to_owned(), Some(secret))].into(),
        };
        let services = [("SVC_HOST".to_owned(), "10.96.0.1".to_owned()), ("k".to_owned(), "service".to_owned())].into();
        let container = pod.spec.as_ref().map(|spec| &spec.containers[0]).unwrap();
        match build(&pod, container, &sources, &services, &Surroundings::default()) {
            Ok(variables) => variables.list.iter().map(|(name, value)| format!("{name}={value};")).collect(),
            Err(message) => message,
        }
    }

    #[test]
    fn order_and_precedence() {
        let container = serde_json::json!({ "name": "c",
            "envFrom": [{ "configMapRef": { "name": "m" } }, { "prefix": "P_", "secretRef": { "name": "s" } }],
            "env": [{ "name": "A", "value": "$(k) $(SVC_HOST) $(LATER)" }, { "name": "LATER", "value": "$(A)!" },
                    { "name": "N", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } },
                    { "name": "O", "valueFrom": { "configMapKeyRef": { "name": "none", "key": "x", "optional": true } } }] });
        assert_eq!(
            text(container),
            "SVC_HOST=10.96.0.1;P_s=secret;k=from map;A=from map 10.96.0.1 $(LATER);LATER=from map 10.96.0.1 $(LATER)!;N=p;"
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        let of = |source: serde_json::Value| text(serde_json::json!({ "name": "c", "env": [{ "name": "A", "valueFrom": source }] }));
        assert_eq!(of(serde_json::json!({ "configMapKeyRef": { "name": "none", "key": "k" } })), "configmap \"none\" not found");
        assert_eq!(
            of(serde_json::json!({ "configMapKeyRef": { "name": "m", "key": "z" } })),
            "couldn't find key z in ConfigMap n/m"
        );
        assert_eq!(of(serde_json::json!({ "secretKeyRef": { "name": "s", "key": "z" } })), "couldn't find key z in Secret n/s");
        assert_eq!(of(serde_json::json!({ "secretKeyRef": { "name": "x", "key": "z" } })), "secret \"x\" not found");
    }
}
