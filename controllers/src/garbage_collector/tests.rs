//! The graph and the planner together, on a small world of objects: nothing owned is lost, nothing garbage stays.

use std::collections::{BTreeMap, BTreeSet};

use balsa_api::meta::GroupVersionResource;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use proptest::prelude::*;

use super::graph::{FOREGROUND, Graph, Look, ORPHAN, Vertex};
use super::plan::{Action, Observed, OwnerState, collect, free, release};
use crate::common::time;
use crate::testing::at;

/// Objects of one kind in one namespace, with the apiserver's rules about finalizers.
#[derive(Default)]
struct World {
    objects: BTreeMap<String, ObjectMeta>,
    graph: Graph,
    looks: BTreeSet<Look>,
    log: Vec<String>,
}

fn maps() -> GroupVersionResource {
    GroupVersionResource::new("", "v1", "configmaps")
}

fn uid(name: &str) -> String {
    format!("uid-{name}")
}

impl World {
    /// `owners`: names; a `!` in front blocks the owner's foreground deletion.
    fn create(&mut self, name: &str, owners: &[&str]) {
        let reference = |owner: &&str| OwnerReference {
            name: owner.trim_start_matches('!').to_owned(),
            uid: uid(owner.trim_start_matches('!')),
            block_owner_deletion: Some(owner.starts_with('!')),
            ..OwnerReference::default()
        };
        let meta = ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some("ns".to_owned()),
            uid: Some(uid(name)),
            resource_version: Some("1".to_owned()),
            owner_references: Some(owners.iter().map(reference).collect()),
            ..ObjectMeta::default()
        };
        self.store(meta);
    }

    /// Written, seen by the graph, and gone if it was only held by a finalizer.
    fn store(&mut self, meta: ObjectMeta) {
        let own = meta.uid.clone().unwrap();
        if meta.deletion_timestamp.is_some() && meta.finalizers.as_ref().is_none_or(Vec::is_empty) {
            if self.objects.remove(&own).is_some() {
                self.log.push(format!("{} is gone", meta.name.unwrap()));
            }
            let looks = self.graph.remove(&own);
            self.looks.extend(looks);
            return;
        }
        let looks = self.graph.upsert(Vertex::new(&maps(), &meta));
        self.looks.extend(looks);
        self.objects.insert(own, meta);
    }

    fn delete(&mut self, name: &str, propagation: &str) {
        let Some(mut meta) = self.objects.get(&uid(name)).cloned() else { return };
        meta.deletion_timestamp = time::api(at(0));
        let finalizers = meta.finalizers.get_or_insert_default();
        let added = match propagation {
            "Foreground" => FOREGROUND,
            "Orphan" => ORPHAN,
            _ => "",
        };
        if !added.is_empty() && !finalizers.iter().any(|own| own == added) {
            finalizers.push(added.to_owned());
        }
        self.store(meta);
    }

    fn observed(&self, meta: &ObjectMeta) -> Observed {
        let state = |owner: &OwnerReference| match self.objects.get(&owner.uid) {
            None => OwnerState::Absent,
            Some(meta) if Vertex::new(&maps(), meta).waits_for_dependents() => OwnerState::Waiting,
            Some(_) => OwnerState::Present,
        };
        let owners = meta.owner_references.iter().flatten().map(|owner| (owner.clone(), state(owner))).collect();
        let dependents = self.graph.dependents(meta.uid.as_deref().unwrap()).cloned().collect();
        Observed { resource: maps(), meta: meta.clone(), owners, dependents }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Look { uid, .. } => {
                self.looks.insert(Look::Collect(uid));
            }
            Action::Delete { name, propagation, .. } => {
                self.log.push(format!("delete {name} {propagation}"));
                self.delete(&name, propagation);
            }
            Action::Patch { name, what, patch, .. } => {
                self.log.push(format!("{name}: {what}"));
                let mut meta = self.objects[&uid(&name)].clone();
                if let Some(references) = patch.pointer("/metadata/ownerReferences") {
                    meta.owner_references = serde_json::from_value(references.clone()).unwrap();
                }
                if let Some(finalizers) = patch.pointer("/metadata/finalizers") {
                    meta.finalizers = serde_json::from_value(finalizers.clone()).unwrap();
                }
                self.store(meta);
            }
        }
    }

    /// Works through the looks, in an order chosen by `pick`.
    fn settle(&mut self, mut pick: impl FnMut(usize) -> usize) {
        for round in 0.. {
            assert!(round < 2000, "it never ends: {:?}", self.log);
            if self.looks.is_empty() {
                return;
            }
            let look = self.looks.iter().nth(pick(self.looks.len())).cloned().unwrap();
            self.looks.remove(&look);
            match look {
                Look::Collect(uid) => {
                    let Some(meta) = self.objects.get(&uid).cloned() else { continue };
                    for action in collect(&self.observed(&meta)).actions {
                        self.act(action);
                    }
                }
                Look::Orphan(owner) => {
                    let dependents: Vec<String> = self.graph.dependents(&owner).map(|vertex| vertex.uid.clone()).collect();
                    for dependent in dependents {
                        let meta = self.objects[&dependent].clone();
                        if let Some(action) = free(&self.observed(&meta), &owner) {
                            self.act(action);
                        }
                    }
                    let Some(meta) = self.objects.get(&owner).cloned() else { continue };
                    if let Some(action) = release(&self.observed(&meta)) {
                        self.act(action);
                    }
                }
            }
        }
    }

    fn names(&self) -> Vec<&str> {
        self.objects.values().filter_map(|meta| meta.name.as_deref()).collect()
    }
}

