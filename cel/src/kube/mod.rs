//! What Kubernetes adds to the language: URLs, addresses, quantities, versions, named formats, authorization checks.

pub(crate) mod authz;
pub(crate) mod named;
pub(crate) mod net;
pub(crate) mod patch;
pub(crate) mod quantity;
pub(crate) mod semver;
pub(crate) mod url;
