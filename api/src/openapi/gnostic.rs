//! The v2 document as protobuf, which kubectl asks for before it looks at a kind that it does not know.
//!
//! The messages are those of `openapi.v2` in gnostic-models' `OpenAPIv2.proto`, as far as [`super::v2`] uses them: field
//! numbers are from there. `oneof` members are spelled out as optional fields, which is the same on the wire.

use prost::Message;
use serde_json::{Map, Value};

/// Its media type.
pub const MEDIA_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

#[derive(Clone, PartialEq, Message)]
struct Document {
    #[prost(string, tag = "1")]
    swagger: String,
    #[prost(message, optional, tag = "2")]
    info: Option<Info>,
    #[prost(message, optional, tag = "8")]
    paths: Option<Paths>,
    #[prost(message, optional, tag = "9")]
    definitions: Option<Schemas>,
}

#[derive(Clone, PartialEq, Message)]
struct Info {
    #[prost(string, tag = "1")]
    title: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct Paths {
    #[prost(message, repeated, tag = "2")]
    path: Vec<NamedPath>,
}

#[derive(Clone, PartialEq, Message)]
struct NamedPath {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Path>,
}

#[derive(Clone, PartialEq, Message)]
struct Path {
    #[prost(message, optional, tag = "2")]
    get: Option<Operation>,
    #[prost(message, optional, tag = "3")]
    put: Option<Operation>,
    #[prost(message, optional, tag = "4")]
    post: Option<Operation>,
    #[prost(message, optional, tag = "5")]
    delete: Option<Operation>,
    #[prost(message, optional, tag = "8")]
    patch: Option<Operation>,
    #[prost(message, repeated, tag = "9")]
    parameters: Vec<ParameterItem>,
}

#[derive(Clone, PartialEq, Message)]
struct Operation {
    #[prost(string, repeated, tag = "1")]
    tags: Vec<String>,
    #[prost(string, tag = "5")]
    operation_id: String,
    #[prost(string, repeated, tag = "6")]
    produces: Vec<String>,
    #[prost(string, repeated, tag = "7")]
    consumes: Vec<String>,
    #[prost(message, repeated, tag = "8")]
    parameters: Vec<ParameterItem>,
    #[prost(message, optional, tag = "9")]
    responses: Option<Responses>,
    #[prost(message, repeated, tag = "13")]
    extensions: Vec<NamedAny>,
}

/// `ParametersItem`: a parameter or a reference to one; here always a parameter.
#[derive(Clone, PartialEq, Message)]
struct ParameterItem {
    #[prost(message, optional, tag = "1")]
    parameter: Option<Parameter>,
}

#[derive(Clone, PartialEq, Message)]
struct Parameter {
    #[prost(message, optional, tag = "1")]
    body: Option<BodyParameter>,
    #[prost(message, optional, tag = "2")]
    other: Option<NonBodyParameter>,
}

#[derive(Clone, PartialEq, Message)]
struct BodyParameter {
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    r#in: String,
    #[prost(bool, tag = "4")]
    required: bool,
    #[prost(message, optional, tag = "5")]
    schema: Option<Schema>,
}

#[derive(Clone, PartialEq, Message)]
struct NonBodyParameter {
    #[prost(message, optional, tag = "3")]
    query: Option<QueryParameter>,
    #[prost(message, optional, tag = "4")]
    path: Option<PathParameter>,
}

#[derive(Clone, PartialEq, Message)]
struct QueryParameter {
    #[prost(bool, tag = "1")]
    required: bool,
    #[prost(string, tag = "2")]
    r#in: String,
    #[prost(string, tag = "4")]
    name: String,
    #[prost(string, tag = "6")]
    r#type: String,
    #[prost(bool, tag = "20")]
    unique_items: bool,
}

#[derive(Clone, PartialEq, Message)]
struct PathParameter {
    #[prost(bool, tag = "1")]
    required: bool,
    #[prost(string, tag = "2")]
    r#in: String,
    #[prost(string, tag = "4")]
    name: String,
    #[prost(string, tag = "5")]
    r#type: String,
    #[prost(bool, tag = "19")]
    unique_items: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Responses {
    #[prost(message, repeated, tag = "1")]
    codes: Vec<NamedResponse>,
}

#[derive(Clone, PartialEq, Message)]
struct NamedResponse {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<ResponseValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ResponseValue {
    #[prost(message, optional, tag = "1")]
    response: Option<Response>,
}

#[derive(Clone, PartialEq, Message)]
struct Response {
    #[prost(string, tag = "1")]
    description: String,
    #[prost(message, optional, tag = "2")]
    schema: Option<SchemaItem>,
}

/// A schema where something else could stand: `SchemaItem`, `AdditionalPropertiesItem`.
#[derive(Clone, PartialEq, Message)]
struct SchemaItem {
    #[prost(message, optional, boxed, tag = "1")]
    schema: Option<Box<Schema>>,
    #[prost(bool, tag = "2")]
    boolean: bool,
}

/// `Definitions` and `Properties`
#[derive(Clone, PartialEq, Message)]
struct Schemas {
    #[prost(message, repeated, tag = "1")]
    all: Vec<NamedSchema>,
}

#[derive(Clone, PartialEq, Message)]
struct NamedSchema {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Schema>,
}

#[derive(Clone, PartialEq, Message)]
struct Schema {
    #[prost(string, tag = "1")]
    reference: String,
    #[prost(string, tag = "2")]
    format: String,
    #[prost(string, tag = "3")]
    title: String,
    #[prost(string, tag = "4")]
    description: String,
    #[prost(message, optional, tag = "5")]
    default: Option<Any>,
    #[prost(double, tag = "6")]
    multiple_of: f64,
    #[prost(double, tag = "7")]
    maximum: f64,
    #[prost(bool, tag = "8")]
    exclusive_maximum: bool,
    #[prost(double, tag = "9")]
    minimum: f64,
    #[prost(bool, tag = "10")]
    exclusive_minimum: bool,
    #[prost(int64, tag = "11")]
    max_length: i64,
    #[prost(int64, tag = "12")]
    min_length: i64,
    #[prost(string, tag = "13")]
    pattern: String,
    #[prost(int64, tag = "14")]
    max_items: i64,
    #[prost(int64, tag = "15")]
    min_items: i64,
    #[prost(int64, tag = "17")]
    max_properties: i64,
    #[prost(int64, tag = "18")]
    min_properties: i64,
    #[prost(string, repeated, tag = "19")]
    required: Vec<String>,
    #[prost(message, repeated, tag = "20")]
    r#enum: Vec<Any>,
    #[prost(message, optional, tag = "21")]
    additional_properties: Option<SchemaItem>,
    #[prost(message, optional, tag = "22")]
    r#type: Option<Types>,
    #[prost(message, optional, tag = "23")]
    items: Option<Items>,
    #[prost(message, optional, tag = "25")]
    properties: Option<Schemas>,
    #[prost(message, repeated, tag = "31")]
    extensions: Vec<NamedAny>,
}

#[derive(Clone, PartialEq, Message)]
struct Types {
    #[prost(string, repeated, tag = "1")]
    value: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Items {
    #[prost(message, repeated, tag = "1")]
    schema: Vec<Schema>,
}

#[derive(Clone, PartialEq, Message)]
struct NamedAny {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Any>,
}

#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "2")]
    yaml: String,
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

fn flag(value: &Value, key: &str) -> bool {
    value[key].as_bool().unwrap_or_default()
}

fn list<T>(value: &Value, of: impl Fn(&Value) -> T) -> Vec<T> {
    value.as_array().into_iter().flatten().map(of).collect()
}

fn texts(value: &Value) -> Vec<String> {
    list(value, |item| item.as_str().unwrap_or_default().to_owned())
}

fn members<T>(value: &Value, of: impl Fn(&str, &Value) -> T) -> Vec<T> {
    value.as_object().into_iter().flatten().map(|(name, value)| of(name, value)).collect()
}

/// What begins with `x-`, as YAML; JSON is YAML.
fn extensions(map: &Map<String, Value>) -> Vec<NamedAny> {
    let ours = map.iter().filter(|(name, _)| name.starts_with("x-"));
    ours.map(|(name, value)| NamedAny { name: name.clone(), value: Some(Any { yaml: format!("{value}\n") }) }).collect()
}

fn schemas(value: &Value) -> Option<Schemas> {
    value.is_object().then(|| Schemas {
        all: members(value, |name, value| NamedSchema { name: name.to_owned(), value: Some(schema(value)) }),
    })
}

fn yaml(value: &Value) -> Any {
    Any { yaml: format!("{value}\n") }
}

/// The depth is that of the table of types, or of a definition's schema: bounded.
fn schema(value: &Value) -> Schema {
    let one = |key: &str| value.get(key).filter(|inner| inner.is_object()).map(schema);
    let float = |key: &str| value[key].as_f64().unwrap_or_default();
    let count = |key: &str| value[key].as_i64().unwrap_or_default();
    let additional = match &value["additionalProperties"] {
        Value::Bool(allowed) => Some(SchemaItem { schema: None, boolean: *allowed }),
        _ => one("additionalProperties").map(|schema| SchemaItem { schema: Some(Box::new(schema)), boolean: false }),
    };
    Schema {
        reference: text(value, "$ref"),
        format: text(value, "format"),
        title: text(value, "title"),
        description: text(value, "description"),
        default: value.get("default").map(yaml),
        multiple_of: float("multipleOf"),
        maximum: float("maximum"),
        exclusive_maximum: flag(value, "exclusiveMaximum"),
        minimum: float("minimum"),
        exclusive_minimum: flag(value, "exclusiveMinimum"),
        max_length: count("maxLength"),
        min_length: count("minLength"),
        pattern: text(value, "pattern"),
        max_items: count("maxItems"),
        min_items: count("minItems"),
        max_properties: count("maxProperties"),
        min_properties: count("minProperties"),
        required: texts(&value["required"]),
        r#enum: list(&value["enum"], yaml),
        additional_properties: additional,
        r#type: value["type"].as_str().map(|name| Types { value: vec![name.to_owned()] }),
        items: one("items").map(|schema| Items { schema: vec![schema] }),
        properties: schemas(&value["properties"]),
        extensions: value.as_object().map(extensions).unwrap_or_default(),
    }
}

fn parameter(value: &Value) -> ParameterItem {
    let (name, r#in, r#type) = (text(value, "name"), text(value, "in"), text(value, "type"));
    let (required, unique_items) = (flag(value, "required"), flag(value, "uniqueItems"));
    let other = |query, path| Parameter { body: None, other: Some(NonBodyParameter { query, path }) };
    let parameter = match r#in.as_str() {
        "body" => {
            let schema = Some(schema(&value["schema"]));
            Parameter { body: Some(BodyParameter { name, r#in, required, schema }), other: None }
        }
        "path" => other(None, Some(PathParameter { required, r#in, name, r#type, unique_items })),
        _ => other(Some(QueryParameter { required, r#in, name, r#type, unique_items }), None),
    };
    ParameterItem { parameter: Some(parameter) }
}

fn response(name: &str, value: &Value) -> NamedResponse {
    let schema = value.get("schema").map(|value| SchemaItem { schema: Some(Box::new(schema(value))), boolean: false });
    let response = Response { description: text(value, "description"), schema };
    NamedResponse { name: name.to_owned(), value: Some(ResponseValue { response: Some(response) }) }
}

fn operation(value: &Value) -> Option<Operation> {
    let map = value.as_object()?;
    Some(Operation {
        tags: texts(&value["tags"]),
        operation_id: text(value, "operationId"),
        produces: texts(&value["produces"]),
        consumes: texts(&value["consumes"]),
        parameters: list(&value["parameters"], parameter),
        responses: Some(Responses { codes: members(&value["responses"], response) }),
        extensions: extensions(map),
    })
}

fn path(name: &str, value: &Value) -> NamedPath {
    let of = |method: &str| operation(&value[method]);
    let value = Path {
        get: of("get"),
        put: of("put"),
        post: of("post"),
        delete: of("delete"),
        patch: of("patch"),
        parameters: list(&value["parameters"], parameter),
    };
    NamedPath { name: name.to_owned(), value: Some(value) }
}

/// The part of a document that custom resources add. Messages of one kind that follow each other are one message: the
/// bytes go behind those of [`encode`].
pub fn encode_part(paths: &Map<String, Value>, definitions: &Map<String, Value>) -> Vec<u8> {
    let named = |(name, value): (&String, &Value)| NamedSchema { name: name.clone(), value: Some(schema(value)) };
    let document = Document {
        paths: Some(Paths { path: paths.iter().map(|(name, value)| path(name, value)).collect() }),
        definitions: Some(Schemas { all: definitions.iter().map(named).collect() }),
        ..Document::default()
    };
    document.encode_to_vec()
}

/// A document that [`super::v2`] made.
pub fn encode(document: &Value) -> Vec<u8> {
    let info = Info { title: text(&document["info"], "title"), version: text(&document["info"], "version") };
    let document = Document {
        swagger: text(document, "swagger"),
        info: Some(info),
        paths: Some(Paths { path: members(&document["paths"], path) }),
        definitions: schemas(&document["definitions"]),
    };
    document.encode_to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_of_the_document_is_there() {
        let json = super::super::v2();
        let back = Document::decode(encode(&json).as_slice()).expect("decodes");
        let paths = back.paths.expect("paths").path;
        assert_eq!(paths.len(), json["paths"].as_object().expect("paths").len());
        let pods = paths.iter().find(|path| path.name == "/api/v1/namespaces/{namespace}/pods/{name}").expect("pods");
        let patch = pods.value.as_ref().and_then(|path| path.patch.as_ref()).expect("patch");
        assert!(patch.extensions.iter().any(|any| {
            any.name == "x-kubernetes-group-version-kind" && any.value.as_ref().is_some_and(|any| any.yaml.contains("\"Pod\""))
        }));
        let definitions = back.definitions.expect("definitions").all;
        assert_eq!(definitions.len(), json["definitions"].as_object().expect("definitions").len());
        let spec = definitions.iter().find(|one| one.name == "io.k8s.api.core.v1.PodSpec").expect("PodSpec");
        let properties = spec.value.as_ref().and_then(|spec| spec.properties.as_ref()).expect("properties");
        let containers = properties.all.iter().find(|one| one.name == "containers").and_then(|one| one.value.as_ref());
        let item = containers.and_then(|schema| schema.items.as_ref()).expect("items");
        assert_eq!(item.schema[0].reference, "#/definitions/io.k8s.api.core.v1.Container");
    }

    /// A key that the converter does not know would be lost without a word.
    #[test]
    fn no_key_of_a_schema_is_left_out() {
        const KNOWN: [&str; 7] = ["$ref", "format", "description", "required", "additionalProperties", "type", "items"];
        fn look(value: &Value) {
            let map = value.as_object().expect("a schema");
            for (key, inner) in map {
                match key.as_str() {
                    "properties" => inner.as_object().expect("properties").values().for_each(look),
                    "items" | "additionalProperties" => look(inner),
                    key => assert!(KNOWN.contains(&key) || key.starts_with("x-"), "{key}"),
                }
            }
        }
        super::super::v2()["definitions"].as_object().expect("definitions").values().for_each(look);
    }
}
