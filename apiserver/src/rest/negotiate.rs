//! Which form of an answer a client takes. Pure.

use balsa_api::openapi::gnostic;
use balsa_api::status::{ApiError, ApiResult};

/// How objects are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// As they are.
    Plain,
    /// As rows for a person.
    Table,
    /// Only their metadata.
    Metadata,
}

/// One alternative of an Accept header.
struct Wanted<'a> {
    media: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
}

impl Wanted<'_> {
    fn get(&self, key: &str) -> &str {
        self.parameters.iter().find(|(own, _)| *own == key).map_or("", |(_, value)| *value)
    }
}

fn alternatives(accept: &str) -> impl Iterator<Item = Wanted<'_>> {
    accept.split(',').map(|part| {
        let mut pieces = part.split(';').map(str::trim);
        let media = pieces.next().unwrap_or_default();
        let parameters = pieces.filter_map(|piece| piece.split_once('=')).collect();
        Wanted { media, parameters }
    })
}

fn is_json(media: &str) -> bool {
    matches!(media, "application/json" | "*/*" | "application/*" | "")
}

/// The view that the client prefers among those that can be made. 406 where there is none.
pub fn view(accept: &str, tables: bool) -> ApiResult<View> {
    for wanted in alternatives(accept) {
        if !is_json(wanted.media) {
            continue;
        }
        match (wanted.get("as"), wanted.get("g"), wanted.get("v")) {
            ("", ..) => return Ok(View::Plain),
            ("Table", "meta.k8s.io", "v1") if tables => return Ok(View::Table),
            ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io", "v1") if tables => {
                return Ok(View::Metadata);
            }
            _ => {}
        }
    }
    Err(not_acceptable())
}

/// 406
pub fn not_acceptable() -> ApiError {
    ApiError::not_acceptable("only the following media types are accepted: application/json")
}

/// Whether aggregated discovery is taken, and in which version: `v2` or `v2beta1`.
pub fn aggregated_discovery(accept: &str) -> Option<&'static str> {
    for wanted in alternatives(accept) {
        if !is_json(wanted.media) {
            continue;
        }
        match (wanted.get("as"), wanted.get("g"), wanted.get("v")) {
            ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") => return Some("v2"),
            ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2beta1") => return Some("v2beta1"),
            ("", ..) => return None,
            _ => {}
        }
    }
    None
}

/// Whether the OpenAPI document is wanted as protobuf rather than JSON. 406 where neither will do.
pub fn openapi_protobuf(accept: &str) -> ApiResult<bool> {
    for wanted in alternatives(accept) {
        match wanted.media {
            // The older spelling is what clients send; it is no valid media type, so servers answer with the newer.
            "application/com.github.proto-openapi.spec.v2@v1.0+protobuf" | gnostic::MEDIA_TYPE => return Ok(true),
            media if is_json(media) => return Ok(false),
            _ => {}
        }
    }
    Err(not_acceptable())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        let cases = [
            ("", true, Ok(View::Plain)),
            ("*/*", true, Ok(View::Plain)),
            (table, true, Ok(View::Table)),
            (table, false, Ok(View::Plain)),
            ("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", true, Ok(View::Metadata)),
            ("application/vnd.kubernetes.protobuf,application/json", true, Ok(View::Plain)),
            ("application/json;as=Table;v=v1;g=meta.k8s.io", false, Err(406)),
            ("text/html", true, Err(406)),
        ];
        for (accept, tables, expected) in cases {
            assert_eq!(view(accept, tables).map_err(|error| error.code), expected, "{accept}");
        }
        let client = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
        assert_eq!(aggregated_discovery(client), Some("v2"));
        assert_eq!(aggregated_discovery("application/json"), None);
        let openapi = |accept: &str| openapi_protobuf(accept).map_err(|error| error.code);
        assert_eq!(openapi("application/com.github.proto-openapi.spec.v2@v1.0+protobuf"), Ok(true));
        assert_eq!([openapi(""), openapi("application/json"), openapi("*/*")], [Ok(false), Ok(false), Ok(false)]);
        assert_eq!(openapi("text/html"), Err(406));
    }
}
