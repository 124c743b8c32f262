//! What an expression may name: variables with their types, object types with their fields, optional libraries.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::types::Type;

/// Tells the fields of object types, one at a time, so that recursive types need no end.
pub trait TypeProvider: Send + Sync {
    /// The type of a field, or none where the type has no such field.
    fn field(&self, object: &str, field: &str) -> Option<Type>;

    /// Whether an expression may make such an object: `Name{field: value}`.
    fn constructible(&self, object: &str) -> bool {
        let _ = object;
        false
    }
}

/// What an expression is compiled against.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, Type>,
    objects: BTreeMap<String, BTreeMap<String, Type>>,
    providers: Vec<Arc<dyn TypeProvider>>,
    json_patch: bool,
}

impl Environment {
    /// An environment with Kubernetes' function libraries and no variables.
    pub fn new() -> Self {
        Self::default()
    }

    /// Declares a variable.
    #[must_use]
    pub fn variable(mut self, name: &str, of: Type) -> Self {
        self.variables.insert(name.to_owned(), of);
        self
    }

    /// Declares an object type by its fields; a second call adds fields.
    #[must_use]
    pub fn object<'a>(mut self, name: &str, fields: impl IntoIterator<Item = (&'a str, Type)>) -> Self {
        let known = self.objects.entry(name.to_owned()).or_default();
        known.extend(fields.into_iter().map(|(field, of)| (field.to_owned(), of)));
        self
    }

    /// Adds a source of object types.
    #[must_use]
    pub fn provider(mut self, provider: Arc<dyn TypeProvider>) -> Self {
        self.providers.push(provider);
        self
    }

    /// Adds the functions for JSON patches: `jsonpatch.escapeKey`.
    #[must_use]
    pub fn json_patch(mut self) -> Self {
        self.json_patch = true;
        self
    }

    pub(crate) fn type_of(&self, variable: &str) -> Option<&Type> {
        self.variables.get(variable)
    }

    pub(crate) fn field(&self, object: &str, field: &str) -> Option<Type> {
        let declared = self.objects.get(object).and_then(|fields| fields.get(field)).cloned();
        declared.or_else(|| self.providers.iter().find_map(|provider| provider.field(object, field)))
    }

    pub(crate) fn constructible(&self, object: &str) -> bool {
        self.providers.iter().any(|provider| provider.constructible(object))
    }

    /// Whether a function of the table is there for this environment.
    pub(crate) fn has_function(&self, name: &str) -> bool {
        self.json_patch || !name.starts_with("jsonpatch.")
    }
}
