//! Who may do what, through the REST front, as stories.

use http::Method;
use serde_json::{Value, json};

use crate::authn::{AUTHENTICATED, Caller};
use crate::tests::Server;

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

fn user(name: &str) -> Caller {
    Caller { user: name.into(), groups: vec![AUTHENTICATED.into()], ..Caller::default() }
}

fn agent(node: &str) -> Caller {
    Caller {
        user: format!("system:node:{node}"),
        groups: vec!["system:nodes".into(), AUTHENTICATED.into()],
        ..Caller::default()
    }
}

fn role(name: &str, verbs: &[&str], resources: &[&str]) -> Value {
    json!({"metadata": {"name": name}, "rules": [{"apiGroups": [""], "resources": resources, "verbs": verbs}]})
}

fn binding(name: &str, kind: &str, role: &str, user: &str) -> Value {
    json!({"metadata": {"name": name}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
        "subjects": [{"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}]})
}

async fn bind(server: &Server, name: &str, role: &str, user: &str) {
    server.create(&format!("{RBAC}/clusterrolebindings"), binding(name, "ClusterRole", role, user)).await;
    server.settle().await;
}

#[tokio::test]
async fn nobody_grants_what_they_do_not_hold() {
    let server = Server::start().await;
    let ann = user("ann");
    server
        .create(&format!("{RBAC}/clusterroles"), json!({"metadata": {"name": "role-writer"}, "rules": [
            {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["*"], "verbs": ["create", "update", "patch", "get"]},
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}]}))
        .await;
    bind(&server, "ann", "role-writer", "ann").await;
    let roles = format!("{RBAC}/namespaces/default/roles");
    let (code, _) = server.ask_as(&ann, Method::POST, &roles, role("own", &["get"], &["pods"])).await;
    assert_eq!(code, 201, "what she holds she may grant");
    let (code, error) = server.ask_as(&ann, Method::POST, &roles, role("more", &["get", "list"], &["pods", "secrets"])).await;
    assert_eq!(code, 403);
    assert_eq!(
        error["message"],
        "roles.rbac.authorization.k8s.io \"more\" is forbidden: user \"ann\" (groups=[\"system:authenticated\"]) is attempting to \
         grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"list\"]}"
    );
    let (code, _) = server.ask_as(&ann, Method::PATCH, &format!("{roles}/own"), role("own", &["*"], &["pods"])).await;
    assert_eq!(code, 403, "nor by a later change");
    let sum = json!({"metadata": {"name": "sum"}, "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}});
    let (code, error) = server.ask_as(&ann, Method::POST, &format!("{RBAC}/clusterroles"), sum).await;
    assert_eq!((code, error["message"].as_str().unwrap().ends_with("must have cluster-admin privileges to use the aggregationRule")), (403, true));
    server.settle().await;

    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    let (code, error) = server.ask_as(&ann, Method::POST, &bindings, binding("b", "Role", "own", "bob")).await;
    assert_eq!(code, 201, "{error}");
    let (code, error) = server.ask_as(&ann, Method::POST, &bindings, binding("c", "ClusterRole", "edit", "ann")).await;
    assert_eq!((code, error["reason"].as_str()), (403, Some("Forbidden")), "{error}");
    let (code, error) = server.ask_as(&ann, Method::POST, &bindings, binding("d", "Role", "nope", "ann")).await;
    assert_eq!((code, error["message"].as_str()), (404, Some("roles.rbac.authorization.k8s.io \"nope\" not found")));
    let allow = json!({"metadata": {"name": "binder"}, "rules": [
        {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "resourceNames": ["edit"], "verbs": ["bind"]},
        {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"], "verbs": ["escalate"]}]});
    server.create(&format!("{RBAC}/clusterroles"), allow).await;
    bind(&server, "ann-binds", "binder", "ann").await;
    let (code, error) = server.ask_as(&ann, Method::POST, &bindings, binding("c", "ClusterRole", "edit", "ann")).await;
    assert_eq!(code, 201, "the verb bind: {error}");
    let (code, error) = server.ask_as(&ann, Method::POST, &roles, role("more", &["*"], &["secrets"])).await;
    assert_eq!(code, 201, "the verb escalate: {error}");
}

#[tokio::test]
async fn a_node_reads_what_its_pods_need() {
    let server = Server::start().await;
    for name in ["used", "other"] {
        server.create("/api/v1/namespaces/default/secrets", json!({"metadata": {"name": name}})).await;
    }
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}],
        "volumes": [{"name": "s", "secret": {"secretName": "used"}}]}});
    let pod = server.create("/api/v1/namespaces/default/pods", pod).await;
    server.settle().await;
    let secret = |name: &str| format!("/api/v1/namespaces/default/secrets/{name}");
    let get = async |node: &str, path: &str| server.ask_as(&agent(node), Method::GET, path, Value::Null).await;
    assert_eq!(get("n1", &secret("used")).await.0, 200);
    let (code, error) = get("n1", &secret("other")).await;
    assert_eq!(code, 403);
    assert_eq!(
        error["message"],
        "secrets \"other\" is forbidden: User \"system:node:n1\" cannot get resource \"secrets\" in API group \"\" in the \
         namespace \"default\": no relationship found between node 'n1' and this object"
    );
    assert_eq!(get("n2", &secret("used")).await.0, 403);
    assert_eq!(get("n1", "/api/v1/secrets").await.0, 403);
    assert_eq!(get("n1", "/api/v1/namespaces/default/secrets?fieldSelector=metadata.name%3Dused").await.0, 200);
    for needed in ["services", "nodes", "namespaces", "pods", "pods?fieldSelector=spec.nodeName%3Dn1"] {
        assert_eq!(get("n1", &format!("/api/v1/{needed}")).await.0, 200, "its network needs {needed}");
    }
    assert_eq!(get("n1", "/api/v1/configmaps").await.0, 403);

    let tokens = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let bound = |uid: &str| json!({"spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid}}});
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let ask = async |node: &str, body: Value| server.ask_as(&agent(node), Method::POST, tokens, body).await;
    let (code, answer) = ask("n1", bound(uid)).await;
    assert_eq!(code, 201, "{answer}");
    assert_eq!(ask("n1", json!({"spec": {}})).await.0, 403, "only for its pods");
    assert_eq!(ask("n2", bound(uid)).await.0, 403);
    let (code, error) = ask("n1", json!({"spec": {"audiences": ["vault"], "boundObjectRef": bound(uid)["spec"]["boundObjectRef"]}})).await;
    assert_eq!((code, error["message"].as_str().unwrap().contains("audience \"vault\" not found in pod spec volume")), (403, true), "{error}");

    let (code, error) = server.ask_as(&agent("n1"), Method::POST, "/api/v1/nodes", json!({"metadata": {"name": "n2"}})).await;
    assert_eq!((code, error["message"].as_str().unwrap().contains("node \"n1\" is not allowed to modify node \"n2\"")), (403, true), "{error}");
    let (code, error) = server.ask_as(&agent("n1"), Method::POST, "/api/v1/nodes", json!({"metadata": {"name": "n1"}})).await;
    assert_eq!(code, 201, "{error}");
    let taints = json!({"spec": {"taints": []}});
    let (code, _) = server.ask_as(&agent("n1"), Method::PATCH, "/api/v1/nodes/n1", taints).await;
    assert_eq!(code, 403, "taints are not its own to take away");
    let path = "/api/v1/namespaces/default/pods/p";
    server.delete(path, json!({"gracePeriodSeconds": 0})).await;
    server.settle().await;
    assert_eq!(get("n1", &secret("used")).await.0, 403, "what its pods needed");
}

#[tokio::test]
async fn bootstrap_roles_are_put_right_at_the_next_start() {
    let server = Server::start().await;
    let path = format!("{RBAC}/clusterroles/system:kube-dns");
    let original = server.get(&path).await.1;
    assert_eq!(original["metadata"]["annotations"]["rbac.authorization.kubernetes.io/autoupdate"], "true");
    server.patch(&path, "merge-patch+json", json!({"rules": []})).await;
    let kept = format!("{RBAC}/clusterroles/system:heapster");
    let annotations = json!({"rbac.authorization.kubernetes.io/autoupdate": "false"});
    server.patch(&kept, "merge-patch+json", json!({"rules": [], "metadata": {"annotations": annotations}})).await;
    server.settle().await;
    let stop = tokio_util::sync::CancellationToken::new();
    crate::bootstrap::run(server.rest.api.clone(), stop).await;
    assert_eq!(server.get(&path).await.1["rules"].as_array().map(Vec::is_empty), Some(false), "{}", original["rules"]);
    assert_eq!(server.get(&kept).await.1["rules"], json!([]));
}
