//! What a path and a method ask for. Pure.

use http::Method;

/// A query string, decoded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// From the raw text behind the `?`.
    pub fn parse(raw: &str) -> Self {
        let pairs = raw.split('&').filter(|part| !part.is_empty()).map(|part| {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            (decode(key, true), decode(value, true))
        });
        Self { pairs: pairs.collect() }
    }

    /// A parameter's first value; empty where it is absent.
    pub fn get(&self, key: &str) -> &str {
        self.pairs.iter().find(|(own, _)| own == key).map_or("", |(_, value)| value)
    }

    /// All values of a parameter.
    pub fn all(&self, key: &str) -> Vec<&str> {
        self.pairs.iter().filter(|(own, _)| own == key).map(|(_, value)| value.as_str()).collect()
    }

    /// Whether a parameter is there.
    pub fn has(&self, key: &str) -> bool {
        self.pairs.iter().any(|(own, _)| own == key)
    }

    /// A truth value, as Go reads it.
    pub fn flag(&self, key: &str) -> bool {
        matches!(self.get(key), "1" | "t" | "T" | "true" | "TRUE" | "True") || (self.has(key) && self.get(key).is_empty())
    }
}

/// Percent-decoding; what is no UTF-8 afterwards is replaced.
fn decode(text: &str, plus_is_space: bool) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = |index: usize| bytes.get(index).and_then(|byte| char::from(*byte).to_digit(16));
        match bytes[at] {
            b'%' => {
                if let (Some(high), Some(low)) = (hex(at + 1), hex(at + 2)) {
                    out.push(u8::try_from(high * 16 + low).unwrap_or_default());
                    at += 3;
                    continue;
                }
                out.push(b'%');
            }
            b'+' if plus_is_space => out.push(b' '),
            other => out.push(other),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A percent-encoded text, decoded.
pub fn percent_decoded(text: &str) -> String {
    decode(text, false)
}

/// A request about a resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResourcePath {
    /// Empty for the core group.
    pub group: String,
    /// `v1`
    pub version: String,
    /// Empty: all namespaces or cluster scope.
    pub namespace: String,
    /// `pods`
    pub resource: String,
    /// Empty: the collection.
    pub name: String,
    /// `log`
    pub subresource: String,
    /// What follows `proxy/`.
    pub rest: String,
}

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `/api` or `/apis`
    Groups {
        /// `/api`
        core: bool,
    },
    /// `/apis/GROUP`
    Group(String),
    /// `/api/v1` or `/apis/GROUP/VERSION`
    Version(String, String),
    /// Objects.
    Resource(ResourcePath),
    /// Anything else.
    Other,
}

/// Reads a path.
pub fn route(path: &str) -> Route {
    let parts: Vec<String> = path.split('/').filter(|part| !part.is_empty()).map(|part| decode(part, false)).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    match parts.as_slice() {
        ["api"] => Route::Groups { core: true },
        ["apis"] => Route::Groups { core: false },
        ["api", version] => Route::Version(String::new(), (*version).to_owned()),
        ["apis", group] => Route::Group((*group).to_owned()),
        ["apis", group, version] => Route::Version((*group).to_owned(), (*version).to_owned()),
        ["api", version, rest @ ..] => Route::Resource(resource("", version, rest)),
        ["apis", group, version, rest @ ..] => Route::Resource(resource(group, version, rest)),
        _ => Route::Other,
    }
}

fn resource(group: &str, version: &str, parts: &[&str]) -> ResourcePath {
    let mut path = ResourcePath { group: group.to_owned(), version: version.to_owned(), ..ResourcePath::default() };
    let parts = match parts {
        // The namespace itself, not something in it.
        ["namespaces", namespace, "status" | "finalize"] | ["namespaces", namespace] => {
            path.namespace = (*namespace).to_owned();
            parts
        }
        ["namespaces", namespace, inside @ ..] => {
            path.namespace = (*namespace).to_owned();
            inside
        }
        other => other,
    };
    let mut parts = parts.iter().map(|part| (*part).to_owned());
    path.resource = parts.next().unwrap_or_default();
    path.name = parts.next().unwrap_or_default();
    path.subresource = parts.next().unwrap_or_default();
    path.rest = parts.collect::<Vec<_>>().join("/");
    path
}

