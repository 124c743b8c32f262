//! Opening a watch and reading its events. Reconnecting is the informer's business.

use balsa_api::meta::GroupVersionResource;
use balsa_api::status::ApiError;
use balsa_proto::api as wire;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tonic::Request;
use wire::watch_event::Type;

use crate::client::Client;
use crate::endpoints::Repeat;
use crate::error::{self, Error, Result};
use crate::object::{Decode, WatchEvent, WatchParams, decode_object, wire_resource};

/// The events of a watch, in order. It ends after its first error, or when the apiserver ends it.
pub type WatchStream<K> = BoxStream<'static, Result<WatchEvent<K>>>;

/// Opens a watch; the deadline is for the opening only.
pub(crate) async fn open<K: Decode>(
    client: &Client,
    resource: &GroupVersionResource,
    ns: &str,
    params: &WatchParams,
) -> Result<WatchStream<K>> {
    let request = wire::WatchRequest {
        resource: wire_resource(resource),
        namespace: ns.to_owned(),
        label_selector: params.label_selector.clone(),
        field_selector: params.field_selector.clone(),
        resource_version: params.resource_version.clone(),
        send_initial_events: params.send_initial_events,
        allow_bookmarks: true,
        timeout_seconds: params.timeout_seconds,
    };
    let endpoints = client.endpoints.clone();
    let mut used = 0;
    let events = endpoints
        .call(client.deadline, Repeat::Always, |mut api, _| {
            used = endpoints.current().0;
            let request = Request::new(request.clone());
            async move { api.watch(request).await }
        })
        .await?;
    let mut failed = false;
    Ok(events
        .map(move |event| match event {
            Ok(event) => read(&event),
            Err(status) => {
                let failure = error::from_status(&status);
                if matches!(failure, Error::Unavailable(_)) {
                    endpoints.rotate(used, &failure);
                }
                Err(failure)
            }
        })
        .take_while(move |event| {
            let go_on = !failed;
            failed |= event.is_err();
            std::future::ready(go_on)
        })
        .boxed())
}

fn read<K: Decode>(event: &wire::WatchEvent) -> Result<WatchEvent<K>> {
    let object = || event.object.as_ref().ok_or_else(|| Error::Decode("a watch event without an object".to_owned()));
    match event.r#type() {
        Type::Added => Ok(WatchEvent::Added(decode_object(object()?)?)),
        Type::Modified => Ok(WatchEvent::Modified(decode_object(object()?)?)),
        Type::Deleted => Ok(WatchEvent::Deleted(decode_object(object()?)?)),
        Type::Bookmark => {
            Ok(WatchEvent::Bookmark { revision: object()?.revision, initial_events_end: event.initial_events_end })
        }
        Type::Error => Err(ApiError::from_json(&event.status).map_or_else(
            || Error::Decode("a watch error without a Status".to_owned()),
            Error::Api,
        )),
        Type::Unspecified => Err(Error::Decode("a watch event without a type".to_owned())),
    }
}
