//! The rules of CustomResourceDefinitions as objects: defaults, validation, what an update may change.
//!
//! Findings stand at the paths that apiextensions shows: what all versions say alike is found at `spec.validation`,
//! `spec.subresources`, …, as if it had been said once.

use serde_json::{Value, json};

use super::{format, structural};
use crate::cursor::{At, find, list, set_default, text};
use crate::field::FieldError;
use crate::kind::Part;
use crate::validate::text::{dns1035_problems, port_problems, subdomain_problems};
use crate::validate::unchanged;

/// Set when a definition is deleted: its objects go first.
pub const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";
const APPROVED: &str = "api-approved.kubernetes.io";
const MAX_SELECTABLE: usize = 8;
/// Schemas deeper or larger than this (JSON bytes) are refused: they are walked for every object.
const MAX_SCHEMA_BYTES: usize = 2 << 20;

/// Fills in what was left out.
pub fn default(object: &mut Value) {
    let Some(spec) = object.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    let kind = text(spec, "names.kind").to_owned();
    if let Some(names) = spec.get_mut("names").filter(|names| names.is_object()) {
        crate::cursor::set_default_text(names, "singular", &kind.to_lowercase());
        if !kind.is_empty() {
            crate::cursor::set_default_text(names, "listKind", &format!("{kind}List"));
        }
    }
    set_default(spec, "conversion", json!({"strategy": "None"}));
    if let Some(service) = spec.pointer_mut("/conversion/webhook/clientConfig/service").filter(|service| service.is_object()) {
        set_default(service, "port", 443);
    }
}

/// The version that objects are stored in.
pub fn storage_version(object: &Value) -> &str {
    let stored = list(object, "spec.versions").iter().find(|version| find(version, "storage") == &json!(true));
    stored.map_or("", |version| text(version, "name"))
}

/// Adds the storage version to those that objects may be stored in.
fn note_storage(object: &mut Value) {
    let version = storage_version(object).to_owned();
    if version.is_empty() {
        return;
    }
    let status = crate::cursor::make_object(object, "status");
    if !status["storedVersions"].is_array() {
        status["storedVersions"] = json!([]);
    }
    if let Some(stored) = status["storedVersions"].as_array_mut()
        && !stored.contains(&json!(version))
    {
        stored.push(json!(version));
    }
}

/// What stands in every status, as Go writes it.
fn complete_status(object: &mut Value) {
    let status = crate::cursor::make_object(object, "status");
    for (key, empty) in [("conditions", json!([])), ("acceptedNames", json!({"plural": "", "kind": ""})), ("storedVersions", json!([]))] {
        if status.get(key).is_none_or(Value::is_null) {
            status[key] = empty;
        }
    }
}

/// A new definition has no status but its storage version.
pub fn prepare_create(object: &mut Value) {
    note_storage(object);
    complete_status(object);
}

/// A changed storage version is remembered.
pub fn prepare_update(object: &mut Value, _old: &Value, part: Part<'_>) {
    if part == Part::Main {
        note_storage(object);
    }
    complete_status(object);
}

/// Whether a condition is True.
pub fn is_true(object: &Value, condition: &str) -> bool {
    list(object, "status.conditions").iter().any(|one| text(one, "type") == condition && text(one, "status") == "True")
}

/// What is wrong with a new definition.
pub fn validate_create(object: &Value) -> Vec<FieldError> {
    let mut findings = Vec::new();
    let required = format!("{}.{}", text(object, "spec.names.plural"), text(object, "spec.group"));
    let name = At::root(object).at("metadata.name");
    if !name.is_empty() && name.str() != required {
        findings.push(name.invalid("must be spec.names.plural+\".\"+spec.group"));
    }
    findings.extend(spec(object, None));
    findings.extend(stored_versions(object));
    findings.extend(approval(object, None));
    findings
}

/// What is wrong with a change.
pub fn validate_update(new: &Value, old: &Value, part: Part<'_>) -> Vec<FieldError> {
    let mut findings = Vec::new();
    if part == Part::Main {
        findings.extend(spec(new, Some(old)));
        let (at, before) = (At::root(new).get("spec"), At::root(old).get("spec"));
        if is_true(old, "Established") {
            unchanged(&mut findings, &at.get("scope"), &before.get("scope"));
            unchanged(&mut findings, &at.at("names.kind"), &before.at("names.kind"));
        }
        unchanged(&mut findings, &at.get("group"), &before.get("group"));
        unchanged(&mut findings, &at.at("names.plural"), &before.at("names.plural"));
        findings.extend(stored_versions(new));
        findings.extend(approval(new, Some(old)));
    }
    names(&mut findings, &At::root(new).at("status.acceptedNames"));
    findings
}

