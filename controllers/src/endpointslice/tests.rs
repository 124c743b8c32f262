//! Services, pods and the slices between them.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::plan::{MAX, Observed, plan};
use crate::common::endpoints::SliceAction;
use crate::common::selector::Labels;

fn service(spec: Value) -> Arc<Service> {
    let mut whole = json!({"selector": {"app": "web"}, "clusterIP": "10.96.0.9", "ipFamilies": ["IPv4"],
        "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": "web"}]});
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    let object = json!({"metadata": {"name": "s", "namespace": "n", "uid": "us", "labels": {"l": "1"}}, "spec": whole});
    Arc::new(serde_json::from_value(object).unwrap())
}

fn pod(number: usize, ready: bool) -> Pod {
    let condition = json!({"type": "Ready", "status": if ready { "True" } else { "False" }});
    serde_json::from_value(json!({"metadata": {"name": format!("p{number}"), "namespace": "n", "uid": format!("u{number}")},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8080, "protocol": "TCP"}]}]},
        "status": {"phase": "Running", "podIP": format!("10.1.{}.{}", number / 250, number % 250 + 1), "conditions": [condition]}}))
    .unwrap()
}

fn observed(service: Arc<Service>, pods: impl IntoIterator<Item = Pod>) -> Observed {
    Observed {
        service: Some(service),
        pods: pods.into_iter().map(Arc::new).collect(),
        zones: [("n1".to_owned(), "z1".to_owned())].into(),
        slices: Vec::new(),
    }
}

/// Plays the API server: names and UIDs for what is created.
fn apply(observed: &mut Observed) -> usize {
    let actions = plan(observed).actions;
    let count = actions.len();
    for action in actions {
        match action {
            SliceAction::Create(mut slice) => {
                let taken = |name: &str| observed.slices.iter().any(|slice| slice.metadata.name.as_deref() == Some(name));
                let name = (0..).map(|number| format!("s-{number}")).find(|name| !taken(name)).unwrap();
                slice.metadata.uid = Some(format!("uid-{name}"));
                slice.metadata.name = Some(name);
                observed.slices.push(Arc::new(*slice));
            }
            SliceAction::Update(slice) => {
                observed.slices.retain(|present| present.metadata.name != slice.metadata.name);
                observed.slices.push(Arc::new(*slice));
            }
            SliceAction::Delete { name, .. } => observed.slices.retain(|present| present.metadata.name.as_deref() != Some(name.as_str())),
        }
    }
    assert!(plan(observed).is_quiet(), "carried out, there is nothing more to do");
    count
}

fn only(observed: &Observed) -> &EndpointSlice {
    assert_eq!(observed.slices.len(), 1);
    &observed.slices[0]
}

