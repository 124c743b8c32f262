//! Which objects of a resource a reader asked for: a namespace, labels, fields. Pure.

use balsa_api::kind::Kind;
use balsa_api::selector::{FieldSelector, LabelSelector};
use balsa_api::status::ApiResult;

use super::object::Object;

/// A field that a selector asks for.
#[derive(Clone)]
enum Field {
    Name,
    Namespace,
    /// The place among the kind's selectable fields.
    Own(usize),
}

/// A reader's choice.
#[derive(Clone)]
pub struct Selection {
    /// Empty: all namespaces.
    pub namespace: String,
    labels: LabelSelector,
    fields: FieldSelector,
    /// The fields of the selector's terms.
    asked: Vec<Field>,
}

impl Selection {
    /// Parses the selectors of a request; 400 for what cannot be asked of this kind.
    pub fn parse(kind: &dyn Kind, namespace: &str, labels: &str, fields: &str) -> ApiResult<Self> {
        let labels = LabelSelector::parse(labels)?;
        let fields = FieldSelector::parse(fields)?;
        fields.check(kind)?;
        let known = kind.selectable_fields();
        let place = |field: &str| known.iter().position(|known| *known == field).unwrap_or(usize::MAX);
        let asked = fields.terms.iter().map(|(field, ..)| match field.as_str() {
            "metadata.name" => Field::Name,
            "metadata.namespace" => Field::Namespace,
            other => Field::Own(place(other)),
        });
        let asked = asked.collect();
        Ok(Self { namespace: namespace.to_owned(), labels, fields, asked })
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
            && self.fields.terms.iter().zip(&self.asked).all(|((_, equal, value), field)| {
                let own = match field {
                    Field::Name => object.name.as_str(),
                    Field::Namespace => object.namespace.as_str(),
                    Field::Own(place) => object.fields.get(*place).map_or("", String::as_str),
                };
                (own == value) == *equal
            })
    }
}
