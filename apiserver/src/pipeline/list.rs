//! Listing: which state is read, in which order, page by page.

use std::sync::Arc;

use balsa_api::field::FieldError;
use balsa_api::kind::Kind;
use balsa_api::meta::GroupVersionKind;
use balsa_api::status::{ApiError, ApiResult};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::read::Version;
use super::{Api, store_error, storage_resource};
use crate::storage::{StoreError, prefix_end, resource_prefix};
use crate::watch_cache::object::Object;
use crate::watch_cache::selection::Selection;
use crate::watch_cache::{Objects, select_namespace};

/// What a list asks for.
#[derive(Debug, Clone, Default)]
pub struct ListQuery {
    /// Empty: all namespaces.
    pub namespace: String,
    /// `labelSelector`
    pub labels: String,
    /// `fieldSelector`
    pub fields: String,
    /// 0: no limit.
    pub limit: usize,
    /// From the page before.
    pub continue_token: String,
    /// `resourceVersion`
    pub version: String,
    /// `resourceVersionMatch`
    pub version_match: String,
}

/// A page of a list.
#[derive(Debug)]
pub struct Listed {
    /// In key order.
    pub items: Vec<Arc<Object>>,
    /// The revision whose state this is.
    pub revision: u64,
    /// For the next page; empty on the last.
    pub continue_token: String,
    /// How many follow; only said without selectors.
    pub remaining: Option<u64>,
}

/// Where the next page begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Token {
    /// Revision of the first page; 0: go on with the newest state, without consistency.
    #[serde(rename = "rv")]
    revision: u64,
    /// The last place of the page before.
    #[serde(rename = "after")]
    after: String,
}

impl Token {
    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    fn decode(text: &str) -> ApiResult<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('='));
        bytes.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).ok_or_else(|| {
            ApiError::bad_request("continue key is not valid: the token was not issued by this server")
        })
    }
}

/// Which state to read.
#[derive(Debug, PartialEq, Eq)]
enum Source {
    /// The newest: as fresh as the store.
    Newest,
    /// What the cache has, once it has reached this revision.
    NotOlderThan(u64),
    /// The store's state at this revision.
    Exactly(u64),
}

/// The rules of resourceVersion and resourceVersionMatch. Pure.
fn source(query: &ListQuery) -> ApiResult<Source> {
    let version = Version::parse(&query.version)?;
    let refuse = |finding: FieldError| Err(ApiError::invalid(&list_options(), "", &[finding]));
    match (query.version_match.as_str(), version) {
        ("", Version::Newest) => Ok(Source::Newest),
        ("" | "NotOlderThan", Version::Any) => Ok(Source::NotOlderThan(0)),
        ("", Version::At(revision)) if query.limit > 0 => Ok(Source::Exactly(revision)),
        ("" | "NotOlderThan", Version::At(revision)) => Ok(Source::NotOlderThan(revision)),
        ("Exact", Version::At(revision)) => Ok(Source::Exactly(revision)),
        ("Exact", Version::Any) => refuse(FieldError::forbidden(
            "resourceVersionMatch",
            "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
        )),
        ("Exact" | "NotOlderThan", Version::Newest) => refuse(FieldError::forbidden(
            "resourceVersionMatch",
            "resourceVersionMatch is forbidden unless resourceVersion is provided",
        )),
        (other, _) => {
            refuse(FieldError::not_supported("resourceVersionMatch", other, &["Exact", "NotOlderThan", ""]))
        }
    }
}

fn list_options() -> GroupVersionKind {
    GroupVersionKind::new("meta.k8s.io", "v1", "ListOptions")
}

/// Cuts a page out of a state. Pure.
fn page(objects: &Objects, selection: &Selection, after: &str, limit: usize, revision: u64) -> Listed {
    let everything = selection.is_everything();
    let mut items: Vec<Arc<Object>> = Vec::new();
    let mut last = "";
    let mut remaining = 0;
    for (place, object) in select_namespace(objects, &selection.namespace) {
        if place.as_str() <= after || !selection.matches(object) {
            continue;
        }
        if limit > 0 && items.len() == limit {
            remaining += 1;
            if everything {
                continue;
            }
            break;
        }
        items.push(object.clone());
        last = place;
    }
    let continue_token =
        if remaining > 0 { Token { revision, after: last.to_owned() }.encode() } else { String::new() };
    Listed { items, revision, continue_token, remaining: (remaining > 0 && everything).then_some(remaining) }
}

