//! One version of a custom resource, as everything else sees a kind.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::jsonpath::JsonPath;
use super::rules::{self, Rules};
use super::schema::Schema;
use super::{check, defaulting, lists, prune};
use crate::cursor::{find, list, text};
use crate::duration;
use crate::field::FieldError;
use crate::kind::{Column, Kind, Names, Part, Subresource, TypeMismatch};
use crate::kinds::{ALL_VERBS, NAME_COLUMN, SCALE};
use crate::validate::meta::{self, NameRule};
use crate::validate::text::qualified_name_problems;

const STATUS: Subresource =
    Subresource { name: "status", group: "", version: "", kind: "", verbs: &["get", "patch", "update"] };

/// Where a definition's conversion is done.
#[derive(Debug, Clone, PartialEq)]
pub struct Webhook {
    /// `spec.conversion.webhook.clientConfig`
    pub config: Value,
    /// Versions of ConversionReview that it understands, the preferred one first.
    pub review_versions: Vec<String>,
}

/// What all versions of a custom resource share.
#[derive(Debug, Default)]
pub struct Shared {
    /// The definition's name: `PLURAL.GROUP`.
    pub definition: String,
    /// Its resourceVersion.
    pub revision: u64,
    /// The version that objects are stored in.
    pub storage_version: String,
    /// Converts between versions; without it only apiVersion changes.
    pub webhook: Option<Webhook>,
    /// Whether the definition is being deleted: nothing new is made then.
    pub terminating: bool,
    group: String,
    kind: String,
    list_kind: String,
    plural: String,
    singular: String,
    short_names: Vec<String>,
    categories: Vec<String>,
    namespaced: bool,
}

/// Where the numbers of the scale subresource stand.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Scale {
    /// `specReplicasPath`, as written and parsed.
    pub spec: (String, JsonPath),
    /// `statusReplicasPath`
    pub status: (String, JsonPath),
    /// `labelSelectorPath`
    pub selector: Option<JsonPath>,
}

#[derive(Debug)]
struct OwnColumn {
    name: String,
    r#type: String,
    format: String,
    description: String,
    priority: i32,
    path: JsonPath,
}

/// One version of a custom resource.
#[derive(Debug)]
pub struct CustomKind {
    /// What its versions share.
    pub shared: Arc<Shared>,
    /// `v1`
    pub version: String,
    /// What its objects look like.
    pub schema: Schema,
    /// The same as written.
    pub written: Value,
    rules: Rules,
    /// Whether status is written separately.
    pub status: bool,
    /// Whether there is a scale, and where.
    pub scale: Option<Scale>,
    /// Tells apart what definitions have said of this version: an object that was shown under one state is not shown as
    /// such under another. Does not change with a definition's status.
    pub serial: u64,
    columns: Vec<OwnColumn>,
    selectable: Vec<(String, JsonPath)>,
    subresources: &'static [Subresource],
    deprecation: Option<String>,
}

