//! What the apiserver itself does about definitions: names and conditions, and the end of their objects.
//!
//! Every apiserver does so. What is written is a function of what is stored ([`balsa_api::apiextensions::status`]), and
//! a write that meets another one is planned anew, so that a second writer finds nothing to do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use balsa_api::apiextensions::CustomKind;
use balsa_api::apiextensions::definition::FINALIZER;
use balsa_api::apiextensions::kind::of_definition;
use balsa_api::apiextensions::status::{self, Condition};
use balsa_api::kind::Part;
use balsa_api::status::{ApiError, ApiResult};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{GROUP, PLURAL};
use crate::pipeline::graceful::DeleteOptions;
use crate::pipeline::update::Write;
use crate::pipeline::{Api, Call, Target};
use crate::value;

/// How often everything is looked at although nothing was heard: a failed step is tried again.
const EVERY: Duration = Duration::from_secs(5);
/// How soon the objects of an ending definition are looked at again.
const SOON: Duration = Duration::from_millis(200);

/// Looks after definitions until `stop`.
pub async fn run(api: Arc<Api>, stop: CancellationToken) {
    let Some(definitions) = api.kinds.definitions().cloned() else { return };
    let mut changed = definitions.subscribe();
    let watching = async {
        let mut settled = BTreeMap::new();
        loop {
            changed.borrow_and_update();
            let waiting = round(&api, &mut settled).await;
            let pause = if waiting { SOON } else { EVERY };
            tokio::time::timeout(pause, changed.changed()).await.ok();
        }
    };
    stop.run_until_cancelled(watching).await;
}

/// The group of a definition, as its name says.
fn group_of(name: &str) -> &str {
    name.split_once('.').map_or("", |(_, group)| group)
}

/// Groups in which something has changed since `settled`: names are given per group. Pure.
fn changed_groups<'a>(present: &'a BTreeMap<String, u64>, settled: &'a BTreeMap<String, u64>) -> BTreeSet<&'a str> {
    let new = present.iter().filter(|(name, revision)| settled.get(*name) != Some(*revision));
    let gone = settled.iter().filter(|(name, _)| !present.contains_key(*name));
    new.chain(gone).map(|(name, _)| group_of(name)).collect()
}

/// One look at all definitions that are not as they were `settled`. True: some wait for their objects to go.
async fn round(api: &Api, settled: &mut BTreeMap<String, u64>) -> bool {
    if !api.caches.is_loaded() {
        return true;
    }
    let Some(definitions) = api.kinds.definitions() else { return false };
    let listed = definitions.list("");
    let present: BTreeMap<String, u64> = listed.iter().map(|object| (object.name.clone(), object.revision)).collect();
    let groups = changed_groups(&present, settled);
    let all: Vec<Value> =
        listed.iter().filter(|object| groups.contains(group_of(&object.name))).map(|object| object.value()).collect();
    let (mut waiting, mut unsettled) = (false, BTreeSet::new());
    for definition in &all {
        let name = value::name(definition);
        let outcome = match value::is_deleting(definition) {
            true => end(api, definition).await,
            false => settle(api, name, &all).await.map(|()| false),
        };
        match outcome {
            Ok(false) => continue,
            Ok(true) => waiting = true,
            Err(error) if error.is_not_found() || error.is_conflict() => {}
            Err(error) => tracing::warn!(definition = name, error = error.message, "cannot look after a definition"),
        }
        unsettled.insert(name.to_owned());
    }
    // What is not settled is remembered without its revision, so that its end is noticed, too.
    let known = |(name, revision): (&String, &u64)| (name.clone(), if unsettled.contains(name) { 0 } else { *revision });
    *settled = present.iter().map(known).collect();
    waiting
}

fn kind() -> ApiResult<&'static dyn balsa_api::kind::Kind> {
    balsa_api::kinds::find(GROUP, "v1", PLURAL).ok_or_else(ApiError::no_such_path)
}

/// Names and conditions of one definition.
async fn settle(api: &Api, name: &str, all: &[Value]) -> ApiResult<()> {
    let group = |of: &Value| value::text(of, "/spec/group").to_owned();
    let Some(definition) = all.iter().find(|one| value::name(one) == name) else { return Ok(()) };
    let own = group(definition);
    let others: Vec<&Value> = all.iter().filter(|one| group(one) == own && value::name(one) != name).collect();
    let planned = |object: &Value| {
        let mut group = others.clone();
        group.push(object);
        status::plan(object, &group)
    };
    if planned(definition).is_empty() {
        return Ok(());
    }
    let call = Call::internal("conditions of a definition");
    let change = |old: &Value| {
        let (mut new, plan) = (old.clone(), planned(old));
        if value::is_deleting(old) {
            return Ok(new);
        }
        let status = value::member(&mut new, "status");
        if let Some(names) = plan.accepted_names {
            status.insert("acceptedNames".to_owned(), names);
        }
        if let Some(conditions) = value::list(status, "conditions") {
            conditions.retain(|one| !plan.obsolete.contains(&value::text(one, "/type")));
        }
        for condition in &plan.conditions {
            value::set_condition(&mut new, condition.to_value(), call.now);
        }
        Ok(new)
    };
    let target = Target { kind: kind()?, namespace: "", name };
    api.modify(&call, Write { target, part: Part::Status, by_rules: false }, &change).await?;
    Ok(())
}