fn stored_versions(object: &Value) -> Vec<FieldError> {
    let at = At::root(object).at("status.storedVersions");
    let stored: Vec<&str> = at.items().map(|item| item.str()).collect();
    if stored.is_empty() {
        return vec![FieldError::invalid(at.path.clone(), at.value.clone(), "must have at least one stored version")];
    }
    let mut findings = Vec::new();
    let storage = storage_version(object);
    if !storage.is_empty() && !stored.contains(&storage) {
        findings.push(at.invalid(&format!("must have the storage version {storage}")));
    }
    let versions: Vec<&str> = list(object, "spec.versions").iter().map(|version| text(version, "name")).collect();
    for (index, name) in stored.iter().enumerate().filter(|(_, name)| !versions.contains(name)) {
        let detail = format!(
            "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a \
             storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
        );
        findings.push(FieldError::invalid(format!("status.storedVersions[{index}]"), *name, &detail));
    }
    findings
}

/// Whether a group belongs to the Kubernetes community.
pub fn is_protected(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"].iter().any(|domain| group == *domain || group.ends_with(&format!(".{domain}")))
}

/// How a protected group's approval stands: the reason of its condition, whether it is approved, and the words.
pub fn approval_state(object: &Value) -> (&'static str, bool, String) {
    let annotation = find(object, "metadata.annotations").get(APPROVED).and_then(Value::as_str).unwrap_or_default();
    let see = "see https://github.com/kubernetes/enhancements/pull/1111";
    if annotation.is_empty() {
        return ("MissingAnnotation", false, format!("protected groups must have approval annotation {APPROVED:?}, {see}"));
    }
    if annotation.starts_with("unapproved") {
        return ("UnapprovedAnnotation", false, format!("not approved: {annotation:?}"));
    }
    let is_url = annotation.split_once("://").is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty() && !rest.starts_with('/'));
    if is_url {
        return ("ApprovedAnnotation", true, format!("approved in {annotation}"));
    }
    let text = format!(
        "protected groups must have approval annotation {APPROVED:?} with either a URL or a reason starting with \"unapproved\", {see}"
    );
    ("InvalidAnnotation", false, text)
}

fn approval(new: &Value, old: Option<&Value>) -> Option<FieldError> {
    if !is_protected(text(new, "spec.group")) {
        return None;
    }
    let (state, _, reason) = approval_state(new);
    if old.is_some_and(|old| approval_state(old).0 == state) {
        return None;
    }
    let path = format!("metadata.annotations[{APPROVED}]");
    let given = find(new, "metadata.annotations").get(APPROVED).cloned().unwrap_or_default();
    match state {
        "MissingAnnotation" => Some(FieldError::required(path, &reason)),
        "InvalidAnnotation" => Some(FieldError::invalid(path, given, &reason)),
        _ => None,
    }
}

/// Whether all versions say the same about something, and say it.
fn said_once(object: &Value, key: &str) -> bool {
    let versions = list(object, "spec.versions");
    let first = versions.first().and_then(|version| version.get(key)).filter(|value| !value.is_null() && **value != json!([]));
    first.is_some() && versions.iter().all(|version| version.get(key) == first)
}

fn problems(findings: &mut Vec<FieldError>, at: &At<'_>, problems: &[String], before: &str) {
    if !problems.is_empty() {
        findings.push(at.invalid(&format!("{before}{}", problems.join(","))));
    }
}

fn spec(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut findings = Vec::new();
    let at = At::root(object).get("spec");
    let group = at.get("group");
    if group.is_empty() {
        findings.push(group.required(""));
    } else if !subdomain_problems(group.str()).is_empty() {
        problems(&mut findings, &group, &subdomain_problems(group.str()), "");
    } else if !group.str().contains('.') {
        findings.push(group.invalid("should be a domain with at least one dot"));
    }
    match at.get("scope") {
        scope if scope.is_empty() => findings.push(scope.required("")),
        scope if !matches!(scope.str(), "Cluster" | "Namespaced") => {
            findings.push(scope.not_supported(&["Cluster", "Namespaced"]));
        }
        _ => {}
    }
    let versions = at.get("versions");
    for version in versions.items() {
        let schema = version.at("schema.openAPIV3Schema");
        if !schema.is_set() {
            findings.push(schema.required(""));
        }
    }
    version_list(object, old, &versions, &mut findings);
    for key in ["plural", "singular", "kind", "listKind"] {
        if at.at("names").get(key).is_empty() {
            findings.push(at.at("names").get(key).required(""));
        }
    }
    names(&mut findings, &at.get("names"));
    if at.get("preserveUnknownFields").is_true() && old.is_none_or(|old| find(old, "spec.preserveUnknownFields") != &json!(true)) {
        let detail = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        findings.push(at.get("preserveUnknownFields").invalid(detail));
    }
    conversion(&mut findings, &at.get("conversion"));
    findings
}

