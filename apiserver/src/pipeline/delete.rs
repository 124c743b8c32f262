//! Deleting objects, one or many.

use balsa_api::kind::Kind;
use balsa_api::status::{ApiError, ApiResult};
use serde_json::Value;

use super::graceful::{self, DeleteOptions, Outcome};
use super::list::{ListQuery, Listed};
use super::{Api, Call, Found, Target, store_error};
use crate::admission::{self, Operation, Review};
use crate::storage::{Written, envelope};

/// How often a delete is tried again after others wrote in between.
const ATTEMPTS: usize = 20;

/// What a delete came to.
#[derive(Debug)]
pub struct Deleted {
    /// The object as it is now or as it was last.
    pub found: Found,
    /// Whether it is gone from the store.
    pub gone: bool,
}

impl Api {
    /// Deletes one object.
    pub async fn delete(&self, call: &Call, target: Target<'_>, options: &DeleteOptions) -> ApiResult<Deleted> {
        let mut current = self.fetch(target).await?;
        for _ in 0..ATTEMPTS {
            let Some(old) = current else { return Err(target.not_found()) };
            options.preconditions.check(target, &old.value)?;
            let review = Review { call, target, operation: Operation::Delete, subresource: "", old: Some(&old.value) };
            admission::validate(self, &review, &old.value).await?;
            admission::hooks::delete(self, &review, &old.value, options).await?;
            let (mut new, gone) = match graceful::decide(target.kind, &old.value, options, call.now) {
                Outcome::Keep => return Ok(Deleted { found: old, gone: false }),
                Outcome::Remove(new) => (new, true),
                Outcome::Mark(new) => (new, false),
            };
            if call.dry_run || options.dry_run {
                return Ok(Deleted { found: Found { value: new, revision: old.revision }, gone });
            }
            match self.carry_out(target, &old, &new, gone).await? {
                Written::Done(revision) => {
                    if gone {
                        self.release_all(target, &old.value).await;
                    }
                    let (user, cause) = (&call.caller.user, &call.cause);
                    tracing::debug!(key = target.key(), revision, gone, user, cause, "deleted");
                    envelope::set_revision(&mut new, revision);
                    return Ok(Deleted { found: Found { value: new, revision }, gone });
                }
                Written::Conflict(Some(entry)) => current = Some(self.open(target.kind, &entry).await?),
                Written::Conflict(None) => current = None,
            }
        }
        Err(ApiError::modified(&target.kind.gvr(), target.name))
    }

    async fn carry_out(&self, target: Target<'_>, old: &Found, new: &Value, gone: bool) -> ApiResult<Written> {
        let key = target.key();
        if !gone {
            let ttl = super::create::ttl(target.kind);
            return self.store.put(&key, self.close(target.kind, new).await?, old.revision, ttl).await.map_err(|error| store_error(error, true));
        }
        self.store.delete(&key, old.revision).await.map_err(|error| store_error(error, true))
    }

    /// Deletes everything that a query selects. Returns what was selected.
    pub async fn delete_collection(
        &self,
        call: &Call,
        kind: &dyn Kind,
        query: &ListQuery,
        options: &DeleteOptions,
    ) -> ApiResult<Listed> {
        let listed = self.list(kind, query).await?;
        for object in &listed.items {
            let target = Target { kind, namespace: &object.namespace, name: &object.name };
            match self.delete(call, target, options).await {
                Err(error) if error.is_not_found() => {}
                outcome => drop(outcome?),
            }
        }
        Ok(listed)
    }
}