impl Api {
    /// A page of the objects that a query selects.
    pub async fn list(&self, kind: &dyn Kind, query: &ListQuery) -> ApiResult<Listed> {
        let selection = Selection::parse(kind, &query.namespace, &query.labels, &query.fields)?;
        if !query.continue_token.is_empty() {
            return self.next_page(kind, &selection, query).await;
        }
        let floor = match source(query)? {
            Source::Exactly(revision) => return self.page_in_the_past(kind, &selection, "", query.limit, revision).await,
            Source::NotOlderThan(revision) => revision,
            Source::Newest => self.store.revision().await.map_err(|error| store_error(error, false))?,
        };
        // Even "any" state is none before the first load.
        self.wait_until_fresh(floor.max(1)).await?;
        let snapshot = self.cache(kind)?.snapshot();
        let objects = self.show_all(kind, snapshot.objects, &selection.namespace).await?;
        Ok(page(&objects, &selection, "", query.limit, snapshot.revision))
    }

    async fn next_page(&self, kind: &dyn Kind, selection: &Selection, query: &ListQuery) -> ApiResult<Listed> {
        if !query.version_match.is_empty() {
            let finding =
                FieldError::forbidden("resourceVersionMatch", "resourceVersionMatch is forbidden when continue is provided");
            return Err(ApiError::invalid(&list_options(), "", &[finding]));
        }
        if !matches!(query.version.as_str(), "" | "0") {
            return Err(ApiError::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        let token = Token::decode(&query.continue_token)?;
        if token.revision == 0 {
            let now = self.store.revision().await.map_err(|error| store_error(error, false))?;
            self.wait_until_fresh(now).await?;
            let snapshot = self.cache(kind)?.snapshot();
            let objects = self.show_all(kind, snapshot.objects, &selection.namespace).await?;
            return Ok(page(&objects, selection, &token.after, query.limit, snapshot.revision));
        }
        let listed = self.page_in_the_past(kind, selection, &token.after, query.limit, token.revision).await;
        listed.map_err(|error| if error.code == 410 { token_expired(&token) } else { error })
    }

    /// A page of the state at a past revision, read from the store.
    async fn page_in_the_past(
        &self,
        kind: &dyn Kind,
        selection: &Selection,
        after: &str,
        limit: usize,
        revision: u64,
    ) -> ApiResult<Listed> {
        let (group, plural) = storage_resource(kind);
        let prefix = resource_prefix(group, plural);
        let scope = if selection.namespace.is_empty() { prefix.clone() } else { format!("{prefix}{}/", selection.namespace) };
        let start = if after.is_empty() { scope.clone() } else { format!("{prefix}{after}\0") };
        let read = self.store.range(&start, &prefix_end(&scope), 0, revision).await;
        let entries = match read {
            Ok(page) => page.entries,
            Err(StoreError::Future) => return Err(super::read::too_large(revision, self.caches.progress())),
            Err(error) => return Err(store_error(error, false)),
        };
        let mut objects = Objects::new();
        for entry in &entries {
            let object = match kind.custom() {
                Some(_) => Object::as_stored(entry),
                None => Object::from_entry(kind, entry),
            };
            let object = object.map_err(|error| store_error(error, false))?;
            objects.insert(entry.key[prefix.len()..].to_owned(), Arc::new(object));
        }
        let objects = self.show_all(kind, objects, &selection.namespace).await?;
        Ok(page(&objects, selection, after, limit, revision))
    }
}

fn token_expired(token: &Token) -> ApiError {
    let mut error = ApiError::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list \
         without the continue parameter, or use the continue token in this response to retrieve the remainder of the \
         results. Continuing with the provided token results in an inconsistent list - objects that were created, \
         modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    );
    error.continue_token = Token { revision: 0, after: token.after.clone() }.encode();
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resource_version_rules() {
        let query = |version: &str, version_match: &str, limit| ListQuery {
            version: version.into(),
            version_match: version_match.into(),
            limit,
            ..ListQuery::default()
        };
        let cases = [
            (query("", "", 0), Ok(Source::Newest)),
            (query("0", "", 10), Ok(Source::NotOlderThan(0))),
            (query("7", "", 0), Ok(Source::NotOlderThan(7))),
            (query("7", "", 10), Ok(Source::Exactly(7))),
            (query("7", "NotOlderThan", 10), Ok(Source::NotOlderThan(7))),
            (query("7", "Exact", 0), Ok(Source::Exactly(7))),
            (query("0", "Exact", 0), Err(422)),
            (query("", "Exact", 0), Err(422)),
            (query("", "NotOlderThan", 0), Err(422)),
            (query("7", "Perhaps", 0), Err(422)),
            (query("x", "", 0), Err(400)),
        ];
        for (query, expected) in cases {
            assert_eq!(source(&query).map_err(|error| error.code), expected, "{query:?}");
        }
    }

    #[test]
    fn tokens_survive_the_way() {
        let token = Token { revision: 42, after: "default/web".into() };
        assert_eq!(Token::decode(&token.encode()).unwrap(), token);
        assert_eq!(Token::decode("nonsense!").unwrap_err().code, 400);
    }
}