fn version_list(object: &Value, old: Option<&Value>, versions: &At<'_>, findings: &mut Vec<FieldError>) {
    let (mut seen, mut unique) = (std::collections::BTreeSet::new(), true);
    for version in versions.items() {
        let name = version.get("name");
        unique &= seen.insert(name.str());
        problems(findings, &name, &dns1035_problems(name.str()), "");
        deprecation(findings, &version);
    }
    // What was accepted once is not looked at again unless it changes.
    let known = |version: &Value, key: &str| {
        let before = old.map_or(&[][..], |old| list(old, "spec.versions"));
        before.iter().any(|known| known.get("name") == version.get("name") && known.get(key) == version.get(key))
    };
    let once = |key: &str| said_once(object, key);
    for (index, version) in versions.items().enumerate() {
        let place = |key: &str, shared: &str| match once(key) {
            true => format!("spec.{shared}"),
            false => format!("{}.{key}", version.path),
        };
        let first_or_own = |key: &str| index == 0 || !once(key);
        let status = version.at("subresources.status").is_set();
        let schema = version.at("schema.openAPIV3Schema");
        let same_status = old.is_none_or(|_| known(version.value, "subresources"));
        if schema.is_set() && first_or_own("schema") && !(known(version.value, "schema") && same_status) {
            let path = format!("{}.openAPIV3Schema", place("schema", "validation"));
            if schema.value.to_string().len() > MAX_SCHEMA_BYTES {
                findings.push(FieldError::too_long(path, MAX_SCHEMA_BYTES));
            } else {
                let wrong = structural::validate(&path, schema.value, status);
                if wrong.is_empty() {
                    findings.extend(super::rules::validate(&path, schema.value));
                }
                findings.extend(wrong);
            }
        }
        if first_or_own("subresources") {
            subresources(findings, &At::new(place("subresources", "subresources"), version.get("subresources").value));
        }
        if first_or_own("additionalPrinterColumns") {
            let path = place("additionalPrinterColumns", "additionalPrinterColumns");
            At::new(path, version.get("additionalPrinterColumns").value).items().for_each(|one| column(findings, &one));
        }
        if first_or_own("selectableFields") {
            let fields = At::new(place("selectableFields", "selectableFields"), version.get("selectableFields").value);
            selectable(findings, &fields, schema.value);
        }
    }
    if !unique {
        findings.push(versions.invalid("must contain unique version names"));
    }
    if versions.items().filter(|version| version.get("storage").is_true()).count() != 1 {
        findings.push(versions.invalid("must have exactly one version marked as storage version"));
    }
}

fn deprecation(findings: &mut Vec<FieldError>, version: &At<'_>) {
    let warning = version.get("deprecationWarning");
    if !warning.is_set() {
        return;
    }
    if !version.get("deprecated").is_true() {
        findings.push(warning.invalid("can only be set for deprecated versions"));
        return;
    }
    if warning.str().len() > 256 {
        findings.push(warning.invalid("must be <= 256 characters long"));
    }
    if warning.str().is_empty() {
        findings.push(warning.invalid("must not be an empty string"));
    }
    if let Some((at, _)) = warning.str().char_indices().find(|(_, letter)| letter.is_control()) {
        let detail = format!("must only contain printable UTF-8 characters; non-printable character found at index {at}");
        findings.push(warning.invalid(&detail));
    }
}

