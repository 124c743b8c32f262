//! What every namespace has from its beginning: the ServiceAccount `default` and the ConfigMap `kube-root-ca.crt`.
//!
//! Both come back when somebody deletes them, and the ConfigMap also when somebody changes it.

pub mod execute;
pub mod observe;
pub mod plan;

pub use execute::NamespaceDefaults;
