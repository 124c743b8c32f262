//! The objects of the apiserver double and its rules about writing them.

use std::collections::BTreeMap;

use balsa_api::meta::GroupVersionResource;
use balsa_api::status::{ApiError, ApiResult};
use serde_json::{Value, json};

type Key = (GroupVersionResource, String, String);

/// A change, as watches see it.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) revision: u64,
    pub(super) resource: GroupVersionResource,
    pub(super) namespace: String,
    pub(super) old: Option<Value>,
    /// `None`: deleted.
    pub(super) new: Option<Value>,
}

#[derive(Debug)]
pub(super) struct Store {
    objects: BTreeMap<Key, Value>,
    log: Vec<Entry>,
    revision: u64,
    compacted: u64,
}

impl Default for Store {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), log: Vec::new(), revision: 1, compacted: 0 }
    }
}

pub(super) fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn has_items(value: &Value, pointer: &str) -> bool {
    value.pointer(pointer).and_then(Value::as_array).is_some_and(|items| !items.is_empty())
}

fn now() -> String {
    let now = jiff::Timestamp::now();
    jiff::Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}

fn key(resource: &GroupVersionResource, ns: &str, name: &str) -> Key {
    (resource.clone(), ns.to_owned(), name.to_owned())
}

impl Store {
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn compact(&mut self) {
        self.compacted = self.revision;
        self.log.clear();
    }

    pub(super) fn get(&self, resource: &GroupVersionResource, ns: &str, name: &str) -> ApiResult<Value> {
        self.objects.get(&key(resource, ns, name)).cloned().ok_or_else(|| ApiError::not_found(resource, name))
    }

    pub(super) fn list(&self, resource: &GroupVersionResource, ns: &str) -> Vec<Value> {
        let in_namespace = |key: &&Key| ns.is_empty() || key.1 == ns;
        self.objects
            .iter()
            .filter(|(key, _)| key.0 == *resource && in_namespace(key))
            .map(|(_, value)| value.clone())
            .collect()
    }

    /// Changes after a revision.
    pub(super) fn since(&self, revision: u64) -> ApiResult<Vec<Entry>> {
        if revision < self.compacted {
            return Err(ApiError::expired(format!("too old resource version: {revision} ({})", self.compacted)));
        }
        let from = self.log.partition_point(|entry| entry.revision <= revision);
        Ok(self.log[from..].to_vec())
    }

    fn write(&mut self, key: Key, mut value: Value) -> Value {
        self.revision += 1;
        value["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        let old = self.objects.insert(key.clone(), value.clone());
        self.log.push(Entry {
            revision: self.revision,
            resource: key.0,
            namespace: key.1,
            old,
            new: Some(value.clone()),
        });
        value
    }

    pub(super) fn remove(&mut self, resource: &GroupVersionResource, ns: &str, name: &str) -> Option<Value> {
        let mut old = self.objects.remove(&key(resource, ns, name))?;
        self.revision += 1;
        old["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        self.log.push(Entry {
            revision: self.revision,
            resource: resource.clone(),
            namespace: ns.to_owned(),
            old: Some(old.clone()),
            new: None,
        });
        Some(old)
    }

    pub(super) fn put(&mut self, resource: &GroupVersionResource, mut value: Value) -> Value {
        let (ns, name) = (text(&value, "/metadata/namespace").to_owned(), text(&value, "/metadata/name").to_owned());
        complete(&mut value);
        self.write(key(resource, &ns, &name), value)
    }

    pub(super) fn create(&mut self, resource: &GroupVersionResource, ns: &str, mut value: Value) -> ApiResult<Value> {
        if !value.get("metadata").is_some_and(Value::is_object) {
            return Err(ApiError::bad_request("metadata is missing"));
        }
        if !ns.is_empty() {
            value["metadata"]["namespace"] = json!(ns);
        }
        if text(&value, "/metadata/name").is_empty() {
            let prefix = text(&value, "/metadata/generateName");
            if prefix.is_empty() {
                return Err(ApiError::bad_request("name or generateName is required"));
            }
            value["metadata"]["name"] = json!(balsa_api::names::generate_name(prefix));
        }
        let name = text(&value, "/metadata/name").to_owned();
        let key = key(resource, ns, &name);
        if self.objects.contains_key(&key) {
            return Err(ApiError::already_exists(resource, &name));
        }
        complete(&mut value);
        Ok(self.write(key, value))
    }