fn names(findings: &mut Vec<FieldError>, at: &At<'_>) {
    let check = |findings: &mut Vec<FieldError>, name: &At<'_>, folded: bool| {
        if name.is_empty() {
            return;
        }
        let (text, before) = match folded {
            true => (name.str().to_lowercase(), "may have mixed case, but should otherwise match: "),
            false => (name.str().to_owned(), ""),
        };
        problems(findings, name, &dns1035_problems(&text), before);
    };
    check(findings, &at.get("plural"), false);
    check(findings, &at.get("singular"), false);
    check(findings, &at.get("kind"), true);
    check(findings, &at.get("listKind"), true);
    at.get("shortNames").items().for_each(|name| check(findings, &name, false));
    if !at.get("kind").is_empty() && at.get("kind").str() == at.get("listKind").str() {
        findings.push(at.get("listKind").invalid("kind and listKind may not be the same"));
    }
    at.get("categories").items().for_each(|name| check(findings, &name, false));
}

/// A path of plain members, beginning with a dot.
fn simple_path(findings: &mut Vec<FieldError>, at: &At<'_>) -> bool {
    if !at.str().starts_with('.') {
        findings.push(at.invalid("must be a simple json path starting with ."));
    }
    at.str().starts_with('.')
}

fn subresources(findings: &mut Vec<FieldError>, at: &At<'_>) {
    let scale = at.get("scale");
    if !scale.is_set() {
        return;
    }
    let named = |key: &str| At::new(format!("{}.scale.{key}", at.path), scale.get(key).value);
    for (key, prefix, below) in [("specReplicasPath", ".spec.", ".spec"), ("statusReplicasPath", ".status.", ".status")] {
        let path = named(key);
        if path.is_empty() {
            findings.push(path.required(""));
        } else if simple_path(findings, &path) && !path.str().starts_with(prefix) {
            findings.push(path.invalid(&format!("should be a json path under {below}")));
        }
    }
    let selector = named("labelSelectorPath");
    if !selector.is_empty()
        && simple_path(findings, &selector)
        && !selector.str().starts_with(".spec.")
        && !selector.str().starts_with(".status.")
    {
        findings.push(selector.invalid("should be a json path under either .spec or .status"));
    }
}

fn column(findings: &mut Vec<FieldError>, at: &At<'_>) {
    const TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
    const FORMATS: [&str; 8] = ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
    if at.get("name").is_empty() {
        findings.push(at.get("name").required(""));
    }
    let (kind, format) = (at.get("type"), at.get("format"));
    let detail = format!("must be one of {}", TYPES.join(","));
    if kind.is_empty() {
        findings.push(kind.required(&detail));
    } else if !TYPES.contains(&kind.str()) {
        findings.push(kind.invalid(&detail));
    }
    if !format.is_empty() && !FORMATS.contains(&format.str()) {
        findings.push(format.invalid(&format!("must be one of {}", FORMATS.join(","))));
    }
    let path = At::new(format!("{}.JSONPath", at.path), at.get("jsonPath").value);
    if path.is_empty() {
        findings.push(path.required(""));
    } else {
        simple_path(findings, &path);
    }
}

fn selectable(findings: &mut Vec<FieldError>, fields: &At<'_>, schema: &Value) {
    let mut seen = std::collections::BTreeSet::new();
    for field in fields.items() {
        let path = field.get("jsonPath");
        if path.is_empty() {
            findings.push(path.required(""));
            continue;
        }
        let (shown, leads_to) = match structural::field_path(path.str(), schema, false) {
            Ok(found) => found,
            Err(problem) => {
                findings.push(path.invalid(&format!("is an invalid path: {problem}")));
                continue;
            }
        };
        if shown == "metadata" || shown.starts_with("metadata.") {
            findings.push(path.invalid("must not point to fields in metadata"));
        }
        if !matches!(text(leads_to, "type"), "string" | "boolean" | "integer") {
            let detail =
                "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
            findings.push(path.invalid(detail));
        }
        if !seen.insert(shown) {
            findings.push(path.duplicate());
        }
    }
    if seen.len() > MAX_SELECTABLE {
        findings.push(FieldError::too_many(fields.path.clone(), seen.len(), 8));
    }
}

