//! Policies with their bindings, their expressions compiled. Pure.

use std::sync::Arc;

use balsa_api::kinds::admission::expressions::{Purpose, Scope, Variables, compile, environment, variables, with_variables};
use balsa_cel::Environment;
use serde_json::Value;

use super::params::ParamRef;
use crate::admission::hooks::conditions::Expression;
use crate::admission::hooks::matching::Criteria;
use crate::value;

/// What validating and mutating policies have in common.
#[derive(Debug, Clone)]
pub struct Policy {
    pub name: String,
    pub criteria: Criteria,
    pub conditions: Vec<Expression>,
    pub variables: Arc<Variables>,
    /// Errors do not count.
    pub ignore: bool,
    /// `apiVersion` and `kind` of its parameters.
    pub param_kind: Option<(String, String)>,
    pub bindings: Vec<Binding>,
}

/// Where a policy applies.
#[derive(Debug, Clone)]
pub struct Binding {
    pub name: String,
    pub criteria: Criteria,
    pub params: Option<ParamRef>,
    /// `Deny`, `Warn`, `Audit`: validating policies only.
    pub actions: Vec<String>,
}

/// A ValidatingAdmissionPolicy.
#[derive(Debug, Clone)]
pub struct ValidatingPolicy {
    pub policy: Policy,
    pub validations: Vec<Validation>,
    /// Keys and values for the audit log.
    pub annotations: Vec<(String, Expression)>,
}

/// One expression that must be true.
#[derive(Debug, Clone)]
pub struct Validation {
    pub expression: Expression,
    pub message: String,
    pub message_expression: Option<Expression>,
    pub reason: String,
}

/// A MutatingAdmissionPolicy.
#[derive(Debug, Clone)]
pub struct MutatingPolicy {
    pub policy: Policy,
    pub mutations: Vec<Mutation>,
    /// It may be asked again after others changed the object.
    pub again: bool,
}

/// One change.
#[derive(Debug, Clone)]
pub struct Mutation {
    pub expression: Expression,
    /// The expression gives a JSON patch, not an apply configuration.
    pub is_json_patch: bool,
}

fn expression(text: &str, environment: &Environment, purpose: Purpose) -> Expression {
    let text = text.trim().to_owned();
    Expression { program: compile(&text, environment, purpose), text }
}

fn list<'a>(of: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    of.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

fn set<'a>(of: &'a Value, pointer: &str) -> Option<&'a Value> {
    of.pointer(pointer).filter(|value| !value.is_null())
}

impl Policy {
    fn parse(policy: &Value, all_bindings: &[Value], patches: bool) -> (Self, Scope) {
        let name = value::name(policy);
        let param_kind = set(policy, "/spec/paramKind").map(|kind| {
            (value::text(kind, "/apiVersion").to_owned(), value::text(kind, "/kind").to_owned())
        });
        let scope = Scope { params: param_kind.is_some(), authorizer: true, patches };
        let for_conditions = environment(Scope { patches: false, ..scope });
        let conditions = list(policy, "/spec/matchConditions");
        let bindings = all_bindings.iter().filter(|binding| value::text(binding, "/spec/policyName") == name);
        let parsed = Self {
            name: name.to_owned(),
            criteria: Criteria::of_resources(set(policy, "/spec/matchConstraints")),
            conditions: conditions
                .map(|one| expression(value::text(one, "/expression"), &for_conditions, Purpose::Condition))
                .collect(),
            variables: Arc::new(variables(policy.get("spec").unwrap_or(&Value::Null), scope)),
            ignore: value::text(policy, "/spec/failurePolicy") == "Ignore",
            param_kind,
            bindings: bindings
                .map(|binding| Binding {
                    name: value::name(binding).to_owned(),
                    criteria: Criteria::of_resources(set(binding, "/spec/matchResources")),
                    params: set(binding, "/spec/paramRef").map(ParamRef::parse),
                    actions: value::strings(binding, "/spec/validationActions"),
                })
                .collect(),
        };
        (parsed, scope)
    }
}

impl ValidatingPolicy {
    /// All policies that are bound.
    pub fn all_of(policies: &[Value], bindings: &[Value]) -> Vec<Self> {
        policies.iter().map(|policy| Self::parse(policy, bindings)).filter(|own| !own.policy.bindings.is_empty()).collect()
    }

    fn parse(object: &Value, bindings: &[Value]) -> Self {
        let (policy, scope) = Policy::parse(object, bindings, false);
        let conditions = with_variables(scope, &policy.variables);
        let messages = with_variables(Scope { authorizer: false, ..scope }, &policy.variables);
        let validation = |one: &Value| {
            let message = value::text(one, "/messageExpression");
            let reason = value::text(one, "/reason");
            Validation {
                expression: expression(value::text(one, "/expression"), &conditions, Purpose::Condition),
                message: value::text(one, "/message").trim().to_owned(),
                message_expression: (!message.trim().is_empty())
                    .then(|| expression(message, &messages, Purpose::Message)),
                reason: if reason.is_empty() { "Invalid" } else { reason }.to_owned(),
            }
        };
        let annotation = |one: &Value| {
            let value = expression(value::text(one, "/valueExpression"), &conditions, Purpose::Annotation);
            (value::text(one, "/key").to_owned(), value)
        };
        Self {
            validations: list(object, "/spec/validations").map(validation).collect(),
            annotations: list(object, "/spec/auditAnnotations").map(annotation).collect(),
            policy,
        }
    }
}

impl MutatingPolicy {
    /// All policies that are bound.
    pub fn all_of(policies: &[Value], bindings: &[Value]) -> Vec<Self> {
        policies.iter().map(|policy| Self::parse(policy, bindings)).filter(|own| !own.policy.bindings.is_empty()).collect()
    }

    fn parse(object: &Value, bindings: &[Value]) -> Self {
        let (policy, scope) = Policy::parse(object, bindings, true);
        let environment = with_variables(scope, &policy.variables);
        let mutation = |one: &Value| {
            let is_json_patch = value::text(one, "/patchType") == "JSONPatch";
            let (at, purpose) = if is_json_patch {
                ("/jsonPatch/expression", Purpose::JsonPatch)
            } else {
                ("/applyConfiguration/expression", Purpose::ApplyConfiguration)
            };
            Mutation { expression: expression(value::text(one, at), &environment, purpose), is_json_patch }
        };
        Self {
            mutations: list(object, "/spec/mutations").map(mutation).collect(),
            again: value::text(object, "/spec/reinvocationPolicy") == "IfNeeded",
            policy,
        }
    }
}
