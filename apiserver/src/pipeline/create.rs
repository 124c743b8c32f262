//! Creating an object.

use balsa_api::field::FieldError;
use balsa_api::kind::Kind;
use balsa_api::names;
use balsa_api::status::{ApiError, ApiResult};
use serde_json::Value;

use super::body::{self, Body};
use super::{Api, Call, Found, Target, rules, store_error};
use crate::admission::{self, Operation, Review};
use crate::allocation::Fate;
use crate::storage::{Written, envelope};
use crate::value;

/// How often another generated name is tried.
const ATTEMPTS: usize = 8;

/// Seconds that an event is kept.
const EVENT_TTL: u32 = 3600;

/// How long objects of a kind are kept; for ever unless said.
pub fn ttl(kind: &dyn Kind) -> Option<u32> {
    (kind.names().plural == "events").then_some(EVENT_TTL)
}

/// Nothing new is made of what is about to go.
pub(super) fn refuse_terminating(kind: &dyn Kind) -> ApiResult<()> {
    match kind.custom().is_some_and(|custom| custom.shared.terminating) {
        true => {
            let text = "create not allowed while custom resource definition is terminating";
            Err(ApiError::new(405, "MethodNotAllowed", text))
        }
        false => Ok(()),
    }
}

impl Api {
    /// Creates what `body` says in `namespace`.
    pub async fn create(&self, call: &Call, kind: &dyn Kind, namespace: &str, body: Body) -> ApiResult<Found> {
        refuse_terminating(kind)?;
        let object = body::check(call, kind, body)?;
        self.create_checked(call, kind, namespace, object).await
    }

    /// As [`Self::create`], with an object that is of its kind already.
    pub async fn create_checked(
        &self,
        call: &Call,
        kind: &dyn Kind,
        namespace: &str,
        mut object: Value,
    ) -> ApiResult<Found> {
        body::place_in(kind, &mut object, namespace)?;
        if !value::text(&object, "/metadata/resourceVersion").is_empty() {
            return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
        }
        let prefix = value::text(&object, "/metadata/generateName").to_owned();
        let generated = value::name(&object).is_empty() && !prefix.is_empty();
        let mut attempt = 0;
        loop {
            let mut candidate = object.clone();
            if generated {
                value::metadata(&mut candidate).insert("name".to_owned(), names::generate_name(&prefix).into());
            }
            attempt += 1;
            match self.create_once(call, kind, namespace, candidate).await {
                Err(error) if generated && error.is_already_exists() && attempt < ATTEMPTS => {}
                outcome => return outcome,
            }
        }
    }

    async fn create_once(
        &self,
        call: &Call,
        kind: &dyn Kind,
        namespace: &str,
        mut object: Value,
    ) -> ApiResult<Found> {
        rules::stamp_new(&mut object, names::new_uid(), call.now);
        kind.default(&mut object);
        kind.prepare_create(&mut object);
        super::graceful::prepare_new(kind, &mut object);
        let name = value::name(&object).to_owned();
        let target = Target { kind, namespace, name: &name };
        let review = Review { call, target, operation: Operation::Create, subresource: "", old: None };
        admission::mutate(self, &review, &mut object).await?;
        self.track_managers(call, kind, &mut object, None, "")?;
        if name.is_empty() {
            let finding = FieldError::required("metadata.name", "name or generateName is required");
            return Err(ApiError::invalid(&kind.gvk(), "", &[finding]));
        }
        let claims = self.allocate(call, target, &mut object, None).await?;
        let outcome = self.admit_new(&review, object).await;
        let fate = outcome.as_ref().map_or_else(Fate::of_error, |_| Fate::Written);
        self.settle(claims, fate).await;
        outcome
    }

    async fn admit_new(&self, review: &Review<'_>, object: Value) -> ApiResult<Found> {
        let Review { call, target, .. } = *review;
        let findings = target.kind.validate_create(&object);
        if !findings.is_empty() {
            return Err(ApiError::invalid(&target.kind.gvk(), target.name, &findings));
        }
        target.kind.warnings(&object).into_iter().for_each(|text| call.warn(text));
        admission::validate(self, review, &object).await?;
        self.insert(call, target, object).await
    }

    /// The store transaction of a creation.
    async fn insert(&self, call: &Call, target: Target<'_>, mut object: Value) -> ApiResult<Found> {
        let exists = || ApiError::already_exists(&target.kind.gvr(), target.name);
        if call.dry_run {
            let taken = self.fetch(target).await?.is_some();
            return if taken { Err(exists()) } else { Ok(Found { value: object, revision: 0 }) };
        }
        let bytes = self.close(target.kind, &object).await?;
        let written = self.store.put(&target.key(), bytes, 0, ttl(target.kind)).await;
        match written.map_err(|error| store_error(error, true))? {
            Written::Done(revision) => {
                tracing::debug!(
                    key = target.key(), revision, user = call.caller.user, cause = call.cause, "created"
                );
                envelope::set_revision(&mut object, revision);
                self.hear_definition(target.kind, revision).await;
                Ok(Found { value: object, revision })
            }
            Written::Conflict(_) => Err(exists()),
        }
    }
}