fn conversion(findings: &mut Vec<FieldError>, at: &At<'_>) {
    if !at.is_set() {
        return;
    }
    let strategy = at.get("strategy");
    match strategy.str() {
        "" => findings.push(strategy.required("")),
        "None" | "Webhook" => {}
        _ => findings.push(strategy.not_supported(&["None", "Webhook"])),
    }
    let webhook = at.get("webhook");
    let config = At::new(format!("{}.webhookClientConfig", at.path), webhook.get("clientConfig").value);
    let versions = At::new(format!("{}.conversionReviewVersions", at.path), webhook.get("conversionReviewVersions").value);
    if strategy.str() != "Webhook" {
        if config.is_set() {
            findings.push(config.forbidden("should not be set when strategy is not set to Webhook"));
        }
        if versions.len() > 0 {
            findings.push(versions.forbidden("should not be set when strategy is not set to Webhook"));
        }
        return;
    }
    if config.is_set() {
        client_config(findings, &config);
    } else {
        findings.push(config.required("required when strategy is set to Webhook"));
    }
    if versions.len() == 0 {
        findings.push(versions.required(""));
        return;
    }
    let mut seen = std::collections::BTreeSet::new();
    for version in versions.items() {
        if !seen.insert(version.str()) {
            findings.push(version.invalid("duplicate version"));
            continue;
        }
        crate::validate::each(findings, &version, &dns1035_problems(version.str()));
    }
    if !seen.contains("v1") && !seen.contains("v1beta1") {
        findings.push(versions.invalid("must include at least one of v1, v1beta1"));
    }
}

fn client_config(findings: &mut Vec<FieldError>, config: &At<'_>) {
    let (url, service) = (config.get("url"), config.get("service"));
    if url.is_set() == service.is_set() {
        findings.push(config.required("exactly one of url or service is required"));
    } else if url.is_set() {
        webhook_url(findings, &url);
    } else {
        webhook_service(findings, &service);
    }
}

fn webhook_url(findings: &mut Vec<FieldError>, at: &At<'_>) {
    const FORM: &str = "; desired format: https://host[/path]";
    let (scheme, rest) = at.str().split_once("://").unwrap_or(("", at.str()));
    if scheme != "https" {
        let detail = format!("'https' is the only allowed URL scheme{FORM}");
        findings.push(FieldError::invalid(at.path.clone(), scheme, &detail));
    }
    let authority = if scheme.is_empty() { "" } else { rest.split(['/', '?', '#']).next().unwrap_or_default() };
    let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
    if host.is_empty() {
        findings.push(FieldError::invalid(at.path.clone(), host, &format!("host must be specified{FORM}")));
    }
    if let Some(user) = user {
        findings.push(FieldError::invalid(at.path.clone(), user, "user information is not permitted in the URL"));
    }
    if let Some((_, fragment)) = rest.split_once('#') {
        findings.push(FieldError::invalid(at.path.clone(), fragment, "fragments are not permitted in the URL"));
    }
    if let Some((_, query)) = rest.split('#').next().and_then(|rest| rest.split_once('?')) {
        findings.push(FieldError::invalid(at.path.clone(), query, "query parameters are not permitted in the URL"));
    }
}

fn webhook_service(findings: &mut Vec<FieldError>, at: &At<'_>) {
    for key in ["name", "namespace"] {
        if at.get(key).is_empty() {
            findings.push(at.get(key).required(""));
        }
    }
    let port = at.get("port");
    let wrong = port_problems(port.int().unwrap_or(443));
    if !wrong.is_empty() {
        findings.push(port.invalid(&format!("port is not valid: {}", wrong.join(", "))));
    }
    let path = at.get("path");
    if matches!(path.str(), "" | "/") {
        return;
    }
    let Some(inner) = path.str().strip_prefix('/') else {
        findings.push(path.invalid("must start with a '/'"));
        return;
    };
    for (index, step) in inner.strip_suffix('/').unwrap_or(inner).split('/').enumerate() {
        if step.is_empty() {
            findings.push(path.invalid(&format!("segment[{index}] may not be empty")));
            continue;
        }
        for problem in subdomain_problems(step) {
            findings.push(path.invalid(&format!("segment[{index}]: {problem}")));
        }
    }
}

/// Formats that nobody knows are no error, but probably a mistake.
pub fn warnings(object: &Value) -> Vec<String> {
    fn walk(schema: &Value, out: &mut Vec<String>) {
        let named = text(schema, "format");
        if !named.is_empty() && format::known(text(schema, "type"), named).is_empty() {
            let warning = format!("unrecognized format {named:?}");
            if !out.contains(&warning) && out.len() < 100 {
                out.push(warning);
            }
        }
        match schema {
            Value::Object(map) => map.iter().filter(|(key, _)| !matches!(key.as_str(), "default" | "enum" | "example")).for_each(|(_, inner)| walk(inner, out)),
            Value::Array(items) => items.iter().for_each(|inner| walk(inner, out)),
            _ => {}
        }
    }
    let mut out = Vec::new();
    for version in list(object, "spec.versions") {
        walk(find(version, "schema.openAPIV3Schema"), &mut out);
    }
    out
}
