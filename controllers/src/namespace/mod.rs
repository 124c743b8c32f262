//! The end of a namespace: everything in it first, pods before all else, then its finalizer.
//!
//! While it lasts, the conditions of the Namespace say what remains and which finalizers hold it.

pub mod execute;
pub mod observe;
pub mod plan;

pub use execute::Namespaces;