#[test]
fn a_pod_is_an_endpoint() {
    let mut world = observed(service(json!({})), [pod(1, true), pod(2, false)]);
    assert_eq!(apply(&mut world), 1);
    let slice = only(&world);
    let wanted: Labels = [("l", "1"), ("kubernetes.io/service-name", "s"), ("endpointslice.kubernetes.io/managed-by", "endpointslice-controller.k8s.io")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
    assert_eq!(slice.metadata.labels.as_ref(), Some(&wanted));
    let shown = serde_json::to_value(slice).unwrap();
    assert_eq!(shown["ports"], json!([{"name": "http", "port": 8080, "protocol": "TCP"}]));
    assert_eq!(shown["endpoints"][0], json!({"addresses": ["10.1.0.2"], "conditions": {"ready": true, "serving": true, "terminating": false},
        "nodeName": "n1", "zone": "z1", "targetRef": {"kind": "Pod", "namespace": "n", "name": "p1", "uid": "u1"}}));
    assert_eq!(shown["endpoints"][1]["conditions"]["ready"], false);
    world.pods = vec![Arc::new(pod(1, true))];
    assert_eq!(apply(&mut world), 1);
    assert_eq!(only(&world).endpoints.as_ref().map(Vec::len), Some(1));
}

#[test]
fn nobody_behind_it_is_a_slice_too() {
    let mut world = observed(service(json!({"clusterIP": "None"})), []);
    apply(&mut world);
    let empty = only(&world).clone();
    assert!(empty.endpoints.as_ref().unwrap().is_empty());
    assert!(empty.metadata.labels.as_ref().unwrap().contains_key("service.kubernetes.io/headless"));
    world.pods.push(Arc::new(pod(1, true)));
    assert_eq!(apply(&mut world), 1, "the empty one is made into it");
    assert_eq!(only(&world).metadata.name, empty.metadata.name);
    assert!(plan(&observed(service(json!({"selector": null})), [])).is_quiet());
    assert!(plan(&observed(service(json!({"type": "ExternalName"})), [])).is_quiet());
}

#[test]
fn who_goes_still_serves() {
    let mut going = pod(1, true);
    going.metadata.deletion_timestamp = crate::common::time::api(crate::testing::at(0));
    let mut world = observed(service(json!({})), [going.clone(), pod(2, true)]);
    apply(&mut world);
    let conditions = serde_json::to_value(&only(&world).endpoints.as_ref().unwrap()[0].conditions).unwrap();
    assert_eq!(conditions, json!({"ready": false, "serving": true, "terminating": true}));
    let mut world = observed(service(json!({"publishNotReadyAddresses": true})), [going]);
    apply(&mut world);
    assert_eq!(only(&world).endpoints.as_ref().unwrap()[0].conditions.as_ref().unwrap().ready, Some(true));
    let mut done = pod(1, true);
    done.status.as_mut().unwrap().phase = Some("Succeeded".to_owned());
    let mut lost = pod(3, true);
    lost.spec.as_mut().unwrap().node_name = Some("gone".to_owned());
    let mut world = observed(service(json!({})), [done, lost]);
    apply(&mut world);
    assert!(only(&world).endpoints.as_ref().unwrap().is_empty());
}

#[test]
fn many_pods_and_several_ports() {
    let mut world = observed(service(json!({})), (0..250).map(|number| pod(number, true)));
    assert_eq!(apply(&mut world), 3);
    assert!(world.slices.iter().all(|slice| slice.endpoints.as_ref().unwrap().len() <= MAX));
    world.pods.retain(|pod| pod.metadata.name.as_deref() != Some("p7"));
    assert_eq!(apply(&mut world), 1, "one write for one pod");
    let mut other = pod(900, true);
    other.spec.as_mut().unwrap().containers[0].ports.as_mut().unwrap()[0].container_port = 9090;
    world.pods = vec![Arc::new(pod(1, true)), Arc::new(other)];
    apply(&mut world);
    assert_eq!(world.slices.len(), 2, "a slice per set of ports");
    world.service = Some(service(json!({"ipFamilies": ["IPv6"]})));
    apply(&mut world);
    assert!(only(&world).address_type == "IPv6" && only(&world).endpoints.as_ref().unwrap().is_empty());
}

proptest::proptest! {
    #[test]
    fn from_any_state_to_the_wanted_one(states in proptest::collection::vec(proptest::collection::btree_set(0usize..300, 0..220), 1..6)) {
        let mut world = observed(service(json!({})), []);
        for numbers in states {
            world.pods = numbers.iter().map(|number| Arc::new(pod(*number, number % 3 != 0))).collect();
            apply(&mut world);
            let mut found: Vec<String> = world.slices.iter().flat_map(|slice| slice.endpoints.iter().flatten())
                .flat_map(|endpoint| endpoint.addresses.clone()).collect();
            let mut wanted: Vec<String> = world.pods.iter().filter_map(|pod| pod.status.as_ref()?.pod_ip.clone()).collect();
            found.sort();
            wanted.sort();
            proptest::prop_assert_eq!(found, wanted);
            proptest::prop_assert!(world.slices.iter().all(|slice| slice.endpoints.as_ref().is_some_and(|all| all.len() <= MAX)));
        }
    }
}
