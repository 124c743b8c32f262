//! Writes of ControllerRevisions on behalf of an owner. No policy.

use balsa_client::{Cause, DeleteOptions, Error, Object, Patch};
use k8s_openapi::api::apps::v1::ControllerRevision;

use super::Context;
use crate::common::history::{Write, name};

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is as it was asked for.
    Done,
    /// The name belongs to other data: another collision count makes another name.
    Collision,
}

/// Carries out one write.
pub async fn write<K: Object>(context: &Context, owner: &K, write: &Write, why: &Cause) -> Result<Outcome, Error> {
    let client = &context.client;
    let namespace = owner.metadata().namespace.as_deref().unwrap_or_default();
    match write {
        Write::Adopt { name, patch } => {
            let live: K = client.get(namespace, owner.metadata().name.as_deref().unwrap_or_default()).await?;
            if live.metadata().uid == owner.metadata().uid && live.metadata().deletion_timestamp.is_none() {
                client.patch::<ControllerRevision>(namespace, name, "", Patch::Merge(patch.clone()), why).await?;
            }
        }
        Write::Create(revision) => match client.create(namespace, &**revision, why).await {
            Err(error) if error.is_already_exists() => {
                let live: ControllerRevision = client.get(namespace, name(revision)).await?;
                return Ok(if live.data == revision.data { Outcome::Done } else { Outcome::Collision });
            }
            created => drop(created?),
        },
        Write::Renumber(revision) => drop(client.update(&**revision, why).await?),
        Write::Delete { name, uid } => {
            let options = DeleteOptions { uid: Some(uid.clone()), ..DeleteOptions::default() };
            match client.delete::<ControllerRevision>(namespace, name, options, why).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
    }
    Ok(Outcome::Done)
}
