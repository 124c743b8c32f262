//! Objects of custom resources between the version that they are stored in and the one that was asked for.

use std::sync::Arc;
use std::time::Duration;

use balsa_api::apiextensions::CustomKind;
use balsa_api::kind::{Kind, KindRef};
use balsa_api::status::{ApiError, ApiResult};
use bytes::Bytes;
use serde_json::Value;

use super::convert::Converter;
use super::Kinds;
use crate::pipeline::{Api, Found, Target, decode, encode, store_error};
use crate::storage::{Entry, envelope};
use crate::value;
use crate::watch_cache::Objects;
use crate::watch_cache::object::Object;

/// Objects converted in one go, and their bytes: a webhook gets them as one review.
const BATCH: usize = 500;
const BATCH_BYTES: usize = 1 << 20;

/// How long the writer of a definition waits until it is in force here.
const HEARD: Duration = Duration::from_secs(1);

/// How a reader of a custom resource sees objects.
#[derive(Clone)]
pub struct Lens {
    /// The version asked for.
    pub kind: Arc<CustomKind>,
    /// Converts.
    pub converter: Arc<Converter>,
    /// Says when the version is no longer what it was.
    pub kinds: Arc<Kinds>,
}

/// Shows stored objects in a version; what was shown before is remembered beside the object.
pub async fn show(converter: &Converter, kind: &CustomKind, objects: &[Arc<Object>]) -> ApiResult<Vec<Arc<Object>>> {
    let mut out: Vec<Option<Arc<Object>>> = objects.iter().map(|object| object.shown(kind.serial)).collect();
    let missing: Vec<usize> = (0..out.len()).filter(|index| out[*index].is_none()).collect();
    for part in batches(&missing, |index| objects[*index].json.len()) {
        let values: Vec<Value> = part.iter().map(|index| objects[*index].value()).collect();
        let shown = show_values(converter, kind, values).await?;
        for (index, value) in part.iter().zip(shown) {
            let object = &objects[*index];
            let view = Object::from_value(kind, &value, object.revision);
            out[*index] = Some(object.remember(kind.serial, view));
        }
    }
    Ok(out.into_iter().flatten().collect())
}

/// Cuts a list into parts of bounded length and size. Pure.
fn batches<T>(all: &[T], size: impl Fn(&T) -> usize) -> Vec<&[T]> {
    let (mut parts, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (at, one) in all.iter().enumerate() {
        let more = size(one);
        if at > start && (at - start == BATCH || bytes + more > BATCH_BYTES) {
            parts.push(&all[start..at]);
            (start, bytes) = (at, 0);
        }
        bytes += more;
    }
    if start < all.len() {
        parts.push(&all[start..]);
    }
    parts
}

async fn show_values(converter: &Converter, kind: &CustomKind, values: Vec<Value>) -> ApiResult<Vec<Value>> {
    let mut shown = converter.convert(kind, values, &kind.gvk().api_version()).await?;
    shown.iter_mut().for_each(|value| kind.show(value));
    Ok(shown)
}

impl Lens {
    /// Shows stored objects.
    pub async fn show(&self, objects: &[Arc<Object>]) -> ApiResult<Vec<Arc<Object>>> {
        show(&self.converter, &self.kind, objects).await
    }

    /// Whether the version is no longer served as it was.
    pub fn is_stale(&self) -> bool {
        !self.kinds.is_current(&self.kind)
    }
}

impl Api {
    /// How readers of this kind see what the cache holds; `None`: as it is.
    pub fn lens(&self, kind: &KindRef) -> Option<Lens> {
        match kind {
            KindRef::BuiltIn(_) => None,
            KindRef::Custom(kind) => {
                Some(Lens { kind: kind.clone(), converter: self.converter.clone(), kinds: self.kinds.clone() })
            }
        }
    }

    /// Cached objects as this kind shows them.
    pub async fn show_all(&self, kind: &dyn Kind, objects: Objects, namespace: &str) -> ApiResult<Objects> {
        let Some(custom) = kind.custom() else { return Ok(objects) };
        let (places, stored): (Vec<String>, Vec<Arc<Object>>) =
            crate::watch_cache::select_namespace(&objects, namespace).map(|(place, object)| (place.clone(), object.clone())).unzip();
        let shown = show(&self.converter, custom, &stored).await?;
        Ok(places.into_iter().zip(shown).collect())
    }

    /// A cached object as this kind shows it.
    pub async fn show_one(&self, kind: &dyn Kind, object: Arc<Object>) -> ApiResult<Found> {
        let object = match kind.custom() {
            None => object,
            Some(custom) => show(&self.converter, custom, &[object]).await?.pop().ok_or_else(lost)?,
        };
        Ok(Found { value: object.value(), revision: object.revision })
    }

    /// What the store holds as this kind shows it.
    pub async fn open(&self, kind: &dyn Kind, entry: &Entry) -> ApiResult<Found> {
        let Some(custom) = kind.custom() else { return decode(kind, entry) };
        let value = envelope::decode(entry.value.clone(), entry.revision).map_err(|error| store_error(error, false))?;
        let value = show_values(&self.converter, custom, vec![value]).await?.pop().ok_or_else(lost)?;
        Ok(Found { value, revision: entry.revision })
    }

    /// An object of this kind as the store holds it.
    pub async fn close(&self, kind: &dyn Kind, object: &Value) -> ApiResult<Bytes> {
        let Some(custom) = kind.custom() else { return Ok(encode(kind, object)) };
        let stored = self.converter.convert(custom, vec![object.clone()], &custom.storage_api_version()).await?;
        let stored = stored.into_iter().next().ok_or_else(lost)?;
        let (names, version) = (kind.names(), &custom.shared.storage_version);
        Ok(envelope::encode(names.group, version, names.kind, value::namespace(&stored), value::name(&stored), &stored))
    }

    /// After a write of a definition: waits (not for long) until this apiserver has heard of it itself, so that who wrote
    /// it finds it in force.
    pub async fn hear_definition(&self, kind: &dyn Kind, revision: u64) {
        if kind.names().group == super::GROUP {
            self.caches.wait_for(revision, HEARD).await;
        }
    }

    /// Whether an object is stored in another version than its definition wants now: a write that changes nothing
    /// brings it into that version.
    pub async fn is_stored_otherwise(&self, target: Target<'_>) -> ApiResult<bool> {
        let Some(custom) = target.kind.custom() else { return Ok(false) };
        let (entry, _) = self.store.get(&target.key()).await.map_err(|error| store_error(error, false))?;
        let Some(entry) = entry else { return Ok(false) };
        let stored = envelope::decode(entry.value, entry.revision).map_err(|error| store_error(error, false))?;
        Ok(value::text(&stored, "/apiVersion") != custom.storage_api_version())
    }
}

fn lost() -> ApiError {
    ApiError::internal("a conversion lost its object")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_bounded() {
        let lengths = |all: &[usize]| batches(all, |size| *size).iter().map(|part| part.len()).collect::<Vec<_>>();
        assert_eq!(lengths(&[1; 1200]), [500, 500, 200]);
        assert_eq!(lengths(&[BATCH_BYTES, 1, BATCH_BYTES - 1, 5]), [1, 2, 1]);
        assert!(lengths(&[]).is_empty());
    }
}
