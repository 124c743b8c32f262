//! Request bodies: JSON or YAML text into a value, with what strict decoding complains about.
//!
//! Duplicate keys are found here (a value cannot hold them); unknown fields are found by [`crate::kind::Kind::check`].
//! Never recurses deeper than [`MAX_DEPTH`] and never panics, whatever the bytes are.

mod json;
mod lines;
mod yaml;

pub use lines::duplicate_lines;

use serde_json::Value;

use crate::kind::TypeMismatch;
use crate::status::ApiError;

/// How deep lists and maps may be nested.
pub const MAX_DEPTH: usize = 128;

/// A body that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// The value; of duplicate keys the last one counts.
    pub value: Value,
    /// Paths of keys that stand twice, such as `spec.replicas`, in document order.
    pub duplicates: Vec<String>,
    /// Every map key's path in document order. Used to name unknown fields in the order in which they were written.
    order: Vec<String>,
}

/// What to do with unknown and duplicate fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldValidation {
    /// Nothing.
    Ignore,
    /// Warn.
    Warn,
    /// Refuse.
    Strict,
}

impl FieldValidation {
    /// From the query parameter; empty means [`Self::Warn`].
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Warn" => Some(Self::Warn),
            "Ignore" => Some(Self::Ignore),
            "Strict" => Some(Self::Strict),
            _ => None,
        }
    }
}

/// Reads a JSON body. The error is Go's sentence about it.
pub fn json(bytes: &[u8]) -> Result<Decoded, String> {
    json::decode(bytes)
}

/// Reads a YAML body (of which JSON is a part). The error is a sentence about it.
pub fn yaml(bytes: &[u8]) -> Result<Decoded, String> {
    yaml::decode(bytes)
}

/// Reads JSON, or YAML where the text does not look like JSON.
pub fn json_or_yaml(bytes: &[u8]) -> Result<Decoded, String> {
    let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
    if first == Some(&b'{') { json(bytes) } else { yaml(bytes) }
}

impl Decoded {
    /// Puts unknown fields' paths into the order in which they stand in the body.
    pub fn in_document_order(&self, mut paths: Vec<String>) -> Vec<String> {
        let place = |path: &String| self.order.iter().position(|known| known == path).unwrap_or(usize::MAX);
        paths.sort_by_key(place);
        paths
    }

    /// Sentences about unknown and duplicate fields: `unknown field "spec.bogus"`, `duplicate field "spec.replicas"`.
    pub fn complaints(&self, unknown: Vec<String>) -> Vec<String> {
        complaints(&self.in_document_order(unknown), &self.duplicates)
    }
}

/// Sentences about unknown and duplicate fields, unknown ones first.
pub fn complaints(unknown: &[String], duplicates: &[String]) -> Vec<String> {
    let unknown = unknown.iter().map(|path| format!("unknown field {path:?}"));
    let duplicates = duplicates.iter().map(|path| format!("duplicate field {path:?}"));
    unknown.chain(duplicates).collect()
}

/// The one sentence of strict decoding: `strict decoding error: unknown field "a", duplicate field "b"`.
pub fn strict_error(complaints: &[String]) -> String {
    format!("strict decoding error: {}", complaints.join(", "))
}

/// Handles complaints as asked: warnings to send, or the 400 that refuses the body.
pub fn settle(kind: &str, version: &str, complaints: Vec<String>, mode: FieldValidation) -> Result<Vec<String>, ApiError> {
    match mode {
        FieldValidation::Ignore => Ok(Vec::new()),
        FieldValidation::Warn => Ok(complaints),
        FieldValidation::Strict if complaints.is_empty() => Ok(Vec::new()),
        FieldValidation::Strict => Err(cannot_be_handled(kind, version, &strict_error(&complaints))),
    }
}

/// The 400 for a body whose types are wrong.
pub fn type_error(kind: &str, version: &str, mismatch: &TypeMismatch) -> ApiError {
    cannot_be_handled(kind, version, &mismatch.0)
}

