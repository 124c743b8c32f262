//! Flow control: which requests belong together (FlowSchema), and how much of the server such a flow may have
//! (PriorityLevelConfiguration). What a server does with them is decided there; here is what they may look like.

pub mod builtin;
mod rules;

use serde_json::Value;

use super::definition::{Definition, NAME, PLAIN, column, keep_metadata, names, status_of};
use super::show;
use crate::cursor::{find, list, make_object, object_mut, set_default, set_default_number, text};
use crate::kind::Part;

const GROUP: &str = "flowcontrol.apiserver.k8s.io";

/// FlowSchema.
pub static FLOW_SCHEMA: Definition = Definition {
    names: names!("flowcontrol.apiserver.k8s.io", "v1", "FlowSchema", "flowschemas", "flowschema"),
    namespaced: false,
    subresources: &[status_of(GROUP, "v1", "FlowSchema")],
    generation: true,
    status: true,
    default: |object| set_default_number(make_object(object, "spec"), "matchingPrecedence", 1000),
    prepare_update: |new, old, part| {
        if part == Part::Status {
            keep_metadata(new, old);
        }
    },
    validate: rules::flow_schema,
    validate_update: |new, _, part| if part == Part::Status { rules::conditions(new) } else { Vec::new() },
    columns: &[
        NAME,
        column("PriorityLevel"),
        column("MatchingPrecedence"),
        column("DistinguisherMethod"),
        column("Age"),
        column("MissingPL"),
    ],
    cells: |object, now| {
        let dangling = list(object, "status.conditions").iter().find(|condition| text(condition, "type") == "Dangling");
        vec![
            show::name(object),
            text(object, "spec.priorityLevelConfiguration.name").into(),
            show::number(object, "spec.matchingPrecedence").into(),
            show::or_none(text(object, "spec.distinguisherMethod.type")),
            show::age(object, now),
            dangling.map_or("?", |condition| text(condition, "status")).into(),
        ]
    },
    ..PLAIN
};

/// PriorityLevelConfiguration.
pub static PRIORITY_LEVEL: Definition = Definition {
    names: names!(
        "flowcontrol.apiserver.k8s.io", "v1", "PriorityLevelConfiguration", "prioritylevelconfigurations",
        "prioritylevelconfiguration"
    ),
    namespaced: false,
    subresources: &[status_of(GROUP, "v1", "PriorityLevelConfiguration")],
    generation: true,
    status: true,
    default: priority_level_defaults,
    prepare_update: |new, old, part| {
        if part == Part::Status {
            keep_metadata(new, old);
        }
    },
    validate: rules::priority_level,
    validate_update: |new, _, part| if part == Part::Status { rules::conditions(new) } else { Vec::new() },
    columns: &[
        NAME,
        column("Type"),
        column("NominalConcurrencyShares"),
        column("Queues"),
        column("HandSize"),
        column("QueueLengthLimit"),
        column("Age"),
    ],
    cells: |object, now| {
        let shown = |path: &str| match find(object, path) {
            Value::Null => "<none>".into(),
            number => number.clone(),
        };
        let queuing = |field: &str| shown(&format!("spec.limited.limitResponse.queuing.{field}"));
        vec![
            show::name(object),
            text(object, "spec.type").into(),
            shown("spec.limited.nominalConcurrencyShares"),
            queuing("queues"),
            queuing("handSize"),
            queuing("queueLengthLimit"),
            show::age(object, now),
        ]
    },
    ..PLAIN
};

