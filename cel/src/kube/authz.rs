//! `authorizer`: an expression asks whether the requester, or a service account, may do something else.

use std::sync::Arc;

use crate::error::EvalError;
use crate::functions::{Answer, Args, Line};
use crate::value::Value;

/// What an expression asks the authorizer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessRequest {
    pub verb: String,
    /// Empty where this is about a path.
    pub resource: String,
    pub group: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    /// A path that is no resource: `/healthz`.
    pub path: String,
    pub field_selector: String,
    pub label_selector: String,
    /// Namespace and name of the service account to ask about instead of the requester.
    pub service_account: Option<(String, String)>,
}

/// The answer to an [`AccessRequest`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    pub allowed: bool,
    pub reason: String,
    /// Why there is no proper answer; empty where there is one.
    pub error: String,
}

/// Who answers; it knows the requester.
pub trait Authorizer: Send + Sync {
    /// Whether the requester, or the service account of the request, may do this.
    fn authorize(&self, request: &AccessRequest) -> Decision;
}

/// A check on its way, or its outcome.
pub struct Authz {
    stage: Stage,
    request: AccessRequest,
    authorizer: Arc<dyn Authorizer>,
}

#[derive(Clone)]
enum Stage {
    Authorizer,
    Path,
    Group,
    Resource,
    Decided(Decision),
}

impl Value {
    /// The value of the variable `authorizer`.
    pub fn authorizer(authorizer: Arc<dyn Authorizer>) -> Self {
        Self::Authz(Arc::new(Authz { stage: Stage::Authorizer, request: AccessRequest::default(), authorizer }))
    }

    /// A check that is already narrowed to a resource: `authorizer.requestResource`.
    pub fn resource_check(authorizer: Arc<dyn Authorizer>, request: AccessRequest) -> Self {
        Self::Authz(Arc::new(Authz { stage: Stage::Resource, request, authorizer }))
    }
}

impl Authz {
    pub(crate) fn type_name(&self) -> &'static str {
        match self.stage {
            Stage::Authorizer => "kubernetes.authorization.Authorizer",
            Stage::Path => "kubernetes.authorization.PathCheck",
            Stage::Group => "kubernetes.authorization.GroupCheck",
            Stage::Resource => "kubernetes.authorization.ResourceCheck",
            Stage::Decided(_) => "kubernetes.authorization.Decision",
        }
    }

    fn next(&self, stage: Stage, change: impl FnOnce(&mut AccessRequest)) -> Value {
        let mut request = self.request.clone();
        change(&mut request);
        Value::Authz(Arc::new(Self { stage, request, authorizer: self.authorizer.clone() }))
    }
}

pub(crate) const LINES: &[Line] = &[
    ("path", ".authorizer,string->pathcheck", path),
    ("group", ".authorizer,string->groupcheck", |args| with(args, Stage::Group, |r, text| r.group = text)),
    ("serviceAccount", ".authorizer,string,string->authorizer", |args| {
        let (namespace, name) = (args.text(1)?.to_string(), args.text(2)?.to_string());
        Ok(receiver(args)?.next(Stage::Authorizer, |r| r.service_account = Some((namespace, name))))
    }),
    ("resource", ".groupcheck,string->resourcecheck", |args| {
        with(args, Stage::Resource, |r, text| r.resource = text)
    }),
    ("subresource", ".resourcecheck,string->resourcecheck", |args| {
        with(args, Stage::Resource, |r, text| r.subresource = text)
    }),
    ("namespace", ".resourcecheck,string->resourcecheck", |args| {
        with(args, Stage::Resource, |r, text| r.namespace = text)
    }),
    ("name", ".resourcecheck,string->resourcecheck", |args| with(args, Stage::Resource, |r, text| r.name = text)),
    ("fieldSelector", ".resourcecheck,string->resourcecheck", |args| {
        with(args, Stage::Resource, |r, text| r.field_selector = text)
    }),
    ("labelSelector", ".resourcecheck,string->resourcecheck", |args| {
        with(args, Stage::Resource, |r, text| r.label_selector = text)
    }),
    ("check", ".pathcheck,string->decision", check),
    ("check", ".resourcecheck,string->decision", check),
    ("allowed", ".decision->bool", |args| Ok(Value::Bool(decision(args)?.allowed))),
    ("errored", ".decision->bool", |args| Ok(Value::Bool(!decision(args)?.error.is_empty()))),
    ("error", ".decision->string", |args| Ok(Value::from(decision(args)?.error))),
    ("reason", ".decision->string", |args| Ok(Value::from(decision(args)?.reason))),
];

/// What one question to the authorizer costs (Kubernetes' `AuthzCheck` cost).
const CHECK: u64 = 350_000;

fn receiver(args: &Args<'_>) -> Result<Arc<Authz>, EvalError> {
    match args.value(0)? {
        Value::Authz(authz) => Ok(authz.clone()),
        _ => Err(EvalError::no_overload()),
    }
}

fn with(args: &mut Args<'_>, stage: Stage, change: fn(&mut AccessRequest, String)) -> Answer {
    let text = args.text(1)?.to_string();
    Ok(receiver(args)?.next(stage, |request| change(request, text)))
}

fn path(args: &mut Args<'_>) -> Answer {
    if args.text(1)?.is_empty() {
        return Err(EvalError::new("path must not be empty"));
    }
    with(args, Stage::Path, |request, text| request.path = text)
}

fn check(args: &mut Args<'_>) -> Answer {
    args.budget.charge(CHECK)?;
    let verb = args.text(1)?.to_string();
    let authz = receiver(args)?;
    let request = AccessRequest { verb, ..authz.request.clone() };
    let decision = authz.authorizer.authorize(&request);
    Ok(authz.next(Stage::Decided(decision), |_| {}))
}

fn decision(args: &Args<'_>) -> Result<Decision, EvalError> {
    match &receiver(args)?.stage {
        Stage::Decided(decision) => Ok(decision.clone()),
        _ => Err(EvalError::no_overload()),
    }
}
