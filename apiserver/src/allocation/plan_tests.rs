//! What is claimed for which Service.

use super::*;

fn service(spec: Value) -> Value {
    json!({ "spec": spec })
}

fn texts(findings: &[FieldError]) -> Vec<String> {
    findings.iter().map(ToString::to_string).collect()
}

#[test]
fn families_of_a_single_stack_cluster() {
    let filled = |spec: Value| {
        let mut service = service(spec);
        let findings = families(&mut service, None);
        assert!(findings.is_empty(), "{findings:?}");
        (text(&service, "spec.ipFamilyPolicy").to_owned(), service["spec"]["ipFamilies"].clone())
    };
    assert_eq!(filled(json!({"type": "ClusterIP"})), ("SingleStack".into(), json!(["IPv4"])));
    assert_eq!(filled(json!({"type": "ClusterIP", "ipFamilyPolicy": "PreferDualStack"})), ("PreferDualStack".into(), json!(["IPv4"])));
    let headless = json!({"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"]});
    assert_eq!(filled(headless.clone()), ("RequireDualStack".into(), json!(["IPv4", "IPv6"])));
    let mut selecting = headless;
    selecting["selector"] = json!({"a": "b"});
    assert_eq!(filled(selecting), ("SingleStack".into(), json!(["IPv4"])));
    let refused = |spec: Value| texts(&families(&mut service(spec), None));
    assert_eq!(
        refused(json!({"type": "ClusterIP", "ipFamilyPolicy": "RequireDualStack"})),
        ["spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services"]
    );
    assert_eq!(
        refused(json!({"type": "ClusterIP", "ipFamilies": ["IPv6"]})),
        ["spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster"]
    );
    assert_eq!(
        refused(json!({"type": "ClusterIP", "clusterIP": "fd00::1", "clusterIPs": ["fd00::1"]})),
        ["spec.clusterIPs[0]: Invalid value: [\"fd00::1\"]: IPv6 is not configured on this cluster"]
    );
    let mut external = service(json!({"type": "ExternalName"}));
    assert!(families(&mut external, None).is_empty() && external["spec"].get("ipFamilies").is_none());
}

#[test]
fn ports_with_one_number_share_a_node_port() {
    let new = service(json!({"type": "NodePort", "ports": [
        {"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}, {"port": 80, "nodePort": 30080},
        {"port": 90}, {"port": 90, "protocol": "UDP", "nodePort": 30090}]}));
    let plan = plan(&new, None);
    assert_eq!(plan.address, Some(Wish::Any));
    assert_eq!(
        plan.ports,
        [
            (Place::Ports(vec![0, 1]), Wish::Any),
            (Place::Ports(vec![2]), Wish::This(30080)),
            (Place::Ports(vec![3, 4]), Wish::This(30090)),
        ]
    );
    let apart = service(json!({"type": "NodePort", "ports": [{"port": 53, "nodePort": 30001}, {"port": 53, "nodePort": 30002}]}));
    assert_eq!(super::plan(&apart, None).ports.len(), 2);
    let unwanted = service(json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "externalTrafficPolicy": "Local",
        "ports": [{"port": 80}, {"port": 81, "nodePort": 30081}]}));
    assert_eq!(
        super::plan(&unwanted, None).ports,
        [(Place::Ports(vec![1]), Wish::This(30081)), (Place::Health, Wish::Any)]
    );
}

#[test]
fn changes_claim_what_is_new_and_leave_what_is_not_used() {
    let old = service(json!({"type": "LoadBalancer", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"],
        "externalTrafficPolicy": "Local", "healthCheckNodePort": 30500, "ports": [{"port": 80, "nodePort": 30080}]}));
    let mut same = old.clone();
    same["metadata"] = json!({"labels": {"a": "b"}});
    assert_eq!(plan(&same, Some(&old)), Plan::default());
    let further = service(json!({"type": "NodePort", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"],
        "externalTrafficPolicy": "Cluster", "ports": [{"port": 80, "nodePort": 30081}, {"port": 81}]}));
    assert_eq!(
        plan(&further, Some(&old)),
        Plan {
            address: None,
            ports: vec![(Place::Ports(vec![0]), Wish::This(30081)), (Place::Ports(vec![1]), Wish::Any)],
            leaving: vec![Claim::Port(30080), Claim::Port(30500)],
        }
    );
    let external = service(json!({"type": "ExternalName", "externalName": "a.b"}));
    let all = [Claim::Address("10.96.0.9".into()), Claim::Port(30080), Claim::Port(30500)];
    assert_eq!(plan(&external, Some(&old)).leaving, all);
    assert_eq!(holdings(&old), all);
    let back = service(json!({"type": "ClusterIP", "ports": [{"port": 80}]}));
    assert_eq!(plan(&back, Some(&external)).address, Some(Wish::Any));
    let headless = service(json!({"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"]}));
    assert_eq!(plan(&headless, Some(&headless)), Plan::default());
    assert_eq!(plan(&headless, None), Plan::default());
}

#[test]
fn what_was_claimed_is_written_down() {
    let mut new = service(json!({"type": "NodePort", "ports": [{"port": 53}, {"port": 53, "protocol": "UDP"}]}));
    set_address(&mut new, "10.96.3.4");
    set_port(&mut new, &Place::Ports(vec![0, 1]), 30123);
    set_port(&mut new, &Place::Health, 30124);
    assert_eq!((&new["spec"]["clusterIP"], &new["spec"]["clusterIPs"]), (&json!("10.96.3.4"), &json!(["10.96.3.4"])));
    assert_eq!((shape::node_ports(&new), shape::health_port(&new)), (vec![30123, 30123], 30124));
}
