//! Kinds whose rules are few: mostly plain objects for drivers and proxies.

use serde_json::Value;

use super::definition::{Definition, NAME, PLAIN, column, names, status_of, typed};
use super::{pod, show};
use crate::cursor::{At, find, items_mut, list, make_object, set_default, text};
use crate::validate::unchanged;

static POD_TEMPLATE: Definition = Definition {
    names: names!("", "v1", "PodTemplate", "podtemplates", "podtemplate", [], []),
    generation: true,
    delete_returns_object: true,
    default: |object| pod::defaults::template(make_object(object, "template")),
    validate: |object| {
        let mut findings = Vec::new();
        pod::spec::template(&mut findings, &At::root(object).get("template"));
        findings
    },
    columns: &[NAME, column("Containers"), column("Images"), column("Pod Labels")],
    cells: |object, _| {
        vec![
            show::name(object),
            show::containers(object, "template.spec"),
            show::images(object, "template.spec"),
            show::labels(find(object, "template.metadata.labels")).into(),
        ]
    },
    ..PLAIN
};

static CONTROLLER_REVISION: Definition = Definition {
    names: names!("apps", "v1", "ControllerRevision", "controllerrevisions", "controllerrevision", [], []),
    validate_update: |new, old, _| {
        let mut findings = Vec::new();
        unchanged(&mut findings, &At::root(new).get("data"), &At::root(old).get("data"));
        findings
    },
    columns: &[NAME, column("Controller"), column("Revision"), column("Age")],
    cells: |object, now| {
        let owner = crate::owners::controller(object);
        let owner = owner.map_or_else(|| "<none>".to_owned(), |owner| {
            let (group, _) = crate::meta::split_api_version(text(owner, "apiVersion"));
            let kind = text(owner, "kind").to_lowercase();
            let resource = if group.is_empty() { kind } else { format!("{kind}.{group}") };
            format!("{resource}/{}", text(owner, "name"))
        });
        vec![show::name(object), owner.into(), show::number(object, "revision").into(), show::age(object, now)]
    },
    ..PLAIN
};

static CSI_NODE: Definition = Definition {
    names: names!("storage.k8s.io", "v1", "CSINode", "csinodes", "csinode", [], []),
    namespaced: false,
    delete_returns_object: true,
    unconditional_update: false,
    columns: &[NAME, typed("Drivers", "integer"), column("Age")],
    cells: |object, now| vec![show::name(object), list(object, "spec.drivers").len().into(), show::age(object, now)],
    ..PLAIN
};

