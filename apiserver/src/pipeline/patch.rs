//! PATCH: four formats, one way. The patch is applied anew to whatever state the write meets.

use balsa_api::kind::Part;
use balsa_api::patch;
use balsa_api::status::{ApiError, ApiResult};
use bytes::Bytes;
use serde_json::Value;

use super::body::{self, Body};
use super::update::{Write, part_name};
use super::{Api, Call, FieldValidation, Found, Target, rules};
use crate::value;

/// The format of a patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `application/json-patch+json`
    Json,
    /// `application/merge-patch+json`
    Merge,
    /// `application/strategic-merge-patch+json`
    Strategic,
    /// `application/apply-patch+yaml`
    Apply {
        /// Take over fields that others own.
        force: bool,
    },
}

/// A patch as it came in.
#[derive(Debug, Clone)]
pub struct Patch {
    /// How to read it.
    pub format: Format,
    /// The text.
    pub bytes: Bytes,
}

/// A patch after parsing.
pub struct Parsed {
    format: Format,
    value: Value,
    duplicates: Vec<String>,
    /// Lines of duplicate keys, as YAML's strict decoder names them.
    lines: Vec<String>,
}

impl Patch {
    /// Parses the text; 400 where it is none.
    pub fn parse(&self) -> ApiResult<Parsed> {
        let Body { value, duplicates, .. } = crate::rest::decode::text(&self.bytes)?;
        let fits = match self.format {
            Format::Json => value.is_array(),
            Format::Merge | Format::Strategic | Format::Apply { .. } => value.is_object(),
        };
        if !fits {
            return Err(ApiError::bad_request("the body is not a patch of the type that the Content-Type names"));
        }
        let lines = if duplicates.is_empty() { Vec::new() } else { balsa_api::decode::duplicate_lines(&self.bytes) };
        Ok(Parsed { format: self.format, value, duplicates, lines })
    }
}

impl Parsed {
    /// The object after a JSON, merge or strategic patch.
    pub fn apply(&self, target: Target<'_>, old: &Value) -> ApiResult<Value> {
        match self.format {
            Format::Json => patch::json(old, &self.value),
            Format::Merge => Ok(patch::merge(old, &self.value)),
            Format::Strategic => patch::strategic::apply(target.kind, old, &self.value),
            Format::Apply { .. } => Err(ApiError::unsupported_media_type("apply is no patch of a single state")),
        }
    }
}

impl Api {
    /// Patches one object. True: it was created (apply only).
    pub async fn patch(&self, call: &Call, target: Target<'_>, part: Part<'_>, patch: &Patch) -> ApiResult<(Found, bool)> {
        let parsed = patch.parse()?;
        let write = Write { target, part, by_rules: true };
        if let Format::Apply { force } = parsed.format {
            return self.server_side_apply(call, write, parsed, force).await;
        }
        body::report(call, target.kind, &[], &parsed.duplicates)?;
        let change = |old: &Value| {
            let mut new = parsed.apply(target, old)?;
            rules::check_submitted(target, &new, old, true)?;
            new = self.check_patched(call, target, new)?;
            same_identity(target, &new)?;
            Ok(new)
        };
        Ok((self.modify(call, write, &change).await?, false))
    }

    fn check_patched(&self, call: &Call, target: Target<'_>, new: Value) -> ApiResult<Value> {
        body::check(call, target.kind, Body::from(new)).map_err(|mut error| {
            if call.field_validation == FieldValidation::Strict && error.message.contains("strict decoding error") {
                return error;
            }
            // A patch that makes an object of the wrong shape is unprocessable, not unreadable.
            error.code = 422;
            "Invalid".clone_into(&mut error.reason);
            error
        })
    }

