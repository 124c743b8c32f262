//! Which objects of a resource a reader asked for: a namespace, labels, fields. Pure.

use balsa_api::kind::Kind;
use balsa_api::selector::{FieldSelector, LabelSelector};
use balsa_api::status::ApiResult;

use super::object::Object;

/// A reader's choice.
#[derive(Clone)]
pub struct Selection {
    /// Empty: all namespaces.
    pub namespace: String,
    labels: LabelSelector,
    fields: FieldSelector,
    kind: &dyn Kind,
}

impl Selection {
    /// Parses the selectors of a request; 400 for what cannot be asked of this kind.
    pub fn parse(kind: &dyn Kind, namespace: &str, labels: &str, fields: &str) -> ApiResult<Self> {
        let labels = LabelSelector::parse(labels)?;
        let fields = FieldSelector::parse(fields)?;
        fields.check(kind)?;
        Ok(Self { namespace: namespace.to_owned(), labels, fields, kind })
    }

    /// Whether everything in the namespace is chosen.
    pub fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// The one name that is asked for, if it is one.
    pub fn single_name(&self) -> Option<&str> {
        self.fields.exact("metadata.name")
    }

    /// Whether the object is chosen.
    pub fn matches(&self, object: &Object) -> bool {
        (self.namespace.is_empty() || self.namespace == object.namespace)
            && self.labels.matches_labels(|key| object.labels.get(key).map(String::as_str))
            && self.fields.terms.iter().all(|(field, equal, value)| (object.field(self.kind, field) == value) == *equal)
    }
}
