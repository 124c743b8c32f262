//! Which resources the API serves besides those built in: what CustomResourceDefinitions say, and nothing more of these
//! is kept.

use balsa_api::apiextensions::{definition, registry};
use balsa_api::cursor::{find, list, text};
use balsa_api::meta::GroupVersionResource;
use balsa_client::{Client, Decode, Error, ListParams};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize as _;
use serde_json::Value;

const PAGE: u64 = 100;

/// A definition.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    /// Its metadata, without what nobody asks for.
    pub metadata: ObjectMeta,
    /// The resource that it makes, once it is established.
    pub served: Option<Served>,
}

/// A custom resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// Where it is served, in the version that clients prefer.
    pub resource: GroupVersionResource,
    /// What its objects call themselves.
    pub kind: String,
    /// All versions in which it is served.
    pub versions: Vec<String>,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
}

/// Where definitions are served.
pub fn resource() -> GroupVersionResource {
    GroupVersionResource::new("apiextensions.k8s.io", "v1", "customresourcedefinitions")
}

fn served(object: &Value) -> Option<Served> {
    if !definition::is_true(object, "Established") {
        return None;
    }
    let served = list(object, "spec.versions").iter().filter(|version| find(version, "served") == &Value::Bool(true));
    let mut versions: Vec<String> = served.map(|version| text(version, "name").to_owned()).collect();
    versions.sort_by(|a, b| registry::preferred(a, b));
    let names = find(object, "status.acceptedNames");
    Some(Served {
        resource: GroupVersionResource::new(text(object, "spec.group"), versions.first()?, text(names, "plural")),
        kind: text(names, "kind").to_owned(),
        versions,
        namespaced: text(object, "spec.scope") == "Namespaced",
    })
}

impl Definition {
    fn from_value(object: &Value) -> Result<Self, Error> {
        let metadata = ObjectMeta::deserialize(find(object, "metadata")).map_err(|error| Error::Decode(format!("metadata: {error}")))?;
        let metadata = ObjectMeta { managed_fields: None, annotations: None, ..metadata };
        Ok(Self { metadata, served: served(object) })
    }
}

impl Decode for Definition {
    fn decode(body: &[u8]) -> Result<Self, Error> {
        let object: Value = serde_json::from_slice(body).map_err(|error| Error::Decode(error.to_string()))?;
        Self::from_value(&object)
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl Served {
    /// Whether objects of this type are its.
    pub fn is(&self, group: &str, version: &str, kind: &str) -> bool {
        self.resource.group == group && self.kind == kind && self.versions.iter().any(|own| own == version)
    }
}

/// All custom resources, as the apiserver knows them now.
pub async fn read(client: &Client) -> Result<Vec<Served>, Error> {
    let mut params = ListParams { limit: PAGE, ..ListParams::default() };
    let mut all = Vec::new();
    loop {
        let page = client.list_raw(&resource(), "", &params).await?;
        for object in &page.items {
            all.extend(served(object));
        }
        if page.continue_token.is_empty() {
            return Ok(all);
        }
        params.continue_token = page.continue_token;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_definition_serves() {
        let mut object = json!({"metadata": {"name": "as.g.io"}, "spec": {"group": "g.io", "scope": "Namespaced",
            "versions": [{"name": "v1beta1", "served": true}, {"name": "v1", "served": true}, {"name": "v2", "served": false}]},
            "status": {"acceptedNames": {"plural": "as", "kind": "A"}, "conditions": [{"type": "Established", "status": "True"}]}});
        let found = Definition::from_value(&object).expect("definition").served.expect("served");
        assert_eq!(found.resource, GroupVersionResource::new("g.io", "v1", "as"));
        assert!(found.namespaced && found.is("g.io", "v1beta1", "A") && !found.is("g.io", "v2", "A"));
        object["status"]["conditions"][0]["status"] = json!("False");
        assert_eq!(Definition::from_value(&object).expect("definition").served, None);
    }
}