    async fn server_side_apply(&self, call: &Call, write: Write<'_>, parsed: Parsed, force: bool) -> ApiResult<(Found, bool)> {
        let Write { target, part, .. } = write;
        let kind = target.kind;
        if call.manager.is_empty() {
            let finding = balsa_api::field::FieldError::required("fieldManager", "is required for apply patch");
            let options = balsa_api::meta::GroupVersionKind::new("meta.k8s.io", "v1", "PatchOptions");
            return Err(ApiError::invalid(&options, "", &[finding]));
        }
        if parsed.value.pointer("/metadata/managedFields").is_some_and(|fields| !fields.is_null()) {
            return Err(ApiError::bad_request("metadata.managedFields must be nil"));
        }
        let mut config = parsed.value;
        body::name_matches(&mut config, target.name)?;
        body::place_in(kind, &mut config, target.namespace)?;
        let duplicates = match kind.custom() {
            Some(_) => {
                refuse_undeclared(target, &config)?;
                report_duplicates(call, &parsed.lines, &parsed.duplicates)?
            }
            None => parsed.duplicates,
        };
        let mut config = body::check(call, kind, Body { value: config, duplicates, decoded: None })?;
        let version = value::text(&config, "/metadata/resourceVersion").to_owned();
        let uid = value::uid(&config).to_owned();
        let preconditions = rules::Preconditions {
            uid: (!uid.is_empty()).then_some(uid),
            version: (!version.is_empty()).then_some(version),
        };
        for key in ["resourceVersion", "uid", "creationTimestamp", "generation"] {
            value::metadata(&mut config).remove(key);
        }
        let change = |old: &Value| {
            preconditions.check(target, old)?;
            self.apply_config(call, kind, Some(old), &config, part_name(part), force)
        };
        match self.modify(call, write, &change).await {
            Err(error) if error.is_not_found() && part == Part::Main && error.details.kind == kind.names().plural => {
                if preconditions != rules::Preconditions::default() {
                    return Err(ApiError::conflict(&kind.gvr(), target.name, "the object does not exist, but a uid or resourceVersion was given"));
                }
                super::create::refuse_terminating(kind)?;
                let object = self.apply_config(call, kind, None, &config, "", force)?;
                Ok((self.create_checked(call, kind, target.namespace, object).await?, true))
            }
            outcome => Ok((outcome?, false)),
        }
    }
}

/// Whatever the fieldValidation: what the schema does not know cannot be owned. Pure.
fn refuse_undeclared(target: Target<'_>, config: &Value) -> ApiResult<()> {
    let mut copy = config.clone();
    let unknown = target.kind.check(&mut copy).unwrap_or_default();
    let problems: Vec<String> = unknown.iter().map(|path| format!(".{path}: field not declared in schema")).collect();
    let text = match problems.as_slice() {
        [] => return Ok(()),
        [one] => one.clone(),
        several => format!("errors:\n{}", several.iter().map(|one| format!("  {one}")).collect::<Vec<_>>().join("\n")),
    };
    let gvk = target.kind.gvk();
    let place = if target.namespace.is_empty() { "/" } else { target.namespace };
    let slash = if target.namespace.is_empty() { "" } else { "/" };
    Err(ApiError::internal(format!(
        "failed to create typed patch object ({place}{slash}{}; {}, Kind={}): {text}",
        target.name,
        gvk.api_version(),
        gvk.kind
    )))
}

/// Keys that stand twice in YAML, by line; what could not be found by line is left to the general words.
fn report_duplicates(call: &Call, lines: &[String], duplicates: &[String]) -> ApiResult<Vec<String>> {
    if lines.is_empty() {
        return Ok(duplicates.to_vec());
    }
    let listed: Vec<String> = lines.iter().map(|line| format!("  {line}")).collect();
    let text = format!("error converting YAML to JSON: yaml: unmarshal errors:\n{}", listed.join("\n"));
    match call.field_validation {
        FieldValidation::Strict => Err(ApiError::bad_request(format!("error strict decoding YAML: {text}"))),
        FieldValidation::Warn => {
            lines.iter().for_each(|line| call.warn(line.clone()));
            Ok(Vec::new())
        }
        FieldValidation::Ignore => Ok(Vec::new()),
    }
}

/// A patch may not make another object of it.
fn same_identity(target: Target<'_>, new: &Value) -> ApiResult<()> {
    if value::name(new) != target.name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({})",
            value::name(new),
            target.name
        )));
    }
    if target.kind.namespaced() && value::namespace(new) != target.namespace {
        return Err(ApiError::bad_request(format!(
            "the namespace of the object ({}) does not match the namespace on the request ({})",
            value::namespace(new),
            target.namespace
        )));
    }
    Ok(())
}
