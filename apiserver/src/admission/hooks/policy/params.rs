//! The parameters that a binding chooses for its policy.

use std::collections::BTreeMap;
use std::sync::Arc;

use balsa_api::selector::matches_label_selector;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::Value;

use super::compiled::{Binding, Policy};
use crate::pipeline::Api;
use crate::value;
use crate::watch_cache::object::Object;

/// A binding's `paramRef`.
#[derive(Debug, Clone)]
pub struct ParamRef {
    name: String,
    namespace: String,
    selector: Option<LabelSelector>,
    deny_if_none: bool,
}

impl ParamRef {
    /// From the object.
    pub fn parse(reference: &Value) -> Self {
        Self {
            name: value::text(reference, "/name").to_owned(),
            namespace: value::text(reference, "/namespace").to_owned(),
            selector: reference.get("selector").and_then(|own| serde_json::from_value(own.clone()).ok()),
            deny_if_none: value::text(reference, "/parameterNotFoundAction") == "Deny",
        }
    }
}

/// The parameter objects to use one after the other; a single none where there are no parameters. `namespace`: the
/// request's. The error says what is wrong with the configuration.
pub async fn collect(
    api: &Api,
    policy: &Policy,
    binding: &Binding,
    namespace: &str,
) -> Result<Vec<Option<Value>>, String> {
    let (Some((api_version, kind_name)), Some(reference)) = (&policy.param_kind, &binding.params) else {
        return Ok(vec![None]);
    };
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    let unknown = || format!("paramKind kind `{api_version}, Kind={kind_name}` not known");
    let kind = api.kinds.find_kind(group, version, kind_name).ok_or_else(unknown)?;
    let cache = api.cache(&*kind).map_err(|_| unknown())?;
    let namespace = if !kind.namespaced() {
        if !reference.namespace.is_empty() {
            return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned());
        }
        ""
    } else if !reference.namespace.is_empty() {
        &reference.namespace
    } else if namespace.is_empty() {
        return Err("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources".to_owned());
    } else {
        namespace
    };
    let chosen: Vec<Arc<Object>> = if reference.name.is_empty() {
        let matching = |labels: &BTreeMap<String, String>| matches_label_selector(reference.selector.as_ref(), Some(labels));
        cache.list(namespace).into_iter().filter(|object| matching(&object.labels)).collect()
    } else {
        cache.get(namespace, &reference.name).into_iter().collect()
    };
    let mut found = Vec::new();
    for object in chosen {
        let shown = api.show_one(&*kind, object).await.map_err(|error| error.message)?;
        found.push(Some(shown.value));
    }
    if found.is_empty() && reference.deny_if_none {
        return Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned());
    }
    Ok(found)
}