/// The end of a definition: its objects first. True: they are not gone yet.
async fn end(api: &Api, definition: &Value) -> ApiResult<bool> {
    if !value::finalizers(definition).iter().any(|name| name == FINALIZER) {
        return Ok(false);
    }
    let established = balsa_api::apiextensions::definition::is_true(definition, "Established");
    let condition = if established {
        match clear(api, definition).await {
            Ok(true) => Condition::instances_deleted(),
            Ok(false) => {
                note(api, definition, &Condition::deleting_instances(), false).await?;
                return Ok(true);
            }
            Err(error) => {
                note(api, definition, &Condition::deletion_failed(&error.message), false).await?;
                return Ok(true);
            }
        }
    } else {
        Condition::never_established()
    };
    note(api, definition, &condition, true).await?;
    Ok(false)
}

/// The version that objects are stored in, whether it is served or not. Pure.
fn stored_kind(definition: &Value) -> Option<CustomKind> {
    let mut definition = definition.clone();
    let versions = definition.pointer_mut("/spec/versions")?.as_array_mut()?;
    versions.retain(|version| version["storage"] == true);
    versions.iter_mut().for_each(|version| version["served"] = true.into());
    of_definition(&definition).0.pop()
}

/// Deletes every object of a definition. True: none is left.
async fn clear(api: &Api, definition: &Value) -> ApiResult<bool> {
    let (group, plural) = (value::text(definition, "/spec/group"), value::text(definition, "/spec/names/plural"));
    let prefix = crate::storage::resource_prefix(group, plural);
    let end = crate::storage::prefix_end(&prefix);
    let error = |error| crate::pipeline::store_error(error, false);
    // The store's own word: what is not heard of yet is there, too.
    let entries = api.store.range(&prefix, &end, 0, 0).await.map_err(error)?.entries;
    if entries.is_empty() {
        return Ok(true);
    }
    let kind = stored_kind(definition).ok_or_else(|| ApiError::internal("the version that its objects are stored in cannot be used"))?;
    let kind = &kind;
    let call = Call::internal("the definition is being deleted");
    for entry in &entries {
        let place = entry.key.strip_prefix(&prefix).unwrap_or_default();
        let (namespace, name) = place.split_once('/').unwrap_or(("", place));
        match api.delete(&call, Target { kind, namespace, name }, &DeleteOptions::default()).await {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
    }
    Ok(api.store.range(&prefix, &end, 1, 0).await.map_err(error)?.entries.is_empty())
}

/// Writes a condition; with `finish` the finalizer goes with it.
async fn note(api: &Api, definition: &Value, condition: &Condition, finish: bool) -> ApiResult<()> {
    let call = Call::internal("the end of a definition");
    let uid = value::uid(definition).to_owned();
    let change = |old: &Value| {
        let mut new = old.clone();
        if value::uid(old) != uid {
            return Ok(new);
        }
        if !condition.is_in(old) {
            value::set_condition(&mut new, condition.to_value(), call.now);
        }
        if finish {
            let rest: Vec<String> = value::finalizers(old).into_iter().filter(|name| name != FINALIZER).collect();
            value::set_finalizers(&mut new, &rest);
        }
        Ok(new)
    };
    let target = Target { kind: kind()?, namespace: "", name: value::name(definition) };
    api.modify(&call, Write { target, part: Part::Status, by_rules: false }, &change).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_looked_at_again() {
        let state = |all: &[(&str, u64)]| all.iter().map(|(name, revision)| ((*name).to_owned(), *revision)).collect::<BTreeMap<_, _>>();
        let before = state(&[("a.g.io", 1), ("b.g.io", 2), ("c.h.io", 3), ("d.i.io", 4)]);
        let now = state(&[("a.g.io", 1), ("b.g.io", 5), ("c.h.io", 3)]);
        assert_eq!(changed_groups(&now, &before).into_iter().collect::<Vec<_>>(), ["g.io", "i.io"]);
        assert!(changed_groups(&before, &before).is_empty());
    }
}
