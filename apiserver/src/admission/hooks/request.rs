//! What webhooks and policies are told of a request, and the same as the variables of their expressions. Pure.

use balsa_api::kind::Kind;
use balsa_api::meta::{GroupVersionKind, GroupVersionResource};
use serde_json::{Value, json};

use crate::admission::Review;
use crate::pipeline::graceful::{DeleteOptions, Propagation};
use crate::pipeline::subresources::scale;
use crate::pipeline::{Call, FieldValidation};
use crate::value;

/// What is done, as rules name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// A new object, or a post to a subresource.
    Create,
    /// A change.
    Update,
    /// A deletion.
    Delete,
    /// A connection to what runs: exec, attach, port-forward, proxy.
    Connect,
}

impl Verb {
    /// `CREATE`
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// A request under review.
#[derive(Debug, Clone)]
pub struct Asked<'a> {
    /// Who and how.
    pub call: &'a Call,
    /// The type of the object that is sent.
    pub kind: GroupVersionKind,
    /// What the URL names.
    pub resource: GroupVersionResource,
    /// Empty: the object itself.
    pub subresource: String,
    /// Empty where the name is yet to be made.
    pub name: String,
    /// Of a namespace: its own name.
    pub namespace: String,
    /// What is done.
    pub verb: Verb,
    /// The object; none for deletions.
    pub object: Option<Value>,
    /// As it was; none for creations.
    pub old: Option<Value>,
    /// Whether nothing will be written.
    pub dry_run: bool,
    /// `CreateOptions` and the like.
    pub options: Value,
}

/// Kinds about admission itself: no webhook or policy is asked about them, or nobody could repair a bad one.
pub fn is_exempt(kind: &dyn Kind) -> bool {
    let names = kind.names();
    names.group == "admissionregistration.k8s.io"
        && matches!(
            names.kind,
            "ValidatingWebhookConfiguration"
                | "MutatingWebhookConfiguration"
                | "ValidatingAdmissionPolicy"
                | "ValidatingAdmissionPolicyBinding"
                | "MutatingAdmissionPolicy"
                | "MutatingAdmissionPolicyBinding"
        )
}

/// The type that a subresource exchanges.
fn kind_of(kind: &dyn Kind, subresource: &str) -> GroupVersionKind {
    let found = kind.subresources().iter().find(|own| own.name == subresource && !own.kind.is_empty());
    found.map_or_else(|| kind.gvk(), |own| GroupVersionKind::new(own.group, own.version, own.kind))
}

fn options(kind: &str, call: &Call, dry_run: bool) -> Value {
    let mut options = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
    if dry_run {
        options["dryRun"] = json!(["All"]);
    }
    if !call.manager.is_empty() {
        options["fieldManager"] = json!(call.manager);
    }
    options["fieldValidation"] = json!(match call.field_validation {
        FieldValidation::Ignore => "Ignore",
        FieldValidation::Warn => "Warn",
        FieldValidation::Strict => "Strict",
    });
    options
}

fn delete_options(given: &DeleteOptions, dry_run: bool) -> Value {
    let mut options = json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"});
    if let Some(seconds) = given.grace_period_seconds {
        options["gracePeriodSeconds"] = json!(seconds);
    }
    if let Some(propagation) = given.propagation {
        options["propagationPolicy"] = json!(match propagation {
            Propagation::Background => "Background",
            Propagation::Foreground => "Foreground",
            Propagation::Orphan => "Orphan",
        });
    }
    let conditions = &given.preconditions;
    if let Some(uid) = &conditions.uid {
        options["preconditions"]["uid"] = json!(uid);
    }
    if let Some(version) = &conditions.version {
        options["preconditions"]["resourceVersion"] = json!(version);
    }
    if dry_run {
        options["dryRun"] = json!(["All"]);
    }
    options
}

impl<'a> Asked<'a> {
    /// A write of an object or of a part of it.
    pub fn write(review: &Review<'a>, object: &Value) -> Self {
        let kind = review.target.kind;
        let (verb, options) = match review.old {
            None => (Verb::Create, options("CreateOptions", review.call, review.call.dry_run)),
            Some(_) => (Verb::Update, options("UpdateOptions", review.call, review.call.dry_run)),
        };
        let show = |object: &Value| match review.subresource {
            "scale" => scale::view(kind, object),
            _ => object.clone(),
        };
        let mut old = review.old.map(show);
        if let Some(old) = old.as_mut().filter(|_| review.subresource != "scale") {
            value::set_type(old, kind);
        }
        let is_namespace = review.target.kind.names().plural == "namespaces" && kind.names().group.is_empty();
        Self {
            call: review.call,
            kind: kind_of(kind, review.subresource),
            resource: kind.gvr(),
            subresource: review.subresource.to_owned(),
            name: review.target.name.to_owned(),
            namespace: if is_namespace { review.target.name } else { review.target.namespace }.to_owned(),
            verb,
            object: Some(show(object)),
            old,
            dry_run: review.call.dry_run,
            options,
        }
    }

    /// A deletion of what is there.
    pub fn delete(review: &Review<'a>, old: &Value, given: &DeleteOptions) -> Self {
        let dry_run = review.call.dry_run || given.dry_run;
        let mut asked = Self::write(review, old);
        asked.verb = Verb::Delete;
        asked.old = asked.object.take();
        if let Some(old) = &mut asked.old {
            value::set_type(old, review.target.kind);
        }
        asked.dry_run = dry_run;
        asked.options = delete_options(given, dry_run);
        asked
    }

    /// A post to a subresource whose object is another than its parent: a Binding, an Eviction, a TokenRequest.
    pub fn post(review: &Review<'a>, object: &Value) -> Self {
        let mut asked = Self::write(review, object);
        asked.verb = Verb::Create;
        asked.old = None;
        asked.options = options("CreateOptions", review.call, review.call.dry_run);
        asked
    }

    /// A connection; `object` are its options.
    pub fn connect(review: &Review<'a>, object: &Value) -> Self {
        let mut asked = Self::post(review, object);
        asked.verb = Verb::Connect;
        asked.options = Value::Null;
        asked
    }

    /// `AdmissionRequest` without uid, object and old object; `kind` and `resource` as the rule that matched names them.
    pub fn told(&self, resource: &GroupVersionResource, kind: &GroupVersionKind) -> Value {
        let kind_json = |of: &GroupVersionKind| json!({"group": of.group, "version": of.version, "kind": of.kind});
        let resource_json =
            |of: &GroupVersionResource| json!({"group": of.group, "version": of.version, "resource": of.resource});
        let mut told = json!({
            "kind": kind_json(kind),
            "resource": resource_json(resource),
            "requestKind": kind_json(&self.kind),
            "requestResource": resource_json(&self.resource),
            "operation": self.verb.name(),
            "userInfo": self.call.caller.user_info(),
            "dryRun": self.dry_run,
            "options": self.options,
        });
        for (key, text) in [
            ("subResource", &self.subresource),
            ("requestSubResource", &self.subresource),
            ("name", &self.name),
            ("namespace", &self.namespace),
        ] {
            if !text.is_empty() {
                told[key] = json!(text);
            }
        }
        told
    }

    /// The name in messages: what is yet to be named goes by the prefix of its name.
    pub fn shown_name(&self) -> String {
        let prefix = self.object.as_ref().map_or("", |object| value::text(object, "/metadata/generateName"));
        match (self.name.is_empty(), prefix.is_empty()) {
            (false, _) => self.name.clone(),
            (true, false) => prefix.to_owned(),
            (true, true) => "Unknown".to_owned(),
        }
    }
}
