//! Reading an object while knowing where one is: a value with its field path, for validation messages.

use serde_json::Value;

use crate::field::FieldError;

static NULL: Value = Value::Null;

/// A value somewhere in an object. What is absent is a null there.
#[derive(Debug, Clone)]
pub struct At<'a> {
    /// `spec.containers[0].image`
    pub path: String,
    /// What stands there.
    pub value: &'a Value,
}

impl<'a> At<'a> {
    /// The object itself.
    pub fn root(value: &'a Value) -> Self {
        Self { path: String::new(), value }
    }

    /// A value at a path of the caller's choice.
    pub fn new(path: impl Into<String>, value: &'a Value) -> Self {
        Self { path: path.into(), value }
    }

    /// A member.
    pub fn get(&self, name: &str) -> Self {
        Self { path: self.sub(name), value: self.value.get(name).unwrap_or(&NULL) }
    }

    /// A member of a member; the path is written with dots.
    pub fn at(&self, path: &str) -> Self {
        path.split('.').fold(self.clone(), |at, name| at.get(name))
    }

    /// The path of a member.
    pub fn sub(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// The path of a map's entry.
    pub fn key(&self, key: &str) -> String {
        format!("{}[{key}]", self.path)
    }

    /// The items of a list; none where it is no list.
    pub fn items(&self) -> impl Iterator<Item = Self> + use<'a> {
        let path = self.path.clone();
        let items: &'a [Value] = self.value.as_array().map_or(&[], Vec::as_slice);
        items.iter().enumerate().map(move |(index, value)| Self { path: format!("{path}[{index}]"), value })
    }

    /// The entries of a map, with paths as in `limits[cpu]`.
    pub fn entries(&self) -> impl Iterator<Item = (&'a str, Self)> + use<'a> {
        let path = self.path.clone();
        self.value
            .as_object()
            .into_iter()
            .flatten()
            .map(move |(key, value)| (key.as_str(), Self { path: format!("{path}[{key}]"), value }))
    }

    /// Text; empty where there is none.
    pub fn str(&self) -> &'a str {
        self.value.as_str().unwrap_or_default()
    }

    /// A whole number, where there is one.
    pub fn int(&self) -> Option<i64> {
        self.value.as_i64()
    }

    /// A flag; false where there is none.
    pub fn is_true(&self) -> bool {
        self.value == &Value::Bool(true)
    }

    /// Whether anything stands here.
    pub fn is_set(&self) -> bool {
        !self.value.is_null()
    }

    /// Whether nothing, or an empty text, list or map stands here.
    pub fn is_empty(&self) -> bool {
        match self.value {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        }
    }

    /// How many items or entries stand here.
    pub fn len(&self) -> usize {
        match self.value {
            Value::Array(items) => items.len(),
            Value::Object(map) => map.len(),
            _ => 0,
        }
    }

    /// A finding about this value; what is absent is shown as empty text.
    pub fn invalid(&self, detail: &str) -> FieldError {
        let value = if self.value.is_null() { Value::String(String::new()) } else { self.value.clone() };
        FieldError::invalid(self.path.clone(), value, detail)
    }

    /// It is missing.
    pub fn required(&self, detail: &str) -> FieldError {
        FieldError::required(self.path.clone(), detail)
    }

    /// It may not be there.
    pub fn forbidden(&self, detail: &str) -> FieldError {
        FieldError::forbidden(self.path.clone(), detail)
    }

    /// It is none of those known. Kubernetes prints an absent text as `""`.
    pub fn not_supported(&self, supported: &[&str]) -> FieldError {
        let value = if self.value.is_null() { Value::String(String::new()) } else { self.value.clone() };
        FieldError::not_supported(self.path.clone(), value, supported)
    }

    /// It stands twice.
    pub fn duplicate(&self) -> FieldError {
        FieldError::duplicate(self.path.clone(), self.value.clone())
    }
}

/// Text at a path such as `status.phase`; empty where there is none.
pub fn text<'a>(object: &'a Value, path: &str) -> &'a str {
    find(object, path).as_str().unwrap_or_default()
}

/// The value at a path such as `status.phase`; null where there is none.
pub fn find<'a>(object: &'a Value, path: &str) -> &'a Value {
    path.split('.').try_fold(object, |value, name| value.get(name)).unwrap_or(&NULL)
}

/// The items at a path; none where there is no list.
pub fn list<'a>(object: &'a Value, path: &str) -> &'a [Value] {
    find(object, path).as_array().map_or(&[], Vec::as_slice)
}

/// Sets a member where it is absent or null.
pub fn set_default(object: &mut Value, name: &str, value: impl Into<Value>) {
    if let Value::Object(map) = object {
        match map.get(name) {
            None | Some(Value::Null) => {
                map.insert(name.to_owned(), value.into());
            }
            Some(_) => {}
        }
    }
}

/// Sets a member where it is absent, null or empty text.
pub fn set_default_text(object: &mut Value, name: &str, value: &str) {
    if object.get(name).and_then(Value::as_str).is_none_or(str::is_empty) && object.is_object() {
        object[name] = Value::from(value);
    }
}

/// Sets a number where it is absent, null or 0: where the Go type has no way to say "not given".
pub fn set_default_number(object: &mut Value, name: &str, value: i64) {
    if object.is_object() && object.get(name).is_none_or(|given| given.is_null() || given.as_i64() == Some(0)) {
        object[name] = Value::from(value);
    }
}

/// The member, where it is an object.
pub fn object_mut<'a>(object: &'a mut Value, name: &str) -> Option<&'a mut Value> {
    object.get_mut(name).filter(|value| value.is_object())
}

/// The member as an object, made where it is absent or null.
pub fn make_object<'a>(object: &'a mut Value, name: &str) -> &'a mut Value {
    if !object.is_object() {
        *object = Value::Object(serde_json::Map::new());
    }
    if object.get(name).is_none_or(|value| !value.is_object()) {
        object[name] = Value::Object(serde_json::Map::new());
    }
    &mut object[name]
}

/// The items of a list member.
pub fn items_mut<'a>(object: &'a mut Value, name: &str) -> &'a mut [Value] {
    object.get_mut(name).and_then(Value::as_array_mut).map_or(&mut [], Vec::as_mut_slice)
}
