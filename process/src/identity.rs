//! Who is at the other end of a connection: user and groups from a client certificate.
//!
//! As Kubernetes has it: the subject's common name is the user, its organizations are the groups.

use thiserror::Error;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// An authenticated user.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Actor {
    /// `system:node:node1`, `kubernetes-admin`, …
    pub user: String,
    /// `system:nodes`, `system:masters`, …
    pub groups: Vec<String>,
}

/// The identities that the processes carry.
pub mod names {
    /// The user of the apiserver towards stores and node agents.
    pub const APISERVER: &str = "system:apiserver";
    /// The user of the scheduler.
    pub const SCHEDULER: &str = "system:kube-scheduler";
    /// The user of the controllers.
    pub const CONTROLLERS: &str = "system:kube-controller-manager";
    /// The group of every store replica.
    pub const STORES: &str = "balsa:stores";
    /// The group of every node agent.
    pub const NODES: &str = "system:nodes";
    /// The group that may do anything.
    pub const MASTERS: &str = "system:masters";
    /// The user of the node agent on `node`.
    pub fn node(node: &str) -> String {
        format!("system:node:{node}")
    }
}

/// The certificate was accepted by TLS but does not say who it is.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum IdentityError {
    /// Not an X.509 certificate.
    #[error("the client certificate cannot be parsed: {0}")]
    Malformed(String),
    /// No common name in the subject.
    #[error("the client certificate's subject has no common name")]
    NoCommonName,
}

impl Actor {
    /// Reads user and groups from a DER-encoded certificate that TLS has verified.
    pub fn from_certificate(der: &[u8]) -> Result<Self, IdentityError> {
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|error| IdentityError::Malformed(error.to_string()))?;
        let subject = certificate.subject();
        let user = subject
            .iter_common_name()
            .find_map(|name| name.as_str().ok())
            .ok_or(IdentityError::NoCommonName)?
            .to_owned();
        let groups = subject.iter_organization().filter_map(|name| name.as_str().ok()).map(str::to_owned).collect();
        Ok(Self { user, groups })
    }

    /// Whether the actor is in `group`.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }
}
