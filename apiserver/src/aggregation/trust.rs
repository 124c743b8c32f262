//! What servers in the cluster need to know to believe us: the ConfigMap `extension-apiserver-authentication`. Pure.
//!
//! A request with a certificate of this CA and of one of the allowed names speaks for whoever its headers name. The only
//! allowed name is the API servers' own, so that no other holder of a certificate of the cluster can do so.

use serde_json::{Value, json};

/// Its namespace.
pub const NAMESPACE: &str = "kube-system";
/// Its name.
pub const NAME: &str = "extension-apiserver-authentication";

/// `ca`: PEM; `name`: the common name of the API servers' certificates.
pub fn config_map(ca: &str, name: &str) -> Value {
    let list = |items: &[&str]| json!(items).to_string();
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME, "namespace": NAMESPACE}, "data": {
        "client-ca-file": ca,
        "requestheader-allowed-names": list(&[name]),
        "requestheader-client-ca-file": ca,
        "requestheader-extra-headers-prefix": list(&["X-Remote-Extra-"]),
        "requestheader-group-headers": list(&["X-Remote-Group"]),
        "requestheader-uid-headers": list(&["X-Remote-Uid"]),
        "requestheader-username-headers": list(&["X-Remote-User"]),
    }})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_json_in_text() {
        let map = config_map("PEM", "system:apiserver");
        assert_eq!(map["data"]["requestheader-allowed-names"], "[\"system:apiserver\"]");
    }
}
