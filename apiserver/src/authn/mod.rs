//! Who calls: a client certificate, a proxy's word, a token of some sort, or nobody known.

pub mod bearer;
pub mod bootstrap_token;
pub mod front_proxy;
pub mod static_tokens;
#[cfg(test)]
mod tests;
pub mod token;

use std::collections::BTreeMap;

use balsa_process::identity::{Actor, names};
use serde_json::{Value, json};

/// The group of everybody who is somebody.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group of nobody known.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The group of all ServiceAccounts.
pub const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";

/// An authenticated (or anonymous) caller.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// `kubernetes-admin`, `system:serviceaccount:default:web`, `system:anonymous`
    pub user: String,
    /// Empty for certificates.
    pub uid: String,
    /// All groups, the implied ones included.
    pub groups: Vec<String>,
    /// What the credential says besides.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Caller {
    /// Nobody known.
    pub fn anonymous() -> Self {
        Self { user: "system:anonymous".into(), groups: vec![UNAUTHENTICATED.into()], ..Self::default() }
    }

    /// Everybody on a plaintext loopback port: tests and development only.
    pub fn loopback() -> Self {
        Self {
            user: "balsa:loopback".into(),
            groups: vec![names::MASTERS.into(), AUTHENTICATED.into()],
            ..Self::default()
        }
    }

    /// The apiserver itself.
    pub fn apiserver() -> Self {
        Self {
            user: names::APISERVER.into(),
            groups: vec![names::MASTERS.into(), AUTHENTICATED.into()],
            ..Self::default()
        }
    }

    /// The holder of a verified client certificate.
    pub fn certified(actor: Actor) -> Self {
        let mut groups = actor.groups;
        groups.push(AUTHENTICATED.to_owned());
        Self { user: actor.user, groups, ..Self::default() }
    }

    /// Whether the caller is in a group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }

    /// The node whose agent calls, if one does.
    pub fn node(&self) -> Option<&str> {
        let name = self.user.strip_prefix("system:node:")?;
        self.is_in(names::NODES).then_some(name)
    }

    /// As `userInfo` in reviews.
    pub fn user_info(&self) -> Value {
        let mut info = json!({"username": self.user, "groups": self.groups});
        if !self.uid.is_empty() {
            info["uid"] = json!(self.uid);
        }
        if !self.extra.is_empty() {
            info["extra"] = json!(self.extra);
        }
        info
    }
}

/// The groups that a user has by its name alone. Pure.
pub fn implied_groups(user: &str) -> Vec<String> {
    let mut groups = Vec::new();
    if let Some(account) = user.strip_prefix("system:serviceaccount:")
        && let Some((namespace, _)) = account.split_once(':')
    {
        groups.push(SERVICE_ACCOUNTS.to_owned());
        groups.push(format!("{SERVICE_ACCOUNTS}:{namespace}"));
    }
    groups.push(if user == "system:anonymous" { UNAUTHENTICATED } else { AUTHENTICATED }.to_owned());
    groups
}