fn texts(value: &Value, path: &str) -> Vec<String> {
    list(value, path).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn shared(object: &Value) -> Shared {
    let spec = find(object, "spec");
    let names = find(object, "status.acceptedNames");
    let own = |key: &str| text(names, key).to_owned();
    let conversion = find(spec, "conversion");
    let webhook = (text(conversion, "strategy") == "Webhook").then(|| Webhook {
        config: find(conversion, "webhook.clientConfig").clone(),
        review_versions: texts(conversion, "webhook.conversionReviewVersions"),
    });
    Shared {
        definition: text(object, "metadata.name").to_owned(),
        revision: text(object, "metadata.resourceVersion").parse().unwrap_or_default(),
        storage_version: super::definition::storage_version(object).to_owned(),
        webhook,
        terminating: !text(object, "metadata.deletionTimestamp").is_empty(),
        group: text(spec, "group").to_owned(),
        kind: own("kind"),
        list_kind: own("listKind"),
        plural: own("plural"),
        singular: own("singular"),
        short_names: texts(names, "shortNames"),
        categories: texts(names, "categories"),
        namespaced: text(spec, "scope") == "Namespaced",
    }
}

/// All versions that a definition serves, in the order in which clients prefer them. None where it is not established.
/// Versions whose schema cannot be used are named in the error list and left out.
pub fn of_definition(object: &Value) -> (Vec<CustomKind>, Vec<String>) {
    let (mut kinds, mut problems) = (Vec::new(), Vec::new());
    if !super::definition::is_true(object, "Established") {
        return (kinds, problems);
    }
    let shared = Arc::new(shared(object));
    let mut said = DefaultHasher::new();
    for part in [find(object, "metadata.uid"), find(object, "spec"), find(object, "status.acceptedNames")] {
        part.to_string().hash(&mut said);
    }
    for version in list(object, "spec.versions").iter().filter(|version| find(version, "served") == &json!(true)) {
        let mut said = said.clone();
        text(version, "name").hash(&mut said);
        match CustomKind::new(&shared, version, said.finish(), find(object, "spec.preserveUnknownFields") == &json!(true)) {
            Ok(kind) => kinds.push(kind),
            Err(problem) => problems.push(format!("{} {}: {problem}", shared.definition, text(version, "name"))),
        }
    }
    kinds.sort_by(|a, b| super::registry::preferred(&a.version, &b.version));
    (kinds, problems)
}

impl CustomKind {
    fn new(shared: &Arc<Shared>, version: &Value, serial: u64, preserve: bool) -> Result<Self, String> {
        let written = find(version, "schema.openAPIV3Schema").clone();
        let mut schema = Schema::compile(&written)?;
        schema.embedded = true;
        schema.preserve |= preserve || !written.is_object();
        let (rules, wrong) = rules::compile("schema", &schema, &written);
        if let Some(wrong) = wrong.first() {
            return Err(wrong.to_string());
        }
        let status = find(version, "subresources.status").is_object();
        let scale = scale(find(version, "subresources.scale"))?;
        let subresources: &'static [Subresource] = match (status, scale.is_some()) {
            (false, false) => &[],
            (true, false) => &[STATUS],
            (false, true) => &[SCALE],
            (true, true) => &[STATUS, SCALE],
        };
        let mut columns = Vec::new();
        for column in list(version, "additionalPrinterColumns") {
            columns.push(OwnColumn::new(column)?);
        }
        if columns.is_empty() {
            columns.push(OwnColumn::age()?);
        }
        let mut selectable = Vec::new();
        for field in list(version, "selectableFields") {
            let path = text(field, "jsonPath");
            selectable.push((path.trim_start_matches('.').to_owned(), JsonPath::parse(path)?));
        }
        let name = text(version, "name").to_owned();
        let deprecation = (find(version, "deprecated") == &json!(true)).then(|| match text(version, "deprecationWarning") {
            "" => format!("{}/{name} {} is deprecated", shared.group, shared.kind),
            warning => warning.to_owned(),
        });
        Ok(Self {
            shared: shared.clone(),
            version: name,
            schema,
            written,
            rules,
            status,
            scale,
            serial,
            columns,
            selectable,
            subresources,
            deprecation,
        })
    }

    /// What every request for a deprecated version is warned of.
    pub fn deprecation(&self) -> Option<&str> {
        self.deprecation.as_deref()
    }

    /// `apiVersion` of objects as they are stored.
    pub fn storage_api_version(&self) -> String {
        crate::meta::api_version(&self.shared.group, &self.shared.storage_version)
    }

    /// Brings an object that was converted to this version into the form in which it is shown: what the schema does not
    /// know is gone, defaults are there.
    pub fn show(&self, object: &mut Value) {
        if let Value::Object(map) = object {
            map.insert("kind".to_owned(), self.shared.kind.clone().into());
            map.insert("apiVersion".to_owned(), self.gvk().api_version().into());
        }
        prune::prune(object, &self.schema);
        self.fill(object);
    }

    fn fill(&self, object: &mut Value) {
        defaulting::prune_nulls(object, Some(&self.schema));
        defaulting::default(object, &self.schema);
    }

    /// Replicas must be numbers that a scale can show.
    fn check_scale(&self, object: &Value, spec: bool) -> Vec<FieldError> {
        let Some(scale) = &self.scale else { return Vec::new() };
        let mut findings = Vec::new();
        let mut check = |(written, path): &(String, JsonPath)| {
            let Some(value) = path.first(object) else { return };
            match value.as_i64() {
                Some(number) if number < 0 => {
                    findings.push(FieldError::invalid(written.clone(), value.clone(), "should be a non-negative integer"));
                }
                Some(number) if number > i64::from(i32::MAX) => {
                    let detail = format!("should be less than or equal to {}", i32::MAX);
                    findings.push(FieldError::invalid(written.clone(), value.clone(), &detail));
                }
                Some(_) => {}
                None => findings.push(FieldError::invalid(written.clone(), value.clone(), "should be a non-negative integer")),
            }
        };
        if spec {
            check(&scale.spec);
        }
        check(&scale.status);
        findings
    }

    fn check_value(&self, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let mut findings = check::validate("", &self.schema, new, old);
        findings.extend(self.check_scale(new, true));
        embedded("", &self.schema, new, &mut findings);
        self.check_lists(new, old, &mut findings);
        findings.extend(self.rules.evaluate(&self.schema, new, old, &findings));
        findings
    }

    fn check_lists(&self, new: &Value, old: Option<&Value>, findings: &mut Vec<FieldError>) {
        // What was wrong before may stay so.
        if old.is_none_or(|old| lists::validate("", &self.schema, old).is_empty()) {
            findings.extend(lists::validate("", &self.schema, new));
        }
    }
}