fn priority_level_defaults(object: &mut Value) {
    let spec = make_object(object, "spec");
    if let Some(exempt) = object_mut(spec, "exempt") {
        set_default(exempt, "nominalConcurrencyShares", 0);
        set_default(exempt, "lendablePercent", 0);
    }
    let Some(limited) = object_mut(spec, "limited") else { return };
    set_default(limited, "nominalConcurrencyShares", 30);
    set_default(limited, "lendablePercent", 0);
    if let Some(queuing) = object_mut(limited, "limitResponse").and_then(|response| object_mut(response, "queuing")) {
        for (field, default) in [("queues", 64), ("handSize", 8), ("queueLengthLimit", 50)] {
            set_default_number(queuing, field, default);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::field::FieldError;
    use crate::kind::Kind as _;

    fn texts(findings: &[FieldError]) -> Vec<String> {
        findings.iter().map(ToString::to_string).collect()
    }

    fn rules_of(object: &mut Value) -> &mut [Value] {
        crate::cursor::items_mut(make_object(object, "spec"), "rules")
    }

    fn schema(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut object = json!({"metadata": {"name": "s"}, "spec": {"priorityLevelConfiguration": {"name": "global-default"},
            "rules": [{"subjects": [{"kind": "User", "user": {"name": "u"}}],
                "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}]}});
        change(&mut object);
        FLOW_SCHEMA.check(&mut object).unwrap();
        FLOW_SCHEMA.default(&mut object);
        texts(&FLOW_SCHEMA.validate_create(&object))
    }

    #[test]
    fn flow_schemas() {
        assert_eq!(schema(|_| {}), Vec::<String>::new());
        assert_eq!(
            schema(|object| object["spec"]["matchingPrecedence"] = json!(1)),
            ["spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1"]
        );
        assert_eq!(
            schema(|object| object["spec"]["priorityLevelConfiguration"] = json!({})),
            ["spec.priorityLevelConfiguration.name: Required value: must reference a priority level"]
        );
        assert_eq!(
            schema(|object| rules_of(object)[0]["subjects"][0]["kind"] = json!("Group")),
            [
                "spec.rules[0].subjects[0].group: Required value: group is required when subject kind is 'Group'",
                "spec.rules[0].subjects[0].user: Forbidden: user is forbidden when subject kind is not 'User'"
            ]
        );
        assert_eq!(
            schema(|object| rules_of(object)[0]["nonResourceRules"][0]["nonResourceURLs"] = json!(["x", "/a*", "/b/*", "/"])),
            [
                "spec.rules[0].nonResourceRules[0].nonResourceURLs[0]: Invalid value: \"x\": must start with slash",
                "spec.rules[0].nonResourceRules[0].nonResourceURLs[1]: Invalid value: \"/a*\": wildcard can only do suffix matching"
            ]
        );
        assert_eq!(
            schema(|object| object["metadata"]["name"] = json!("catch-all")).len(),
            1,
            "what the name stands for is fixed"
        );
    }

    fn level(name: &str, spec: Value) -> Vec<String> {
        let mut object = json!({"metadata": {"name": name}, "spec": spec});
        PRIORITY_LEVEL.check(&mut object).unwrap();
        PRIORITY_LEVEL.default(&mut object);
        texts(&PRIORITY_LEVEL.validate_create(&object))
    }

    #[test]
    fn priority_levels() {
        let limited = |response: Value| json!({"type": "Limited", "limited": {"limitResponse": response}});
        assert!(level("l", limited(json!({"type": "Queue", "queuing": {}}))).is_empty());
        assert_eq!(
            level("l", limited(json!({"type": "Queue", "queuing": {"queues": 3, "handSize": 4}}))),
            ["spec.limited.limitResponse.queuing.handSize: Invalid value: 4: should not be greater than queues (3)"]
        );
        assert_eq!(
            level("l", limited(json!({"type": "Queue", "queuing": {"queues": 512, "handSize": 8}}))),
            ["spec.limited.limitResponse.queuing.handSize: Invalid value: 8: required entropy bits of deckSize 512 and handSize 8 \
              should not be greater than 60"]
        );
        assert_eq!(
            level("l", json!({"type": "Exempt"})),
            ["spec.type: Invalid value: \"Exempt\": must be 'Exempt' if and only if `name` is 'exempt'"]
        );
        assert_eq!(level("l", json!({"type": "Limited"})), ["spec.limited: Required value: must not be empty when type is Limited"]);
        assert!(level("exempt", json!({"type": "Exempt", "exempt": {"lendablePercent": 50}})).is_empty());
    }

    #[test]
    fn what_every_cluster_has_passes_its_own_rules() {
        for object in builtin::all() {
            let (group, version) = crate::meta::split_api_version(text(&object, "apiVersion"));
            let kind = crate::kinds::find_kind(group, version, text(&object, "kind")).unwrap();
            let mut object = object;
            kind.check(&mut object).unwrap();
            let before = object["spec"].clone();
            kind.default(&mut object);
            assert_eq!(object["spec"], before, "defaults change nothing");
            assert_eq!(texts(&kind.validate_create(&object)), Vec::<String>::new(), "{object}");
        }
    }
}