    /// Replaces the object, or its status where `subresource` says so.
    pub(super) fn update(
        &mut self,
        resource: &GroupVersionResource,
        ns: &str,
        name: &str,
        subresource: &str,
        value: Value,
    ) -> ApiResult<Value> {
        let old = self.get(resource, ns, name)?;
        check(resource, &old, text(&value, "/metadata/uid"), text(&value, "/metadata/resourceVersion"))?;
        let mut new = if subresource == "status" {
            let mut new = old.clone();
            new["status"] = value.get("status").cloned().unwrap_or(Value::Null);
            new
        } else {
            let mut new = value;
            if let Some(new) = new.as_object_mut() {
                match old.get("status") {
                    Some(status) => new.insert("status".to_owned(), status.clone()),
                    None => new.remove("status"),
                };
            }
            for kept in ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
                if let Some(value) = old["metadata"].get(kept) {
                    new["metadata"][kept] = value.clone();
                }
            }
            new
        };
        new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
        if new == old {
            return Ok(old);
        }
        if subresource != "status" && new.get("spec") != old.get("spec") {
            let generation = old.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(1);
            new["metadata"]["generation"] = json!(generation + 1);
        }
        let ending = new.pointer("/metadata/deletionTimestamp").is_some();
        let pod_waits = resource.resource == "pods"
            && new.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0) > 0;
        let namespace_waits = resource.resource == "namespaces" && has_items(&new, "/spec/finalizers");
        if ending && !has_items(&new, "/metadata/finalizers") && !pod_waits && !namespace_waits {
            self.write(key(resource, ns, name), new.clone());
            return Ok(self.remove(resource, ns, name).unwrap_or(new));
        }
        Ok(self.write(key(resource, ns, name), new))
    }

    /// (the object, whether it is gone)
    pub(super) fn delete(
        &mut self,
        resource: &GroupVersionResource,
        request: &balsa_proto::api::DeleteRequest,
    ) -> ApiResult<(Value, bool)> {
        let (ns, name) = (request.namespace.as_str(), request.name.as_str());
        let mut object = self.get(resource, ns, name)?;
        check(resource, &object, &request.precondition_uid, &request.precondition_resource_version)?;
        let finalizer = match request.propagation_policy.as_str() {
            "Foreground" => Some("foregroundDeletion"),
            "Orphan" => Some("orphan"),
            _ => None,
        };
        if let Some(finalizer) = finalizer {
            super::merge::strategic(&mut object, &json!({"metadata": {"finalizers": [finalizer]}}));
        }
        let over = matches!(text(&object, "/status/phase"), "Succeeded" | "Failed");
        let grace = match resource.resource.as_str() {
            "pods" if over || text(&object, "/spec/nodeName").is_empty() => 0,
            "pods" => request.grace_period_seconds.unwrap_or_else(|| {
                object.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(30)
            }),
            _ => 0,
        };
        let waits = grace > 0
            || has_items(&object, "/metadata/finalizers")
            || (resource.resource == "namespaces" && has_items(&object, "/spec/finalizers"));
        if !waits {
            let last = self.remove(resource, ns, name).unwrap_or(object);
            return Ok((last, true));
        }
        if object.pointer("/metadata/deletionTimestamp").is_none() {
            object["metadata"]["deletionTimestamp"] = json!(now());
            object["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
            if resource.resource == "namespaces" {
                object["status"] = json!({"phase": "Terminating"});
            }
        }
        Ok((self.write(key(resource, ns, name), object), false))
    }

    pub(super) fn bind(&mut self, request: &balsa_proto::api::BindRequest) -> ApiResult<()> {
        let pods = GroupVersionResource::new("", "v1", "pods");
        let mut pod = self.get(&pods, &request.namespace, &request.pod)?;
        check(&pods, &pod, &request.uid, "")?;
        let node = text(&pod, "/spec/nodeName");
        if !node.is_empty() {
            let detail = format!("pod {} is already assigned to node \"{node}\"", request.pod);
            return Err(ApiError::conflict(&pods, &request.pod, &detail));
        }
        if pod.pointer("/metadata/deletionTimestamp").is_some() {
            let detail = format!("pod {} is being deleted, cannot be assigned to a host", request.pod);
            return Err(ApiError::conflict(&pods, &request.pod, &detail));
        }
        pod["spec"]["nodeName"] = json!(request.node);
        let condition = json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": now(), "reason": null, "message": null});
        super::merge::strategic(&mut pod, &json!({"status": {"conditions": [condition]}}));
        self.write(key(&pods, &request.namespace, &request.pod), pod);
        Ok(())
    }
}

fn complete(value: &mut Value) {
    let meta = &mut value["metadata"];
    if text(meta, "/uid").is_empty() {
        meta["uid"] = json!(balsa_api::names::new_uid());
    }
    if text(meta, "/creationTimestamp").is_empty() {
        meta["creationTimestamp"] = json!(now());
    }
    if meta.get("generation").is_none() {
        meta["generation"] = json!(1);
    }
}

fn check(resource: &GroupVersionResource, object: &Value, uid: &str, version: &str) -> ApiResult<()> {
    let name = text(object, "/metadata/name");
    let actual = text(object, "/metadata/uid");
    if !uid.is_empty() && uid != actual {
        let detail = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {actual}");
        return Err(ApiError::conflict(resource, name, &detail));
    }
    if !version.is_empty() && version != text(object, "/metadata/resourceVersion") {
        return Err(ApiError::modified(resource, name));
    }
    Ok(())
}
