//! From a decoded body to a checked object: type, unknown and duplicate fields, namespace and name. Pure.

use balsa_api::decode::{self, Decoded};
use balsa_api::field::FieldError;
use balsa_api::kind::Kind;
use balsa_api::status::{ApiError, ApiResult};
use serde_json::Value;

use super::Call;
use crate::value;

/// A request body after parsing.
#[derive(Debug, Clone, Default)]
pub struct Body {
    /// What it says.
    pub value: Value,
    /// Paths of members that stood twice.
    pub duplicates: Vec<String>,
    /// The text's own order of members, where there was a text.
    pub decoded: Option<Decoded>,
}

impl From<Value> for Body {
    fn from(value: Value) -> Self {
        Self { value, ..Self::default() }
    }
}

fn cannot_be_handled(kind: &dyn Kind, why: &str) -> ApiError {
    let names = kind.names();
    decode::cannot_be_handled(names.kind, names.version, why)
}

/// Checks the body against its kind and brings it into normal form.
pub fn check(call: &Call, kind: &dyn Kind, body: Body) -> ApiResult<Value> {
    let Body { value: mut object, duplicates, decoded } = body;
    check_type(kind, &object)?;
    let unknown = kind.check(&mut object).map_err(|mismatch| cannot_be_handled(kind, &mismatch.0))?;
    let unknown = decoded.map_or(unknown.clone(), |decoded| decoded.in_document_order(unknown));
    report(call, kind, &unknown, &duplicates)?;
    value::set_type(&mut object, kind);
    Ok(object)
}

/// Says what the type did not know or the text had twice: as an error, as warnings, or not at all.
pub fn report(call: &Call, kind: &dyn Kind, unknown: &[String], duplicates: &[String]) -> ApiResult<()> {
    let names = kind.names();
    let complaints = decode::complaints(unknown, duplicates);
    decode::settle(names.kind, names.version, complaints, call.field_validation)?.into_iter().for_each(|text| call.warn(text));
    Ok(())
}

fn check_type(kind: &dyn Kind, object: &Value) -> ApiResult<()> {
    let names = kind.names();
    if !object.is_object() {
        return Err(cannot_be_handled(kind, "the body is not an object"));
    }
    let expected = kind.gvk().api_version();
    let api_version = value::text(object, "/apiVersion");
    if !api_version.is_empty() && api_version != expected {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({expected})"
        )));
    }
    let found = value::text(object, "/kind");
    if !found.is_empty() && found != names.kind {
        return Err(ApiError::bad_request(format!(
            "{found} in version \"{}\" cannot be handled as a {}: the kind of the object does not match the request",
            names.version, names.kind
        )));
    }
    Ok(())
}

/// Namespace of the body against that of the path; fills it in where the body is silent.
pub fn place_in(kind: &dyn Kind, object: &mut Value, namespace: &str) -> ApiResult<()> {
    let own = value::namespace(object).to_owned();
    if !kind.namespaced() {
        if !own.is_empty() {
            let finding = FieldError::forbidden("metadata.namespace", "not allowed on this type");
            return Err(ApiError::invalid(&kind.gvk(), value::name(object), &[finding]));
        }
        return Ok(());
    }
    if own.is_empty() {
        value::metadata(object).insert("namespace".to_owned(), namespace.into());
        return Ok(());
    }
    if own == namespace {
        return Ok(());
    }
    Err(ApiError::bad_request(
        "the namespace of the provided object does not match the namespace sent on the request",
    ))
}

/// Name of the body against that of the path.
pub fn name_matches(object: &mut Value, name: &str) -> ApiResult<()> {
    let own = value::name(object).to_owned();
    if own.is_empty() {
        value::metadata(object).insert("name".to_owned(), name.into());
        return Ok(());
    }
    if own == name {
        return Ok(());
    }
    Err(ApiError::bad_request(format!(
        "the name of the object ({own}) does not match the name on the URL ({name})"
    )))
}
