//! The same calls for kinds that are only known at run time (garbage collection, namespace deletion).

use balsa_api::meta::GroupVersionResource;
use serde_json::Value;

use crate::client::Client;
use crate::error::Result;
use crate::object::{Cause, DeleteOptions, Deleted, DynamicObject, ListOf, ListParams, Patch, WatchParams, encode};
use crate::watch::{self, WatchStream};

impl Client {
    /// [`Client::get`] for any resource.
    pub async fn get_raw(&self, resource: &GroupVersionResource, ns: &str, name: &str) -> Result<Value> {
        Ok(self.get_as::<DynamicObject>(resource, ns, name, "").await?.value)
    }

    /// [`Client::list`] for any resource.
    pub async fn list_raw(&self, resource: &GroupVersionResource, ns: &str, params: &ListParams) -> Result<ListOf<Value>> {
        let page = self.list_as::<DynamicObject>(resource, ns, params).await?;
        let items = page.items.into_iter().map(|object| object.value).collect();
        Ok(ListOf { items, revision: page.revision, continue_token: page.continue_token })
    }

    /// [`Client::create`] for any resource.
    pub async fn create_raw(&self, resource: &GroupVersionResource, ns: &str, object: &Value, cause: &Cause) -> Result<Value> {
        Ok(self.create_as::<DynamicObject>(resource, ns, ("", ""), encode(object)?, cause).await?.value)
    }

    /// [`Client::update`] for any resource; `subresource` may be empty, `status`, `finalize`, ….
    pub async fn update_raw(
        &self,
        resource: &GroupVersionResource,
        subresource: &str,
        object: &Value,
        cause: &Cause,
    ) -> Result<Value> {
        let object = DynamicObject::from_value(object.clone())?;
        let body = encode(&object.value)?;
        Ok(self.update_as::<DynamicObject>(resource, subresource, &object.metadata, body, cause).await?.value)
    }

    /// [`Client::patch`] for any resource.
    #[expect(clippy::too_many_arguments, reason = "the parts of a URL, the patch and the cause")]
    pub async fn patch_raw(
        &self,
        resource: &GroupVersionResource,
        ns: &str,
        name: &str,
        subresource: &str,
        patch: Patch,
        cause: &Cause,
    ) -> Result<Value> {
        Ok(self.patch_as::<DynamicObject>(resource, ns, name, subresource, &patch, cause).await?.value)
    }

    /// [`Client::delete`] for any resource.
    pub async fn delete_raw(
        &self,
        resource: &GroupVersionResource,
        ns: &str,
        name: &str,
        options: DeleteOptions,
        cause: &Cause,
    ) -> Result<Deleted<Value>> {
        let deleted = self.delete_as::<DynamicObject>(resource, ns, name, options, cause).await?;
        Ok(Deleted { object: deleted.object.map(|object| object.value), gone: deleted.gone })
    }

    /// [`Client::watch`] for any resource.
    pub async fn watch_raw(
        &self,
        resource: &GroupVersionResource,
        ns: &str,
        params: WatchParams,
    ) -> Result<WatchStream<DynamicObject>> {
        watch::open(self, resource, ns, &params).await
    }
}
