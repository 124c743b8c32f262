//! What the expressions of webhooks and policies may name, which type they must give, and what is said of a bad one.
//! The variables are those of `k8s.io/apiserver/pkg/admission/plugin/cel`.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use balsa_cel::{Environment, Program, Type, TypeProvider};
use serde_json::Value;

use crate::cursor::{list, text};

/// Variables and types beyond those that are always there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Scope {
    /// `params`: the policy has a parameter kind.
    pub params: bool,
    /// `authorizer` and `authorizer.requestResource`.
    pub authorizer: bool,
    /// `Object{...}` and `JSONPatch{...}`.
    pub patches: bool,
}

/// What an expression is for, which decides what it must give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A match condition or a validation: bool.
    Condition,
    /// A message: string.
    Message,
    /// An audit annotation's value: string or null.
    Annotation,
    /// A variable: anything.
    Variable,
    /// `Object`
    ApplyConfiguration,
    /// A list of `JSONPatch`.
    JsonPatch,
}

/// The variable of the request's own resource; its name has a dot, as in the original.
pub const REQUEST_RESOURCE: &str = "authorizer.requestResource";
/// The type of `variables`.
const VARIABLES: &str = "kubernetes.variables";

/// Types that mutations make: their fields are anything.
struct Patches;

impl TypeProvider for Patches {
    fn field(&self, object: &str, field: &str) -> Option<Type> {
        match (object, field) {
            ("JSONPatch", "op" | "path" | "from") => Some(Type::String),
            ("JSONPatch", "value") => Some(Type::Dyn),
            ("JSONPatch", _) => None,
            _ => self.constructible(object).then_some(Type::Dyn),
        }
    }

    fn constructible(&self, object: &str) -> bool {
        matches!(object, "Object" | "JSONPatch") || object.starts_with("Object.")
    }
}

fn base() -> Environment {
    let text = || Type::String;
    let map = || Type::map(Type::String);
    let request = "kubernetes.AdmissionRequest";
    Environment::new()
        .variable("object", Type::Dyn)
        .variable("oldObject", Type::Dyn)
        .variable("request", Type::object(request))
        .variable("namespaceObject", Type::object("kubernetes.Namespace"))
        .object("kubernetes.GroupVersionKind", [("group", text()), ("version", text()), ("kind", text())])
        .object("kubernetes.GroupVersionResource", [("group", text()), ("version", text()), ("resource", text())])
        .object(
            "kubernetes.UserInfo",
            [
                ("username", text()),
                ("uid", text()),
                ("groups", Type::list(text())),
                ("extra", Type::map(Type::list(text()))),
            ],
        )
        .object(
            request,
            [
                ("kind", Type::object("kubernetes.GroupVersionKind")),
                ("resource", Type::object("kubernetes.GroupVersionResource")),
                ("subResource", text()),
                ("requestKind", Type::object("kubernetes.GroupVersionKind")),
                ("requestResource", Type::object("kubernetes.GroupVersionResource")),
                ("requestSubResource", text()),
                ("name", text()),
                ("namespace", text()),
                ("operation", text()),
                ("userInfo", Type::object("kubernetes.UserInfo")),
                ("dryRun", Type::Bool),
                ("options", Type::Dyn),
            ],
        )
        .object(
            "kubernetes.Namespace",
            [
                ("metadata", Type::object("kubernetes.NamespaceMetadata")),
                ("spec", Type::object("kubernetes.NamespaceSpec")),
                ("status", Type::object("kubernetes.NamespaceStatus")),
            ],
        )
        .object("kubernetes.NamespaceSpec", [("finalizers", Type::list(text()))])
        .object(
            "kubernetes.NamespaceStatus",
            [("conditions", Type::list(Type::object("kubernetes.NamespaceCondition"))), ("phase", text())],
        )
        .object(
            "kubernetes.NamespaceCondition",
            [
                ("status", text()),
                ("type", text()),
                ("lastTransitionTime", Type::Timestamp),
                ("message", text()),
                ("reason", text()),
            ],
        )
        .object(
            "kubernetes.NamespaceMetadata",
            [
                ("name", text()),
                ("generateName", text()),
                ("namespace", text()),
                ("labels", map()),
                ("annotations", map()),
                ("UID", text()),
                ("creationTimestamp", Type::Timestamp),
                ("deletionGracePeriodSeconds", Type::Int),
                ("deletionTimestamp", Type::Timestamp),
                ("generation", Type::Int),
                ("resourceVersion", text()),
                ("finalizers", Type::list(text())),
            ],
        )
}