/// Objects within objects must say what they are.
fn embedded(path: &str, schema: &Schema, value: &Value, findings: &mut Vec<FieldError>) {
    let child = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match value {
        Value::Object(map) => {
            if schema.embedded && !path.is_empty() {
                for name in ["apiVersion", "kind"] {
                    if map.get(name).and_then(Value::as_str).unwrap_or_default().is_empty() {
                        findings.push(FieldError::required(child(name), "must not be empty"));
                    }
                }
            }
            for (name, inner) in map {
                if let Some(schema) = schema.member(name) {
                    embedded(&child(name), schema, inner, findings);
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = &schema.items {
                items.iter().enumerate().for_each(|(index, item)| embedded(&format!("{path}[{index}]"), schema, item, findings));
            }
        }
        _ => {}
    }
}

fn scale(value: &Value) -> Result<Option<Scale>, String> {
    if !value.is_object() {
        return Ok(None);
    }
    let path = |key: &str| -> Result<(String, JsonPath), String> {
        Ok((text(value, key).to_owned(), JsonPath::parse(text(value, key))?))
    };
    let selector = match text(value, "labelSelectorPath") {
        "" => None,
        written => Some(JsonPath::parse(written)?),
    };
    Ok(Some(Scale { spec: path("specReplicasPath")?, status: path("statusReplicasPath")?, selector }))
}

impl OwnColumn {
    fn new(value: &Value) -> Result<Self, String> {
        let name = text(value, "name").to_owned();
        let description = match text(value, "description") {
            "" => format!("Custom resource definition column (in JSONPath format): {}", text(value, "jsonPath")),
            given => given.to_owned(),
        };
        Ok(Self {
            name,
            r#type: text(value, "type").to_owned(),
            format: text(value, "format").to_owned(),
            description,
            priority: find(value, "priority").as_i64().and_then(|number| i32::try_from(number).ok()).unwrap_or_default(),
            path: JsonPath::parse(text(value, "jsonPath"))?,
        })
    }

    fn age() -> Result<Self, String> {
        Self::new(&json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp",
            "description": "CreationTimestamp is a timestamp representing the server time when this object was created."}))
    }

    fn cell(&self, object: &Value, now: Timestamp) -> Value {
        let Some(value) = self.path.first(object) else { return Value::Null };
        #[expect(clippy::cast_possible_truncation, reason = "a float that is shown as a whole number")]
        match (self.r#type.as_str(), value) {
            ("string", Value::String(text)) => text.clone().into(),
            ("string", other) => other.to_string().into(),
            ("integer", Value::Number(number)) => number.as_i64().or_else(|| number.as_f64().map(|number| number as i64)).into(),
            ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => value.clone(),
            ("date", Value::String(text)) => {
                duration::parse(text).map_or_else(|| "<invalid>".to_owned(), |then| duration::since(then, now)).into()
            }
            _ => Value::Null,
        }
    }
}

/// Members that are neither the object's identity nor its status.
fn same_but_metadata(new: &Value, old: &Value) -> bool {
    let bare = |object: &Value| -> Map<String, Value> {
        let mut map = object.as_object().cloned().unwrap_or_default();
        map.remove("metadata");
        map
    };
    bare(new) == bare(old)
}