/// `Pod in version "v1" cannot be handled as a Pod: PROBLEM`
pub fn cannot_be_handled(kind: &str, version: &str, problem: &str) -> ApiError {
    ApiError::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {problem}"))
}

/// Collects what a reader sees on its way through a document.
#[derive(Default)]
struct Trace {
    path: Vec<Step>,
    order: Vec<String>,
    duplicates: Vec<String>,
}

enum Step {
    Key(String),
    Index(usize),
}

/// More keys than this are not remembered: their order is not worth the memory.
const MAX_ORDER: usize = 20_000;

impl Trace {
    fn place(&self) -> String {
        let mut out = String::new();
        for step in &self.path {
            match step {
                Step::Key(key) => {
                    if !out.is_empty() {
                        out.push('.');
                    }
                    out.push_str(key);
                }
                Step::Index(index) => {
                    out.push('[');
                    out.push_str(&index.to_string());
                    out.push(']');
                }
            }
        }
        out
    }

    fn enter(&mut self, key: &str, seen: bool) {
        self.path.push(Step::Key(key.to_owned()));
        if seen {
            let place = self.place();
            if !self.duplicates.contains(&place) && self.duplicates.len() < 100 {
                self.duplicates.push(place);
            }
        } else if self.order.len() < MAX_ORDER {
            let place = self.place();
            self.order.push(place);
        }
    }

    fn finish(self, value: Value) -> Decoded {
        Decoded { value, duplicates: self.duplicates, order: self.order }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn duplicates_are_named() {
        let decoded = json(br#"{"spec":{"replicas":1,"x":[{"a":1,"a":2}],"replicas":2}}"#).expect("json");
        assert_eq!(decoded.value, json!({"spec": {"replicas": 2, "x": [{"a": 2}]}}));
        assert_eq!(decoded.duplicates, ["spec.x[0].a", "spec.replicas"]);
        let decoded = yaml(b"spec:\n  replicas: 1\n  on: yes\n").expect("yaml");
        assert_eq!(decoded.value, json!({"spec": {"replicas": 1, "true": true}}));
    }

    #[test]
    fn refuses_without_harm() {
        for depth in [200, 100_000] {
            assert!(json("[".repeat(depth).as_bytes()).is_err());
            assert!(json(format!("{}{}", "{\"a\":".repeat(depth), "1").as_bytes()).is_err());
            assert!(yaml(format!("a: {}", "[".repeat(depth)).as_bytes()).is_err());
            assert!(yaml("- ".repeat(depth).as_bytes()).is_err());
        }
        for bad in [&b""[..], b"{", b"{\"a\" 1}", b"\xff\xfe", b"{\"a\":1}}", b"nul"] {
            assert!(json(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn yaml_like_go_reads_it() {
        let text = b"a: yes\nb: off\nc: 010\nd: 0x10\ne: 1.0\nf: ~\ng: 'yes'\nh: 12e03\ni: 1_000\nj: 2024-01-02\nk: !!str 5\nl: 1e3\nm: +5\nn: Null\n";
        let decoded = yaml(text).expect("yaml");
        assert_eq!(decoded.value["a"], json!(true));
        assert_eq!(decoded.value["b"], json!(false));
        assert_eq!(decoded.value["c"], json!(8));
        assert_eq!(decoded.value["d"], json!(16));
        assert_eq!(decoded.value["e"], json!(1));
        assert_eq!(decoded.value["f"], json!(null));
        assert_eq!(decoded.value["g"], json!("yes"));
        assert_eq!(decoded.value["j"], json!("2024-01-02"));
        assert_eq!(decoded.value["k"], json!("5"));
        assert_eq!(decoded.value["n"], json!(null));
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = json(&bytes);
            let _ = yaml(&bytes);
        }
        #[test]
        fn braces_never_panic(text in "[\\[\\]{}:,\"a0&*!|> \n-]{0,80}") {
            let _ = json(text.as_bytes());
            let _ = yaml(text.as_bytes());
        }
    }
}