/// The environment of a scope; made once for each.
pub fn environment(scope: Scope) -> Environment {
    static MADE: OnceLock<BTreeMap<Scope, Environment>> = OnceLock::new();
    let all = MADE.get_or_init(|| {
        let flags = [false, true];
        let mut made = BTreeMap::new();
        for (params, authorizer, patches) in
            flags.iter().flat_map(|p| flags.iter().flat_map(move |a| flags.map(|t| (*p, *a, t))))
        {
            let scope = Scope { params, authorizer, patches };
            made.insert(scope, make(scope));
        }
        made
    });
    all.get(&scope).cloned().unwrap_or_else(|| make(scope))
}

fn make(scope: Scope) -> Environment {
    let mut made = base();
    if scope.params {
        made = made.variable("params", Type::Dyn);
    }
    if scope.authorizer {
        made = made.variable("authorizer", Type::authorizer()).variable(REQUEST_RESOURCE, Type::resource_check());
    }
    if scope.patches {
        made = made.provider(Arc::new(Patches)).json_patch();
    }
    made
}

/// A policy's variables with their programs, or what is wrong with them, in order. Each may refer to those before it.
pub type Variables = Vec<(String, Result<Program, String>)>;

/// Compiles the variables of a policy's spec.
pub fn variables(spec: &Value, scope: Scope) -> Variables {
    let mut found: Variables = Vec::new();
    let mut so_far = with_variables(scope, &found);
    for variable in list(spec, "variables") {
        let (name, expression) = (text(variable, "name"), text(variable, "expression"));
        let program = compile(expression, &so_far, Purpose::Variable);
        so_far = so_far.object(VARIABLES, [(name, type_of(&program))]);
        found.push((name.to_owned(), program));
    }
    found
}

/// The environment of a scope in which a policy's variables are known.
pub fn with_variables(scope: Scope, known: &Variables) -> Environment {
    let fields = known.iter().map(|(name, program)| (name.as_str(), type_of(program)));
    environment(scope).variable("variables", Type::object(VARIABLES)).object(VARIABLES, fields)
}

fn type_of(program: &Result<Program, String>) -> Type {
    program.as_ref().map_or(Type::Dyn, |program| program.result().clone())
}

/// Compiles an expression; the error is what a field error says after the value.
///
/// # Errors
/// `compilation failed: …` and `must evaluate to bool but got …`.
pub fn compile(expression: &str, environment: &Environment, purpose: Purpose) -> Result<Program, String> {
    let program = Program::compile(expression, environment).map_err(|error| format!("compilation failed: {error}"))?;
    let wanted: &[Type] = &match purpose {
        Purpose::Condition => vec![Type::Bool],
        Purpose::Message => vec![Type::String],
        Purpose::Annotation => vec![Type::String, Type::Null],
        Purpose::Variable => return Ok(program),
        Purpose::ApplyConfiguration => vec![Type::object("Object")],
        Purpose::JsonPatch => vec![Type::list(Type::object("JSONPatch"))],
    };
    let found = program.result();
    // An empty list of patches has elements of no type yet.
    let empty = purpose == Purpose::JsonPatch && *found == Type::list(Type::Dyn);
    if wanted.contains(found) || empty {
        return Ok(program);
    }
    let names: Vec<String> = wanted.iter().map(type_name).collect();
    Err(match names.as_slice() {
        [one] => format!("must evaluate to {one} but got {}", type_name(found)),
        several => format!("must evaluate to one of [{}] but got {}", several.join(" "), type_name(found)),
    })
}

fn type_name(of: &Type) -> String {
    if *of == Type::Null { "null_type".to_owned() } else { of.to_string() }
}