impl Kind for CustomKind {
    fn names(&self) -> Names<'_> {
        let shared = &self.shared;
        Names {
            group: &shared.group,
            version: &self.version,
            kind: &shared.kind,
            list_kind: &shared.list_kind,
            plural: &shared.plural,
            singular: &shared.singular,
            short_names: &[],
            categories: &[],
        }
    }
    fn short_names(&self) -> Vec<&str> {
        self.shared.short_names.iter().map(String::as_str).collect()
    }
    fn categories(&self) -> Vec<&str> {
        self.shared.categories.iter().map(String::as_str).collect()
    }
    fn custom(&self) -> Option<&CustomKind> {
        Some(self)
    }
    fn namespaced(&self) -> bool {
        self.shared.namespaced
    }
    fn verbs(&self) -> &'static [&'static str] {
        ALL_VERBS
    }
    fn subresources(&self) -> &'static [Subresource] {
        self.subresources
    }
    fn has_generation(&self) -> bool {
        true
    }
    fn unconditional_update(&self) -> bool {
        false
    }
    fn create_on_update(&self) -> bool {
        false
    }
    fn delete_returns_object(&self) -> bool {
        false
    }

    fn check(&self, object: &mut Value) -> Result<Vec<String>, TypeMismatch> {
        let mut unknown = prune::coerce_metadata(object, &self.schema)?;
        unknown.extend(prune::prune(object, &self.schema));
        if let Value::Object(map) = object {
            map.insert("kind".to_owned(), self.shared.kind.clone().into());
            map.insert("apiVersion".to_owned(), self.gvk().api_version().into());
            map.entry("metadata").or_insert_with(|| json!({}));
        }
        Ok(unknown)
    }

    fn default(&self, object: &mut Value) {
        self.fill(object);
    }

    fn prepare_create(&self, object: &mut Value) {
        if let (true, Value::Object(map)) = (self.status, &mut *object) {
            map.remove("status");
        }
        if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
            metadata.insert("generation".to_owned(), 1.into());
        }
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, part: Part<'_>) {
        if part == Part::Status {
            let status = new.get("status").cloned();
            let managers = new.pointer("/metadata/managedFields").cloned();
            new.clone_from(old);
            if let Value::Object(map) = new {
                match status {
                    Some(status) => map.insert("status".to_owned(), status),
                    None => map.remove("status"),
                };
            }
            if let Some(Value::Object(metadata)) = new.get_mut("metadata") {
                match managers {
                    Some(managers) => metadata.insert("managedFields".to_owned(), managers),
                    None => metadata.remove("managedFields"),
                };
            }
            return;
        }
        if let (true, Value::Object(map)) = (self.status, &mut *new) {
            match old.get("status") {
                Some(status) => map.insert("status".to_owned(), status.clone()),
                None => map.remove("status"),
            };
        }
        if !same_but_metadata(new, old) {
            let generation = find(old, "metadata.generation").as_i64().unwrap_or_default() + 1;
            new["metadata"]["generation"] = generation.into();
        }
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let mut findings = meta::validate(object, self.shared.namespaced, NameRule::Subdomain);
        findings.extend(self.check_value(object, None));
        findings
    }

    fn validate_update(&self, new: &Value, old: &Value, part: Part<'_>) -> Vec<FieldError> {
        let mut findings = meta::validate_update(new, old);
        if part == Part::Status {
            if let (Some(status), Some(schema)) = (new.get("status"), self.schema.properties.get("status")) {
                findings.extend(check::validate("status", schema, status, old.get("status")));
            }
            findings.extend(self.check_scale(new, false));
            self.check_lists(new, Some(old), &mut findings);
            findings.extend(self.rules.evaluate(&self.schema, new, Some(old), &findings));
        } else {
            findings.extend(self.check_value(new, Some(old)));
        }
        findings
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        let mut warnings = Vec::new();
        for name in list(object, "metadata.finalizers").iter().filter_map(Value::as_str) {
            let standard = matches!(name, "orphan" | "foregroundDeletion" | "kubernetes");
            if !name.contains('/') && !standard && qualified_name_problems(name).is_empty() {
                let path = if name.contains('.') { " including a path (/)" } else { "" };
                warnings.push(format!(
                    "metadata.finalizers: {name:?}: prefer a domain-qualified finalizer name{path} to avoid accidental \
                     conflicts with other finalizer writers"
                ));
            }
        }
        warnings
    }

    fn columns(&self) -> Cow<'_, [Column<'_>]> {
        let own = self.columns.iter().map(|column| Column {
            name: &column.name,
            r#type: &column.r#type,
            format: &column.format,
            description: &column.description,
            priority: column.priority,
        });
        std::iter::once(NAME_COLUMN).chain(own).collect()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let name = std::iter::once(Value::from(text(object, "metadata.name")));
        name.chain(self.columns.iter().map(|column| column.cell(object, now))).collect()
    }

    fn selectable_fields(&self) -> Cow<'_, [&str]> {
        self.selectable.iter().map(|(name, _)| name.as_str()).collect()
    }

    fn selectable(&self, object: &Value, field: &str) -> String {
        let path = self.selectable.iter().find(|(name, _)| name == field).map(|(_, path)| path);
        match path.and_then(|path| path.first(object)) {
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => String::new(),
        }
    }
}
