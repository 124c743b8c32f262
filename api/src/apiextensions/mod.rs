//! Custom resources: what a CustomResourceDefinition may say, and the kinds that it makes.
//!
//! | file | decides |
//! |---|---|
//! | [`definition`], [`structural`] | whether a definition is acceptable |
//! | [`rules`] | rules in CEL: whether they can be compiled, what they find |
//! | [`status`] | its conditions and accepted names |
//! | [`schema`] | its schema, made ready for use |
//! | [`prune`], [`defaulting`], [`check`], [`lists`], [`format`] | what becomes of an object under a schema |
//! | [`jsonpath`] | printer columns, scale paths, selectable fields |
//! | [`kind`] | one version of a custom resource as a [`crate::kind::Kind`] |
//! | [`registry`] | all kinds that a set of definitions makes |
//!
//! What OpenAPI says of them is in [`crate::openapi`].
//!
//! Everything is pure. Depth is bounded by that of decoded bodies ([`crate::decode::MAX_DEPTH`]).

pub mod check;
pub mod defaulting;
pub mod definition;
pub mod format;
pub mod jsonpath;
pub mod kind;
pub mod lists;
pub mod prune;
pub mod registry;
pub mod rules;
pub mod schema;
pub mod status;
pub mod structural;
#[cfg(test)]
mod tests;

pub use kind::CustomKind;
pub use registry::Registry;
