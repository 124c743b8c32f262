//! What the known types of objects say about a policy's expressions: warnings in the policy's status, nothing more.
//!
//! After `TypeChecker` of `k8s.io/apiserver/pkg/admission/plugin/policy/validating`.

use std::sync::Arc;
use std::time::Duration;

use balsa_api::kind::{Kind, Part};
use balsa_api::kinds::admission::expressions::{Purpose, Scope, compile, environment};
use balsa_api::schema::{self, schema};
use balsa_api::status::ApiResult;
use balsa_cel::{Environment, Type, TypeProvider};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::pipeline::update::Write;
use crate::pipeline::{Api, Call, Target};
use crate::value;

/// More types than this are not checked for one policy.
const MOST_TYPES: usize = 10;
/// How soon a policy that another apiserver or a lost connection kept from being checked is looked at again.
const AGAIN: Duration = Duration::from_secs(30);
/// How long is waited between two rounds: a burst of changes is one round.
const PAUSE: Duration = Duration::from_millis(200);

/// Built-in types, by the names of the type table: `apps/v1.Deployment`.
struct Table;

impl TypeProvider for Table {
    fn field(&self, object: &str, field: &str) -> Option<Type> {
        schema().named(object)?.json.get(field).map(|field| type_of(&field.r#type))
    }
}

fn type_of(of: &schema::Type) -> Type {
    match of {
        schema::Type::String(_) => Type::String,
        schema::Type::Bool => Type::Bool,
        schema::Type::Int { .. } => Type::Int,
        schema::Type::Float => Type::Double,
        schema::Type::Bytes => Type::Bytes,
        schema::Type::Time | schema::Type::MicroTime => Type::Timestamp,
        schema::Type::Message(index) => Type::object(schema().get(*index).name),
        schema::Type::List { item, .. } => Type::list(type_of(item)),
        schema::Type::Map(value) => Type::map(type_of(value)),
        schema::Type::Quantity
        | schema::Type::IntOrString
        | schema::Type::Duration
        | schema::Type::Raw
        | schema::Type::MessageOr(..)
        | schema::Type::Fields => Type::Dyn,
    }
}

/// The kinds that a policy names one by one; rules with wildcards name none.
fn kinds_of(policy: &Value, all: &[&'static dyn Kind]) -> Vec<&'static dyn Kind> {
    let rules = policy.pointer("/spec/matchConstraints/resourceRules").and_then(Value::as_array);
    let mut found: Vec<&'static dyn Kind> = Vec::new();
    for rule in rules.into_iter().flatten() {
        let [groups, versions, resources] =
            ["/apiGroups", "/apiVersions", "/resources"].map(|at| value::strings(rule, at));
        for kind in all {
            let names = kind.names();
            let named = |list: &[String], name: &str| list.iter().any(|own| own == name);
            let is_new = !found.iter().any(|other| other.gvk() == kind.gvk());
            if named(&groups, names.group) && named(&versions, names.version) && named(&resources, names.plural) && is_new {
                found.push(*kind);
            }
        }
    }
    found.truncate(MOST_TYPES);
    found
}

/// The environment in which `object` and `oldObject` are of this kind; variables included. None: its type is not known.
fn typed(kind: &dyn Kind, policy: &Value) -> Option<Environment> {
    let names = kind.names();
    let message = schema().of_kind(names.group, names.version, names.kind)?;
    let params = policy.pointer("/spec/paramKind").is_some_and(|kind| !kind.is_null());
    let base = environment(Scope { params, authorizer: true, patches: false })
        .provider(Arc::new(Table))
        .variable("object", Type::object(message.name))
        .variable("oldObject", Type::object(message.name));
    let own = "kubernetes.variables";
    let mut all = base.variable("variables", Type::object(own)).object(own, []);
    for variable in policy.pointer("/spec/variables").and_then(Value::as_array).into_iter().flatten() {
        let program = compile(value::text(variable, "/expression"), &all, Purpose::Variable);
        let of = program.map_or(Type::Dyn, |program| program.result().clone());
        all = all.object(own, [(value::text(variable, "/name"), of)]);
    }
    Some(all)
}

/// The warnings about a policy's expressions, as its status has them. Pure.
pub fn warnings(policy: &Value, all: &[&'static dyn Kind]) -> Vec<Value> {
    let typed: Vec<_> =
        kinds_of(policy, all).into_iter().filter_map(|kind| Some((kind.gvk(), typed(kind, policy)?))).collect();
    let validations = policy.pointer("/spec/validations").and_then(Value::as_array);
    let mut found = Vec::new();
    for (at, validation) in validations.into_iter().flatten().enumerate() {
        for field in ["expression", "messageExpression"] {
            let text = value::text(validation, &format!("/{field}"));
            if text.is_empty() {
                continue;
            }
            let said: Vec<String> = typed
                .iter()
                .filter_map(|(kind, environment)| {
                    let error = balsa_cel::Program::compile(text, environment).err()?;
                    Some(format!("{}, Kind={}: {error}\n", kind.api_version(), kind.kind))
                })
                .collect();
            if !said.is_empty() {
                let field = format!("spec.validations[{at}].{field}");
                found.push(json!({"fieldRef": field, "warning": said.join("\n")}));
            }
        }
    }
    found
}

/// Checks every policy whose present generation has not been checked, until `stop`.
pub async fn run(api: Arc<Api>, stop: CancellationToken) {
    let Some(kind) = balsa_api::kinds::find("admissionregistration.k8s.io", "v1", "validatingadmissionpolicies") else {
        return;
    };
    let mut seen = (u64::MAX, u64::MAX);
    let mut idle = tokio::time::Instant::now();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
        let Ok(cache) = api.cache(kind) else { return };
        let version = cache.version();
        if version == seen && idle.elapsed() < AGAIN {
            continue;
        }
        (seen, idle) = (version, tokio::time::Instant::now());
        for object in cache.list("") {
            let policy = object.value();
            let generation = policy.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or_default();
            let observed = policy.pointer("/status/observedGeneration").and_then(Value::as_i64).unwrap_or_default();
            if observed < generation
                && let Err(error) = check(&api, kind, &policy, generation).await
            {
                tracing::debug!(%error, policy = value::name(&policy), "a policy's status could not be written");
            }
        }
    }
}

async fn check(api: &Api, kind: &'static dyn Kind, policy: &Value, generation: i64) -> ApiResult<()> {
    let warnings = warnings(policy, balsa_api::kinds::all());
    let target = Target { kind, namespace: "", name: value::name(policy) };
    let change = |old: &Value| {
        let mut new = old.clone();
        let status = value::member(&mut new, "status");
        status.insert("observedGeneration".to_owned(), json!(generation));
        let checking = if warnings.is_empty() { json!({}) } else { json!({"expressionWarnings": warnings}) };
        status.insert("typeChecking".to_owned(), checking);
        Ok(new)
    };
    let call = Call::internal("a policy's expressions were checked");
    api.modify(&call, Write { target, part: Part::Status, by_rules: true }, &change).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confusions_of_types_are_warned_of() {
        let policy = |expression: &str, message: &str| {
            json!({"spec": {"matchConstraints": {"resourceRules": [
                {"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"], "operations": ["*"]}]},
                "validations": [{"expression": expression, "messageExpression": message}]}})
        };
        let all = balsa_api::kinds::all();
        assert_eq!(warnings(&policy("object.spec.replicas > 1", "'replicas ' + string(object.spec.replicas)"), all), [] as [Value; 0]);
        let found = warnings(&policy("object.spec.replicas > '1'", "'got ' + object.spec.replicas"), all);
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found[0]["fieldRef"], "spec.validations[0].expression");
        let text = found[0]["warning"].as_str().unwrap();
        assert!(text.starts_with("apps/v1, Kind=Deployment: ERROR: "), "{text}");
        assert!(text.contains("found no matching overload for '_>_' applied to '(int, string)'"), "{text}");
        assert_eq!(found[1]["fieldRef"], "spec.validations[0].messageExpression");
        let found = warnings(&policy("object.spec.nothing == 1", ""), all);
        assert!(found[0]["warning"].as_str().unwrap().contains("undefined field 'nothing'"), "{found:?}");
    }
}
