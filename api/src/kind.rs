//! What the generic API machinery may ask of a kind. One implementation per kind, under `kinds`.
//!
//! All of it is pure: no clock (`now` is an argument), no randomness, no IO.

use std::borrow::Cow;
use std::ops::Deref;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use crate::apiextensions::CustomKind;
use crate::field::FieldError;
use crate::meta::{GroupVersionKind, GroupVersionResource};

/// Names of a kind, as discovery shows them.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    /// Empty for the core group.
    pub group: &'a str,
    /// `v1`
    pub version: &'a str,
    /// `Pod`
    pub kind: &'a str,
    /// `PodList`
    pub list_kind: &'a str,
    /// `pods`
    pub plural: &'a str,
    /// `pod`
    pub singular: &'a str,
    /// `po`. Read them through [`Kind::short_names`]: a custom kind's do not stand here.
    pub short_names: &'static [&'static str],
    /// `all`. Read them through [`Kind::categories`].
    pub categories: &'static [&'static str],
}

/// A subresource, as discovery shows it.
#[derive(Debug, Clone, Copy)]
pub struct Subresource {
    /// `status`
    pub name: &'static str,
    /// Group of the type that is exchanged; of the parent for `status`.
    pub group: &'static str,
    /// Version of the type that is exchanged.
    pub version: &'static str,
    /// The type that is exchanged; empty: that of the parent. `Pod`, `Scale`, `Binding`, `Eviction`, `PodExecOptions`, …
    pub kind: &'static str,
    /// `get`, `patch`, `update`, `create`, …
    pub verbs: &'static [&'static str],
}

/// A column of a table.
#[derive(Debug, Clone, Copy)]
pub struct Column<'a> {
    /// `Restarts`
    pub name: &'a str,
    /// `string`, `integer`, `date`, …
    pub r#type: &'a str,
    /// `name` for the name column, else empty.
    pub format: &'a str,
    /// For a person.
    pub description: &'a str,
    /// 0: always shown; 1: with `-o wide`.
    pub priority: i32,
}

/// Which part of an object a write may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part<'a> {
    /// The object itself: everything but its status.
    Main,
    /// Its status (and metadata).
    Status,
    /// Another subresource that edits the object: `ephemeralcontainers`, `resize`, `finalize`, `approval`.
    Other(&'a str),
}

/// A type that is not what its kind says: the message names field and problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeMismatch(pub String);

/// One kind of object.
pub trait Kind: Send + Sync + 'static {
    /// Its names.
    fn names(&self) -> Names<'_>;
    /// `po`
    fn short_names(&self) -> Vec<&str> {
        self.names().short_names.to_vec()
    }
    /// `all`
    fn categories(&self) -> Vec<&str> {
        self.names().categories.to_vec()
    }
    /// The custom resource that this kind is; `None` for those that are built in.
    fn custom(&self) -> Option<&CustomKind> {
        None
    }
    /// Whether its objects live in namespaces.
    fn namespaced(&self) -> bool;
    /// What can be done with it: `create`, `delete`, `deletecollection`, `get`, `list`, `patch`, `update`, `watch`.
    fn verbs(&self) -> &'static [&'static str];
    /// Its subresources.
    fn subresources(&self) -> &'static [Subresource];

    /// Whether spec and metadata.generation belong together here: generation is counted.
    fn has_generation(&self) -> bool;
    /// Whether an update without resourceVersion is allowed.
    fn unconditional_update(&self) -> bool;
    /// Whether a PUT on a name that does not exist creates it.
    fn create_on_update(&self) -> bool;
    /// Whether a successful DELETE answers with the object instead of a Status.
    fn delete_returns_object(&self) -> bool;

    /// Checks types throughout and brings the object into its normal form (what the type does not know is dropped).
    /// Returns the paths of unknown fields, such as `spec.containers[0].bogus`, in order.
    fn check(&self, object: &mut Value) -> Result<Vec<String>, TypeMismatch>;
    /// Fills in what was left out.
    fn default(&self, object: &mut Value);
    /// Clears and sets what a creator cannot decide (status, generation, …).
    fn prepare_create(&self, object: &mut Value);
    /// Takes over from `old` what a write of `part` may not touch; counts the generation.
    fn prepare_update(&self, new: &mut Value, old: &Value, part: Part<'_>);
    /// What is wrong with a new object (after defaulting). Metadata is checked too.
    fn validate_create(&self, object: &Value) -> Vec<FieldError>;
    /// What is wrong with a change.
    fn validate_update(&self, new: &Value, old: &Value, part: Part<'_>) -> Vec<FieldError>;
    /// Warnings that do not refuse the object.
    fn warnings(&self, _object: &Value) -> Vec<String> {
        Vec::new()
    }

    /// Columns of its table, `Name` first.
    fn columns(&self) -> Cow<'_, [Column<'_>]>;
    /// One cell per column.
    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value>;

    /// Fields that a field selector may name, besides `metadata.name` and `metadata.namespace`.
    fn selectable_fields(&self) -> Cow<'_, [&str]>;
    /// The value of one of them; empty where it is absent.
    fn selectable(&self, object: &Value, field: &str) -> String;

    /// The type's name.
    fn gvk(&self) -> GroupVersionKind {
        let names = self.names();
        GroupVersionKind::new(names.group, names.version, names.kind)
    }
    /// The type's name in URLs.
    fn gvr(&self) -> GroupVersionResource {
        let names = self.names();
        GroupVersionResource::new(names.group, names.version, names.plural)
    }
}

/// A kind to hold on to: built in, or made by a CustomResourceDefinition and gone with its last holder.
#[derive(Clone)]
pub enum KindRef {
    /// Lives as long as the process.
    BuiltIn(&'static dyn Kind),
    /// One version of a custom resource.
    Custom(Arc<CustomKind>),
}

impl Deref for KindRef {
    type Target = dyn Kind;

    fn deref(&self) -> &(dyn Kind + 'static) {
        match self {
            Self::BuiltIn(kind) => *kind,
            Self::Custom(kind) => kind.as_ref(),
        }
    }
}

impl From<&'static dyn Kind> for KindRef {
    fn from(kind: &'static dyn Kind) -> Self {
        Self::BuiltIn(kind)
    }
}