/// The verb that a method is on a resource; `None`: no such method.
pub fn verb(method: &Method, path: &ResourcePath, query: &Query) -> Option<&'static str> {
    let named = !path.name.is_empty();
    Some(match *method {
        Method::GET | Method::HEAD if query.flag("watch") && !named => "watch",
        Method::GET | Method::HEAD if named => "get",
        Method::GET | Method::HEAD => "list",
        // What is created is named by its body, what is changed by the path.
        Method::POST if named && path.subresource.is_empty() => return None,
        Method::PUT | Method::PATCH if !named => return None,
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if named => "delete",
        Method::DELETE => "deletecollection",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let resource = |text: &str| match route(text) {
            Route::Resource(path) => {
                [path.group, path.version, path.namespace, path.resource, path.name, path.subresource, path.rest].join("|")
            }
            other => format!("{other:?}"),
        };
        let cases = [
            ("/api/v1/pods", "|v1||pods|||"),
            ("/api/v1/namespaces/ns/pods/p/log", "|v1|ns|pods|p|log|"),
            ("/api/v1/namespaces/ns", "|v1|ns|namespaces|ns||"),
            ("/api/v1/namespaces/ns/status", "|v1|ns|namespaces|ns|status|"),
            ("/api/v1/namespaces", "|v1||namespaces|||"),
            ("/apis/apps/v1/namespaces/ns/deployments/d/scale", "apps|v1|ns|deployments|d|scale|"),
            ("/api/v1/namespaces/ns/pods/p:80/proxy/a/b", "|v1|ns|pods|p:80|proxy|a/b"),
            ("/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode", "rbac.authorization.k8s.io|v1||clusterroles|system:node||"),
            ("/apis", "Groups { core: false }"),
            ("/apis/apps", "Group(\"apps\")"),
            ("/healthz", "Other"),
        ];
        for (path, expected) in cases {
            assert_eq!(resource(path), expected, "{path}");
        }
    }

    #[test]
    fn queries() {
        let query = Query::parse("labelSelector=a%3Db%2Cc&watch=true&command=a+b&command=%zz&x");
        assert_eq!(query.get("labelSelector"), "a=b,c");
        assert_eq!(query.all("command"), ["a b", "%zz"]);
        assert!(query.flag("watch") && query.flag("x") && !query.flag("y"));
    }

    #[test]
    fn verbs() {
        let verb = |method: Method, path: &str, query: &str| match route(path) {
            Route::Resource(path) => super::verb(&method, &path, &Query::parse(query)).unwrap_or("none"),
            _ => "no resource",
        };
        assert_eq!(verb(Method::GET, "/api/v1/pods", "watch=1"), "watch");
        assert_eq!(verb(Method::GET, "/api/v1/pods", ""), "list");
        assert_eq!(verb(Method::GET, "/api/v1/nodes/n", ""), "get");
        assert_eq!(verb(Method::DELETE, "/api/v1/namespaces/a/pods", ""), "deletecollection");
        assert_eq!(verb(Method::OPTIONS, "/api/v1/pods", ""), "none");
        assert_eq!(verb(Method::POST, "/api/v1/namespaces/other/", ""), "none");
        assert_eq!(verb(Method::POST, "/api/v1/namespaces/a/pods/p/binding", ""), "create");
        assert_eq!(verb(Method::PUT, "/api/v1/namespaces/a/pods", ""), "none");
        assert_eq!(verb(Method::PATCH, "/api/v1/nodes", ""), "none");
    }
}
