//! Changing an object: read, change, check, write if nobody else wrote; again if somebody did.

use balsa_api::kind::Part;
use balsa_api::status::{ApiError, ApiResult};
use serde_json::Value;

use super::body::{self, Body};
use super::create::ttl;
use super::{Api, Call, Found, Target, rules, store_error};
use crate::admission::{self, Operation, Review};
use crate::allocation::{Claims, Fate};
use crate::storage::{Written, envelope};
use crate::value;

/// How often a change is tried again after others wrote in between.
const ATTEMPTS: usize = 20;

/// What a change makes of the present object. Called anew for each attempt.
pub type Change<'a> = &'a (dyn Fn(&Value) -> ApiResult<Value> + Send + Sync);

/// Which part of an object is written, and by which rules.
#[derive(Clone, Copy)]
pub struct Write<'a> {
    /// The object.
    pub target: Target<'a>,
    /// What of it.
    pub part: Part<'a>,
    /// Whether kind rules (defaults, update validation, admission) apply; the machinery's own writes go without.
    pub by_rules: bool,
}

/// The subresource's name as admission and managed fields know it.
pub fn part_name(part: Part<'_>) -> &str {
    match part {
        Part::Main => "",
        Part::Status => "status",
        Part::Other(name) => name,
    }
}

impl Api {
    /// PUT: the whole object. True: it was created.
    pub async fn replace(&self, call: &Call, target: Target<'_>, part: Part<'_>, body: Body) -> ApiResult<(Found, bool)> {
        let mut object = body::check(call, target.kind, body)?;
        body::place_in(target.kind, &mut object, target.namespace)?;
        body::name_matches(&mut object, target.name)?;
        let change = |old: &Value| {
            rules::check_submitted(target, &object, old, false)?;
            Ok(object.clone())
        };
        match self.modify(call, Write { target, part, by_rules: true }, &change).await {
            Err(error)
                if error.is_not_found() && error.details.kind == target.kind.names().plural
                    && target.kind.create_on_update() && part == Part::Main =>
            {
                let mut object = object.clone();
                if !value::uid(&object).is_empty() {
                    return Err(error);
                }
                value::metadata(&mut object).remove("resourceVersion");
                let found = self.create_checked(call, target.kind, target.namespace, object).await?;
                Ok((found, true))
            }
            outcome => Ok((outcome?, false)),
        }
    }

    /// Changes an object by a function of its present state. 404 where there is none.
    pub async fn modify(&self, call: &Call, write: Write<'_>, change: Change<'_>) -> ApiResult<Found> {
        let target = write.target;
        // The cache is nearly always right, and the transaction finds out when it is not.
        let cached = self.cache(target.kind)?.get(target.namespace, target.name);
        let (mut current, mut is_live) = match cached {
            Some(object) => (Some(self.show_one(target.kind, object).await?), false),
            None => (self.fetch(target).await?, true),
        };
        for _ in 0..ATTEMPTS {
            let Some(old) = current else { return Err(target.not_found()) };
            match self.modify_once(call, write, &old, change).await {
                Ok(Attempt::Done(found)) => return Ok(found),
                Ok(Attempt::Lost(fresh)) => (current, is_live) = (fresh, true),
                // What the cache was wrong about may be what was refused.
                Err(error) if !is_live => {
                    let fresh = self.fetch(target).await?;
                    // It was not: nobody need be asked twice.
                    if fresh.as_ref().is_some_and(|fresh| fresh.revision == old.revision) {
                        return Err(error);
                    }
                    is_live = true;
                    current = fresh;
                }
                Err(error) => return Err(error),
            }
        }
        Err(ApiError::modified(&target.kind.gvr(), target.name))
    }

    async fn modify_once(&self, call: &Call, write: Write<'_>, old: &Found, change: Change<'_>) -> ApiResult<Attempt> {
        let Write { target, part, by_rules } = write;
        let kind = target.kind;
        let mut new = change(&old.value)?;
        value::set_type(&mut new, kind);
        let claims = if by_rules { self.apply_rules(call, target, part, &mut new, &old.value).await? } else { Claims::default() };
        let outcome = self.write_changed(call, target, old, new).await;
        let fate = match &outcome {
            Ok(Attempt::Done(_)) => Fate::Written,
            Ok(Attempt::Lost(_)) => Fate::Refused,
            Err(error) => Fate::of_error(error),
        };
        self.settle(claims, fate).await;
        outcome
    }

