//! Connections to what runs, as admission sees them: exec, attach, port-forward and proxy, with their options as an
//! object. Also the way from admission webhooks to Services.

use std::sync::{Arc, Weak};

use async_trait::async_trait;
use balsa_api::kind::Kind;
use balsa_api::status::{ApiError, ApiResult};
use serde_json::{Value, json};

use super::route::{Query, ResourcePath};
use super::{Exchange, Rest};
use crate::admission::hooks::webhook::client::Dial;
use crate::admission::{Operation, Review, hooks};
use crate::pipeline::Target;
use crate::proxy::connect::Stream;

/// The options of a connection as the object that its kind (`PodExecOptions`, …) describes. Pure.
fn options(kind: &str, query: &Query, proxied: &str) -> Value {
    let mut options = json!({"kind": kind, "apiVersion": "v1"});
    match kind {
        "PodExecOptions" | "PodAttachOptions" => {
            for key in ["stdin", "stdout", "stderr", "tty"] {
                if query.flag(key) {
                    options[key] = json!(true);
                }
            }
            if !query.get("container").is_empty() {
                options["container"] = json!(query.get("container"));
            }
            let command = query.all("command");
            if !command.is_empty() {
                options["command"] = json!(command);
            }
        }
        "PodPortForwardOptions" => {
            let ports = query.all("ports");
            let ports: Vec<i32> = ports.iter().flat_map(|list| list.split(',')).filter_map(|port| port.parse().ok()).collect();
            if !ports.is_empty() {
                options["ports"] = json!(ports);
            }
        }
        _ => {
            if !proxied.is_empty() {
                options["path"] = json!(proxied);
            }
        }
    }
    options
}

impl Rest {
    /// Asks webhooks and policies whether a connection may be made. `proxied`: the path behind a `proxy` subresource.
    pub(crate) async fn admit_connection(
        &self,
        exchange: &Exchange,
        kind: &dyn Kind,
        path: &ResourcePath,
        proxied: &str,
    ) -> ApiResult<()> {
        let known = kind.subresources().iter().find(|own| own.name == path.subresource);
        let object = options(known.map_or("", |own| own.kind), &exchange.query, proxied);
        // `[http:]name[:port]`: the object's name is the part in the middle.
        let parts: Vec<&str> = path.name.split(':').collect();
        let name = if let [_, name, _] = parts.as_slice() { name } else { parts.first().copied().unwrap_or_default() };
        let namespace = if kind.namespaced() { path.namespace.as_str() } else { "" };
        let review = Review {
            call: &exchange.call,
            target: Target { kind, namespace, name },
            operation: Operation::Create,
            subresource: &path.subresource,
            old: None,
        };
        hooks::connect(&self.api, &review, &object).await
    }

    /// This server as the way to Services.
    pub fn dialer(self: &Arc<Self>) -> Weak<dyn Dial> {
        let dial: Arc<dyn Dial> = self.clone();
        Arc::downgrade(&dial)
    }
}

#[async_trait]
impl Dial for Rest {
    async fn dial(&self, namespace: &str, name: &str, port: u16) -> ApiResult<Box<dyn Stream>> {
        match self.dial_service(namespace, name, port).await {
            Ok(dialed) => {
                tracing::debug!(namespace, name, port, to = dialed.to, "connected to a service");
                Ok(dialed.stream)
            }
            Err(error) if error.is_not_found() => Err(ApiError::unavailable(format!("service {name:?} not found"))),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_objects() {
        let query = Query::parse("container=c&stdin=true&stdout=1&command=sh&command=-c&ports=80,443");
        assert_eq!(
            options("PodExecOptions", &query, ""),
            json!({"kind": "PodExecOptions", "apiVersion": "v1", "stdin": true, "stdout": true, "container": "c", "command": ["sh", "-c"]})
        );
        assert_eq!(options("PodPortForwardOptions", &query, "")["ports"], json!([80, 443]));
        assert_eq!(options("ServiceProxyOptions", &query, "/x")["path"], "/x");
    }
}