fn world() -> World {
    let mut world = World::default();
    world.create("deploy", &[]);
    world.create("rs", &["!deploy"]);
    world.create("pod-1", &["!rs"]);
    world.create("pod-2", &["!rs"]);
    world.create("shared", &["rs", "keeper"]);
    world.create("keeper", &[]);
    world.settle(|_| 0);
    assert_eq!(world.log, Vec::<String>::new(), "all owners are there");
    world
}

#[test]
fn background_the_owner_first() {
    let mut world = world();
    world.delete("deploy", "Background");
    world.settle(|_| 0);
    assert_eq!(world.names(), ["keeper", "shared"]);
    assert_eq!(world.log[..2], ["deploy is gone", "delete rs Background"]);
    assert!(world.log.contains(&"shared: lost owners come off".to_owned()));
    assert_eq!(world.objects[&uid("shared")].owner_references.as_ref().map(Vec::len), Some(1));
}

#[test]
fn foreground_the_owner_last() {
    let mut world = world();
    world.delete("deploy", "Foreground");
    world.settle(|_| 0);
    assert_eq!(world.names(), ["keeper", "shared"]);
    let when = |text: &str| world.log.iter().position(|line| line == text);
    assert!(when("pod-1 is gone") < when("rs is gone") && when("rs is gone") < when("deploy is gone"), "{:?}", world.log);
    assert!(world.log.contains(&"delete rs Foreground".to_owned()), "{:?}", world.log);
}

#[test]
fn orphan_the_dependents_stay() {
    let mut world = world();
    world.delete("rs", "Orphan");
    world.settle(|_| 0);
    assert_eq!(world.names(), ["deploy", "keeper", "pod-1", "pod-2", "shared"]);
    assert_eq!(world.objects[&uid("pod-1")].owner_references, Some(vec![]));
}

#[test]
fn an_owner_that_never_was_is_absent_and_a_foreign_finalizer_holds() {
    let mut world = World::default();
    world.create("stray", &["nobody"]);
    world.settle(|_| 0);
    assert_eq!(world.log, ["delete stray Background", "stray is gone"]);
    world.create("owner", &[]);
    world.create("held", &["!owner"]);
    let mut held = world.objects[&uid("held")].clone();
    held.finalizers = Some(vec!["example.com/hold".to_owned()]);
    world.store(held);
    world.delete("owner", "Foreground");
    world.settle(|_| 0);
    assert_eq!(world.names(), ["held", "owner"], "the owner waits for what is held");
    let mut held = world.objects[&uid("held")].clone();
    held.finalizers = None;
    world.store(held);
    world.settle(|_| 0);
    assert_eq!(world.names(), Vec::<&str>::new());
}

#[test]
fn circles_do_not_block() {
    for propagation in ["Background", "Foreground"] {
        let mut world = World::default();
        world.create("a", &["!c"]);
        world.create("b", &["!a"]);
        world.create("c", &["!b"]);
        world.looks.clear();
        world.delete("a", propagation);
        world.settle(|_| 0);
        assert_eq!(world.names(), Vec::<&str>::new(), "{propagation}: {:?}", world.log);
    }
}

proptest! {
    // Any graph, any deletions, any order of work: it ends, and exactly what has a live owner (or never had one) stays.
    #[test]
    fn garbage_goes_and_nothing_else(
        edges in prop::collection::vec((1..9usize, 0..9usize, any::<bool>()), 0..16),
        deletions in prop::collection::vec((0..9usize, 0..2usize), 1..4),
        picks in prop::collection::vec(any::<u16>(), 64),
    ) {
        let mut world = World::default();
        let mut owners: BTreeMap<usize, BTreeMap<usize, bool>> = BTreeMap::new();
        for (child, owner, blocks) in edges {
            if owner < child {
                owners.entry(child).or_default().insert(owner, blocks);
            }
        }
        for child in 0..9 {
            let names: Vec<String> = owners.get(&child).into_iter().flatten()
                .map(|(owner, blocks)| if *blocks { format!("!o{owner}") } else { format!("o{owner}") }).collect();
            world.create(&format!("o{child}"), &names.iter().map(String::as_str).collect::<Vec<_>>());
        }
        let mut next = 0;
        let mut pick = |count: usize| { next += 1; usize::from(picks[next % picks.len()]) % count };
        let mut alive: BTreeSet<usize> = (0..9).collect();
        for (which, how) in deletions {
            alive.remove(&which);
            world.delete(&format!("o{which}"), ["Background", "Foreground"][how]);
            world.settle(&mut pick);
        }
        // Owners have lower numbers: one pass finds who is left without any.
        for child in 0..9 {
            if let Some(owners) = owners.get(&child)
                && !owners.keys().any(|owner| alive.contains(owner))
            {
                alive.remove(&child);
            }
        }
        let expected: Vec<String> = alive.iter().map(|number| format!("o{number}")).collect();
        prop_assert_eq!(world.names(), expected, "{:?}", world.log);
    }
}
