//! The variables of an expression: the request's objects, its namespace, parameters, the authorizer, and the variables
//! that a policy defines, computed when they are first asked for.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

use balsa_api::kinds::admission::expressions::REQUEST_RESOURCE;
use balsa_cel::{AccessRequest, Bindings, Budget, Decision, Dynamic, EvalError, Key, Program, Value as Cel};
use parking_lot::Mutex;
use serde_json::Value;

use super::matching::Hit;
use super::request::Asked;
use crate::authn::{Caller, implied_groups};
use crate::authz::rbac::{Attributes, Policy};
use crate::pipeline::Api;

/// Answers an expression's questions by the cluster's roles.
struct Asker {
    policy: Arc<Policy>,
    caller: Caller,
}

impl balsa_cel::Authorizer for Asker {
    fn authorize(&self, request: &AccessRequest) -> Decision {
        let caller = match &request.service_account {
            None => self.caller.clone(),
            Some((namespace, name)) => {
                let user = format!("system:serviceaccount:{namespace}:{name}");
                Caller { groups: implied_groups(&user), user, ..Caller::default() }
            }
        };
        let attributes = Attributes {
            verb: request.verb.clone(),
            group: request.group.clone(),
            version: "*".to_owned(),
            resource: request.resource.clone(),
            subresource: request.subresource.clone(),
            namespace: request.namespace.clone(),
            name: request.name.clone(),
            path: request.path.clone(),
            ..Attributes::default()
        };
        let by = self.policy.allows(&caller, &attributes);
        Decision { allowed: by.is_some(), reason: by.unwrap_or_default(), error: String::new() }
    }
}

/// The variables that every expression has.
pub fn bindings(api: &Api, asked: &Asked<'_>, hit: &Hit, namespace: Option<&Value>) -> Bindings {
    let asker: Arc<dyn balsa_cel::Authorizer> =
        Arc::new(Asker { policy: api.authorizer.policy(), caller: asked.call.caller.clone() });
    let own = AccessRequest {
        group: asked.resource.group.clone(),
        resource: asked.resource.resource.clone(),
        subresource: asked.subresource.clone(),
        namespace: asked.namespace.clone(),
        name: asked.name.clone(),
        ..AccessRequest::default()
    };
    let object = |of: Option<&Value>| of.map_or(Cel::Null, Cel::from);
    let request = asked.told(&hit.resource, &hit.kind);
    BTreeMap::from([
        ("object".to_owned(), object(asked.object.as_ref())),
        ("oldObject".to_owned(), object(asked.old.as_ref())),
        ("request".to_owned(), Cel::from(&request)),
        ("namespaceObject".to_owned(), namespace.map_or(Cel::Null, namespace_object)),
        ("authorizer".to_owned(), Cel::authorizer(asker.clone())),
        (REQUEST_RESOURCE.to_owned(), Cel::resource_check(asker, own)),
        ("params".to_owned(), Cel::Null),
    ])
}

/// A namespace with times that are times.
fn namespace_object(namespace: &Value) -> Cel {
    let mut namespace = namespace.clone();
    if let Some(metadata) = namespace.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
        metadata.remove("ownerReferences");
    }
    timed(&namespace)
}

fn timed(of: &Value) -> Cel {
    match of {
        Value::Object(map) => {
            let entry = |(key, value): (&String, &Value)| {
                let is_time = matches!(key.as_str(), "creationTimestamp" | "deletionTimestamp" | "lastTransitionTime");
                let time = value.as_str().filter(|_| is_time).and_then(balsa_cel::parse_timestamp);
                (Key::String(key.as_str().into()), time.map_or_else(|| timed(value), Cel::Timestamp))
            };
            Cel::Map(Arc::new(map.iter().map(entry).collect()))
        }
        Value::Array(items) => Cel::list(items.iter().map(timed).collect()),
        other => Cel::from(other),
    }
}

/// A policy's own variables, each computed at most once.
struct Composed {
    programs: Arc<Vec<(String, Result<Program, String>)>>,
    bindings: Bindings,
    known: Mutex<HashMap<String, Result<Cel, EvalError>>>,
    this: Weak<Composed>,
}

/// Adds the policy's variables to the bindings.
pub fn compose(bindings: Bindings, programs: &Arc<Vec<(String, Result<Program, String>)>>) -> Bindings {
    if programs.is_empty() {
        return bindings;
    }
    let composed = Arc::new_cyclic(|this| Composed {
        programs: programs.clone(),
        bindings: bindings.clone(),
        known: Mutex::default(),
        this: this.clone(),
    });
    let mut all = bindings;
    all.insert("variables".to_owned(), Cel::Dynamic(composed));
    all
}

impl Dynamic for Composed {
    fn field(&self, name: &str, budget: &mut Budget) -> Result<Option<Cel>, EvalError> {
        let known = self.known.lock().get(name).cloned();
        if let Some(known) = known {
            return known.map(Some);
        }
        let Some((_, program)) = self.programs.iter().find(|(own, _)| own == name) else { return Ok(None) };
        let value = match program {
            Err(error) => Err(EvalError::new(format!("composited variable {name:?} fails to compile: {error}"))),
            Ok(program) => {
                let mut bindings = self.bindings.clone();
                if let Some(this) = self.this.upgrade() {
                    bindings.insert("variables".to_owned(), Cel::Dynamic(this));
                }
                program.evaluate(&bindings, budget).map_err(|error| match error {
                    EvalError::Cost => EvalError::Cost,
                    other => EvalError::new(format!("composited variable {name:?} fails to evaluate: {other}")),
                })
            }
        };
        if !matches!(value, Err(EvalError::Cost)) {
            self.known.lock().insert(name.to_owned(), value.clone());
        }
        value.map(Some)
    }
}