static CSI_DRIVER: Definition = Definition {
    names: names!("storage.k8s.io", "v1", "CSIDriver", "csidrivers", "csidriver", [], []),
    namespaced: false,
    delete_returns_object: true,
    unconditional_update: false,
    default: |object| {
        let spec = make_object(object, "spec");
        set_default(spec, "attachRequired", true);
        set_default(spec, "podInfoOnMount", false);
        set_default(spec, "storageCapacity", false);
        set_default(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        set_default(spec, "volumeLifecycleModes", serde_json::json!(["Persistent"]));
        set_default(spec, "requiresRepublish", false);
        set_default(spec, "seLinuxMount", false);
    },
    columns: &[
        NAME,
        typed("AttachRequired", "boolean"),
        typed("PodInfoOnMount", "boolean"),
        typed("StorageCapacity", "boolean"),
        column("TokenRequests"),
        typed("RequiresRepublish", "boolean"),
        column("Modes"),
        column("Age"),
    ],
    cells: |object, now| {
        let flag = |name: &str| Value::from(find(object, &format!("spec.{name}")) == &Value::Bool(true));
        let tokens = show::joined(list(object, "spec.tokenRequests").iter().map(|request| text(request, "audience")));
        let modes = show::joined(list(object, "spec.volumeLifecycleModes").iter().filter_map(Value::as_str));
        vec![
            show::name(object),
            flag("attachRequired"),
            flag("podInfoOnMount"),
            flag("storageCapacity"),
            if tokens.is_empty() { "<unset>".into() } else { tokens.into() },
            flag("requiresRepublish"),
            if modes.is_empty() { "<none>".into() } else { modes.into() },
            show::age(object, now),
        ]
    },
    ..PLAIN
};

static VOLUME_ATTACHMENT: Definition = Definition {
    names: names!("storage.k8s.io", "v1", "VolumeAttachment", "volumeattachments", "volumeattachment", [], []),
    namespaced: false,
    subresources: &[status_of("storage.k8s.io", "v1", "VolumeAttachment")],
    status: true,
    delete_returns_object: true,
    unconditional_update: false,
    columns: &[
        NAME,
        column("Attacher"),
        column("PV"),
        column("Node"),
        typed("Attached", "boolean"),
        column("Age"),
    ],
    cells: |object, now| {
        vec![
            show::name(object),
            text(object, "spec.attacher").into(),
            text(object, "spec.source.persistentVolumeName").into(),
            text(object, "spec.nodeName").into(),
            (find(object, "status.attached") == &Value::Bool(true)).into(),
            show::age(object, now),
        ]
    },
    ..PLAIN
};

static CSI_STORAGE_CAPACITY: Definition = Definition {
    names: names!("storage.k8s.io", "v1", "CSIStorageCapacity", "csistoragecapacities", "csistoragecapacity", [], []),
    delete_returns_object: true,
    unconditional_update: false,
    ..PLAIN
};

static VOLUME_ATTRIBUTES_CLASS: Definition = Definition {
    names: names!("storage.k8s.io", "v1", "VolumeAttributesClass", "volumeattributesclasses", "volumeattributesclass", ["vac"], []),
    namespaced: false,
    delete_returns_object: true,
    columns: &[NAME, column("DriverName"), column("Age")],
    cells: |object, now| vec![show::name(object), text(object, "driverName").into(), show::age(object, now)],
    ..PLAIN
};

static NETWORK_POLICY: Definition = Definition {
    names: names!("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", "networkpolicy", ["netpol"], []),
    generation: true,
    default: |object| {
        let egress = find(object, "spec.egress").is_array();
        let spec = make_object(object, "spec");
        if list(spec, "policyTypes").is_empty() {
            spec["policyTypes"] = if egress { serde_json::json!(["Ingress", "Egress"]) } else { serde_json::json!(["Ingress"]) };
        }
        for (rules, _) in [("ingress", ()), ("egress", ())] {
            for rule in items_mut(spec, rules) {
                for port in items_mut(rule, "ports") {
                    set_default(port, "protocol", "TCP");
                }
            }
        }
    },
    validate: |object| {
        let spec = At::root(object).get("spec");
        let mut findings = Vec::new();
        crate::validate::label_selector(&mut findings, &spec.get("podSelector"));
        for r#type in spec.get("policyTypes").items() {
            crate::validate::one_of(&mut findings, &r#type, &["Egress", "Ingress"]);
        }
        findings
    },
    columns: &[NAME, column("Pod-Selector"), column("Age")],
    cells: |object, now| {
        vec![show::name(object), show::selector(find(object, "spec.podSelector")).into(), show::age(object, now)]
    },
    ..PLAIN
};

static INGRESS: Definition = Definition {
    names: names!("networking.k8s.io", "v1", "Ingress", "ingresses", "ingress", ["ing"], []),
    subresources: &[status_of("networking.k8s.io", "v1", "Ingress")],
    status: true,
    generation: true,
    columns: &[NAME, column("Class"), column("Hosts"), column("Address"), column("Ports"), column("Age")],
    cells: |object, now| {
        let hosts: Vec<&str> =
            list(object, "spec.rules").iter().map(|rule| text(rule, "host")).filter(|host| !host.is_empty()).collect();
        let addresses = list(object, "status.loadBalancer.ingress").iter();
        let addresses = addresses.map(|one| if text(one, "ip").is_empty() { text(one, "hostname") } else { text(one, "ip") });
        let tls = !list(object, "spec.tls").is_empty();
        vec![
            show::name(object),
            show::or_none(text(object, "spec.ingressClassName")),
            if hosts.is_empty() { "*".into() } else { hosts.join(",").into() },
            show::joined(addresses).into(),
            if tls { "80, 443".into() } else { "80".into() },
            show::age(object, now),
        ]
    },
    ..PLAIN
};

static INGRESS_CLASS: Definition = Definition {
    names: names!("networking.k8s.io", "v1", "IngressClass", "ingressclasses", "ingressclass", [], []),
    namespaced: false,
    generation: true,
    columns: &[NAME, column("Controller"), column("Parameters"), column("Age")],
    cells: |object, now| {
        let parameters = match text(object, "spec.parameters.kind") {
            "" => "<none>".to_owned(),
            kind => {
                let group = text(object, "spec.parameters.apiGroup");
                let kind = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
                format!("{kind}/{}", text(object, "spec.parameters.name"))
            }
        };
        vec![show::name(object), text(object, "spec.controller").into(), parameters.into(), show::age(object, now)]
    },
    ..PLAIN
};

/// All of them.
pub const ALL: &[&Definition] = &[
    &POD_TEMPLATE,
    &CONTROLLER_REVISION,
    &CSI_NODE,
    &CSI_DRIVER,
    &VOLUME_ATTACHMENT,
    &CSI_STORAGE_CAPACITY,
    &VOLUME_ATTRIBUTES_CLASS,
    &NETWORK_POLICY,
    &INGRESS,
    &INGRESS_CLASS,
];