    /// The store transaction of a change.
    async fn write_changed(&self, call: &Call, target: Target<'_>, old: &Found, mut new: Value) -> ApiResult<Attempt> {
        let kind = target.kind;
        let is_same = rules::is_same(&new, &old.value) && !rules::is_released(kind, &new, &old.value);
        let is_stale = async || self.store.is_stale(&target.key()).await.map_err(|error| store_error(error, false));
        if is_same && !self.is_stored_otherwise(target).await? && (call.dry_run || !is_stale().await?) {
            // Nothing to write; but only the store knows whether this is still the state.
            return self.unchanged(call, target, old).await;
        }
        let gone = rules::is_released(kind, &new, &old.value);
        if call.dry_run {
            return self.unchanged(call, target, &Found { value: new, revision: old.revision }).await;
        }
        let key = target.key();
        let written = if gone {
            self.store.delete(&key, old.revision).await
        } else {
            self.store.put(&key, self.close(kind, &new).await?, old.revision, ttl(kind)).await
        };
        match written.map_err(|error| store_error(error, true))? {
            Written::Done(revision) => {
                tracing::debug!(key, revision, gone, user = call.caller.user, cause = call.cause, "changed");
                if gone {
                    self.release_all(target, &old.value).await;
                }
                envelope::set_revision(&mut new, revision);
                self.hear_definition(kind, revision).await;
                Ok(Attempt::Done(Found { value: new, revision }))
            }
            Written::Conflict(Some(entry)) => Ok(Attempt::Lost(Some(self.open(target.kind, &entry).await?))),
            Written::Conflict(None) => Ok(Attempt::Lost(None)),
        }
    }

    async fn apply_rules(
        &self,
        call: &Call,
        target: Target<'_>,
        part: Part<'_>,
        new: &mut Value,
        old: &Value,
    ) -> ApiResult<Claims> {
        let kind = target.kind;
        rules::stamp_changed(new, old);
        kind.default(new);
        kind.prepare_update(new, old, part);
        let subresource = part_name(part);
        let review = Review { call, target, operation: Operation::Update, subresource, old: Some(old) };
        admission::mutate(self, &review, new).await?;
        self.authorizer.check_grants(&review, new)?;
        self.track_managers(call, kind, new, Some(old), subresource)?;
        let claims = match part {
            Part::Main => self.allocate(call, target, new, Some(old)).await?,
            Part::Status | Part::Other(_) => Claims::default(),
        };
        match self.admit_changed(&review, part, new, old).await {
            Ok(()) => Ok(claims),
            Err(error) => {
                self.settle(claims, Fate::Refused).await;
                Err(error)
            }
        }
    }

    async fn admit_changed(&self, review: &Review<'_>, part: Part<'_>, new: &Value, old: &Value) -> ApiResult<()> {
        let Review { call, target, .. } = *review;
        let mut findings = rules::check_finalizers(new, old);
        findings.extend(target.kind.validate_update(new, old, part));
        if !findings.is_empty() {
            return Err(ApiError::invalid(&target.kind.gvk(), target.name, &findings));
        }
        target.kind.warnings(new).into_iter().for_each(|text| call.warn(text));
        admission::validate(self, review, new).await
    }

    /// A write that changes nothing: the state stands if the store still has this revision.
    async fn unchanged(&self, call: &Call, target: Target<'_>, found: &Found) -> ApiResult<Attempt> {
        let current = self.fetch(target).await?;
        match current {
            Some(current) if current.revision == found.revision => Ok(Attempt::Done(found.clone())),
            current if call.dry_run && current.is_none() => Err(target.not_found()),
            current => Ok(Attempt::Lost(current)),
        }
    }
}

enum Attempt {
    Done(Found),
    /// Somebody else wrote; how it is now.
    Lost(Option<Found>),
}
