//! What is wrong with one field of an object, in the words of Kubernetes' field errors.

use std::fmt;

use serde_json::Value;

/// Why a field was refused; the reason of a Status cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldErrorKind {
    /// `FieldValueRequired`
    Required,
    /// `FieldValueInvalid`
    Invalid,
    /// `FieldValueNotSupported`
    NotSupported,
    /// `FieldValueForbidden`
    Forbidden,
    /// `FieldValueDuplicate`
    Duplicate,
    /// `FieldValueTooLong`
    TooLong,
    /// `FieldValueTooMany`
    TooMany,
    /// `FieldValueNotFound`
    NotFound,
    /// `FieldValueTypeInvalid`
    TypeInvalid,
    /// `InternalError`
    Internal,
}

impl FieldErrorKind {
    /// The `reason` of a Status cause.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::Duplicate => "FieldValueDuplicate",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::NotFound => "FieldValueNotFound",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::Internal => "InternalError",
        }
    }
}

/// One finding of a validation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// What sort of finding.
    pub kind: FieldErrorKind,
    /// `spec.containers[0].image`
    pub field: String,
    /// Everything after `FIELD: `, such as `Required value: must specify one`.
    pub message: String,
}

/// How Kubernetes prints a bad value: strings quoted, the rest as JSON.
fn printed(value: &Value) -> String {
    value.to_string()
}

impl FieldError {
    /// A value is missing. `detail` may be empty.
    pub fn required(field: impl Into<String>, detail: &str) -> Self {
        Self::new(FieldErrorKind::Required, field, "Required value", detail)
    }

    /// A value breaks a rule.
    pub fn invalid(field: impl Into<String>, value: impl Into<Value>, detail: &str) -> Self {
        Self::new(FieldErrorKind::Invalid, field, &format!("Invalid value: {}", printed(&value.into())), detail)
    }

    /// A value is not one of those known.
    pub fn not_supported(field: impl Into<String>, value: impl Into<Value>, supported: &[&str]) -> Self {
        let supported: Vec<String> = supported.iter().map(|value| format!("{value:?}")).collect();
        let detail = if supported.is_empty() { String::new() } else { format!("supported values: {}", supported.join(", ")) };
        Self::new(FieldErrorKind::NotSupported, field, &format!("Unsupported value: {}", printed(&value.into())), &detail)
    }

    /// A value may not be given here.
    pub fn forbidden(field: impl Into<String>, detail: &str) -> Self {
        Self::new(FieldErrorKind::Forbidden, field, "Forbidden", detail)
    }

    /// A value stands twice where it must be unique.
    pub fn duplicate(field: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::new(FieldErrorKind::Duplicate, field, &format!("Duplicate value: {}", printed(&value.into())), "")
    }

    /// Text longer than allowed (bytes).
    pub fn too_long(field: impl Into<String>, max: usize) -> Self {
        Self::new(FieldErrorKind::TooLong, field, "Too long", &format!("may not be more than {max} bytes"))
    }

    /// More items than allowed.
    pub fn too_many(field: impl Into<String>, actual: usize, max: usize) -> Self {
        let items = if max == 1 { "item" } else { "items" };
        Self::new(FieldErrorKind::TooMany, field, &format!("Too many: {actual}"), &format!("must have at most {max} {items}"))
    }

    /// Something that is named does not exist.
    pub fn not_found(field: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::new(FieldErrorKind::NotFound, field, &format!("Not found: {}", printed(&value.into())), "")
    }

    fn new(kind: FieldErrorKind, field: impl Into<String>, head: &str, detail: &str) -> Self {
        let message = if detail.is_empty() { head.to_owned() } else { format!("{head}: {detail}") };
        Self { kind, field: field.into(), message }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}
